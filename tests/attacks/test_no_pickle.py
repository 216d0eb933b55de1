"""Nothing in this package can load a pickle: no module for it is imported, and no call of a library that would."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PRODUCTION = [p for f in ("client", "server", "strategies", "compliance") for p in sorted((ROOT / f).rglob("*.py"))]
MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "multiprocessing"}
CALLS = {
    "torch.load", "torch.save", "np.load", "numpy.load", "np.save", "numpy.save", "pd.read_pickle",
    "pandas.read_pickle", "pd.read_hdf", "copyreg.pickle",
}  # fmt: skip


def found_in(source: str) -> list[str]:
    """Imports and calls in `source` that load or write pickles."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module] if node.module.split(".")[0] in MODULES else []
            found += [f"{node.module}.{a.name}" for a in node.names if f"{node.module}.{a.name}" in CALLS]
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if ast.unparse(node.keywords) == "allow_pickle=False" and name == "np.load":
                continue  # numpy then refuses arrays of objects
            found += [name] if name in CALLS or name.endswith(("to_pickle", "read_pickle")) else []
            found += [k.arg for k in node.keywords if k.arg in {"allow_pickle", "weights_only"}]
        elif isinstance(node, ast.Constant) and node.value in MODULES:
            found.append(f"the name {node.value}")
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from pickle import loads", "import torch\ntorch.load(f)", "np.load(f, allow_pickle=True)",
        "from torch import load", "frame.to_pickle(f)", "__import__('pickle')", "import multiprocessing.pool",
    ],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(source):
    assert found_in(source)


def test_no_module_loads_or_writes_a_pickle():
    assert len(PRODUCTION) > 100
    found = {p.relative_to(ROOT).as_posix(): found_in(p.read_text(encoding="utf-8")) for p in PRODUCTION}
    assert {name: calls for name, calls in found.items() if calls} == {}

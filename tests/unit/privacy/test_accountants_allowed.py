"""Gaussian DP is no upper bound (it gave less noise than PLD needs): nothing here may use it. Opacus: in tests only."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PRODUCT = sorted(
    [*(p for d in ("compliance", "strategies", "client", "server", "demo", "bench") for p in (ROOT / d).rglob("*.py")),
     ROOT / "residency.py"]
)  # fmt: skip


def _names(tree: ast.AST) -> Iterator[str]:
    """Whatever a program can call a module, a class, a function or an option by."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (f"{getattr(node, 'module', '') or ''}.{a.name}" for a in node.names)
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
            yield node.value


def forbidden(source: str) -> list[str]:
    """Names in `source` that mean Gaussian DP: Opacus' gdp module, its GaussianAccountant, accountant="gdp"."""
    return [
        n
        for n in _names(ast.parse(source))
        if "gdp" in n.lower().split(".") or n.rsplit(".", 1)[-1] in {"GaussianAccountant", "create_accountant"}
        or any(part.startswith(("gdp_", "compute_mu", "compute_eps_uniform", "compute_eps_poisson"))
               for part in n.split("."))
    ]  # fmt: skip


@pytest.mark.parametrize("path", PRODUCT, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_uses_gaussian_dp(path: Path) -> None:
    assert forbidden(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "from opacus.accountants import GaussianAccountant",
        "from opacus.accountants.gdp import GaussianAccountant as A",
        "import opacus.accountants.analysis.gdp",
        "from opacus.accountants.analysis import gdp as x",
        "engine = PrivacyEngine(accountant='gdp')",
        "create_accountant(mechanism=name)",
        "f = gdp_accountant.compute_mu_poisson",
    ],
)
def test_each_way_to_use_it_would_be_seen(source: str) -> None:
    assert forbidden(source)


def test_only_tests_account_with_opacus() -> None:
    for path in PRODUCT:
        if path.parts[-2] == "bench" or "demo" in path.parts:  # they measure others as others publish themselves
            continue
        found = [n for n in _names(ast.parse(path.read_text(encoding="utf-8"))) if "opacus.accountants" in n]
        assert not found, path


def test_accounting_a_study_loads_no_gaussian_dp() -> None:
    code = """
import sys
from compliance.privacy.accounting import calibrate, epsilon, epsilon_rdp
from compliance.privacy.events import PrivacyEvent
e = PrivacyEvent(noise_multiplier_micro=2_000_000, sample_numerator=1, sample_denominator=10, steps=5, unit="patient")
epsilon([e], 10**5), epsilon_rdp([e], 10**5), calibrate(2000, 10**5, 1, 10, 5)
sys.exit(any("gdp" in m.rsplit(".", 1)[-1] or m.startswith("opacus") for m in sys.modules))
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0

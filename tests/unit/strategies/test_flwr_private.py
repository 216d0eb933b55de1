"""Fails loudly when Flower changes under us: each private name and each signature is looked up in the installed one."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from compliance.errors import EnvironmentFault
from strategies import flwr_private

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("role", sorted(flwr_private.NAMES))
def test_every_private_name_is_there_with_its_signature(role):
    names = getattr(flwr_private, role)()
    assert sorted(vars(names)) == sorted(flwr_private.NAMES[role])


def test_each_signature_belongs_to_a_listed_name():
    for path in flwr_private.SIGNATURES:
        role, name = path.split(".")[:2]
        assert name in flwr_private.NAMES[role]


def test_a_renamed_parameter_stops_the_process():
    def build(files, extra):
        return files, extra

    names = SimpleNamespace(build=build)
    with pytest.raises(EnvironmentFault) as e:
        flwr_private.check_signature("x.build", names, ("files",))
    assert (e.value.code, e.value.found, e.value.limit) == ("RSD-7103", "files, extra", "files")
    with pytest.raises(EnvironmentFault):
        flwr_private.check_signature("x.gone", names, ())


def test_a_missing_name_and_another_version_stop_the_process(monkeypatch):
    monkeypatch.setitem(flwr_private.NAMES, "gone", {"NoSuchName": "flwr.app"})
    with pytest.raises(EnvironmentFault) as e:
        flwr_private._load("gone")
    assert e.value.code == "RSD-7103"
    monkeypatch.setattr(flwr_private, "FLOWER_VERSION", "9.9")
    with pytest.raises(EnvironmentFault) as e:
        flwr_private._load("other")
    assert e.value.code == "RSD-7102"


@pytest.mark.parametrize(
    ("role", "forbidden"),
    [("fleet", ("flwr.superlink", "uvicorn", "sqlalchemy", "torch")), ("control", ("flwr.supernode", "torch"))],
)
def test_a_site_loads_no_server_code_and_the_other_way_round(role, forbidden):
    code = f"from strategies import flwr_private as p; import sys; p.{role}(); print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = [m for m in out.stdout.split() if any(m == f or m.startswith(f"{f}.") for f in forbidden)]
    assert loaded == []


def test_private_names_are_imported_in_one_module_only():
    public = ("flwr.app", "flwr.clientapp", "flwr.serverapp")
    for folder in ("client", "server", "strategies", "compliance"):
        for path in (ROOT / folder).rglob("*.py"):
            for line in path.read_text().splitlines():
                words = line.split()
                if len(words) > 1 and words[0] in {"from", "import"} and words[1].split(".")[0] == "flwr":
                    assert words[1] in public, f"{path}: {line}"

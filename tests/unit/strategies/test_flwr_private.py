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


def test_flowers_log_lines_have_no_colours_in_a_file():
    code = "import logging, strategies.flwr_private as p; p.plain_console(); logging.getLogger('flwr').error('x')"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stderr.split() == ["ERROR", ":", "x"]


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


# What Flower 1.41.0 puts around every call, outermost first, as it was read and judged for the lean stacks.
KNOWN = (
    "ControlSensitiveResponseMiddleware",
    "http_error_translator",
    "ControlAuthenticationMiddleware",
    "ControlLicenseMiddleware",
    "ProtobufTranslationMiddleware",
    "RuntimeTracingMiddleware",
    "ControlEventLogMiddleware",
    "NodeAuthMiddleware",
    "FleetEventLogMiddleware",
)


def middleware(app):
    return [flwr_private._middleware_name(m) for m in app.user_middleware]


def around(stack):
    """The names of what is around the routes, outermost first."""
    names = []
    while hasattr(stack, "app"):
        names.append(getattr(getattr(stack, "dispatch_func", None), "__name__", "") or type(stack).__name__)
        names[-1] = type(stack).__name__ if names[-1] == "dispatch" else names[-1]
        stack = stack.app
    return [n for n in names if n in KNOWN]


def test_flowers_middleware_is_the_list_that_was_judged():
    app = flwr_private.superlink().create_app()
    assert tuple(middleware(app)) == KNOWN == flwr_private.MIDDLEWARE


def test_a_stack_holds_what_is_needed_in_flowers_order_and_leaves_the_application_whole():
    app = flwr_private.superlink().create_app()
    needed = frozenset({"NodeAuthMiddleware", "http_error_translator", "ProtobufTranslationMiddleware"})
    assert around(flwr_private.stack(app, needed)) == [n for n in KNOWN if n in needed]
    assert tuple(middleware(app)) == KNOWN
    assert around(app.build_middleware_stack()) == list(KNOWN)


@pytest.mark.parametrize("change", ["one more", "one less", "another order"])
def test_other_middleware_stops_the_process(change):
    app = flwr_private.superlink().create_app()
    if change == "one more":
        app.user_middleware.append(app.user_middleware[-1])
    elif change == "one less":
        app.user_middleware.pop()
    else:
        app.user_middleware.reverse()
    with pytest.raises(EnvironmentFault) as e:
        flwr_private.stack(app, frozenset(KNOWN))
    assert e.value.code == "RSD-7103"


def test_the_grid_looks_again_at_once_and_as_long_as_flower_would():
    code = """
import inspect
from strategies import flwr_private as p
pull = p.grid().pull_objects
default = {n: v.default for n, v in inspect.signature(pull).parameters.items()}
p.hasten_pulls(); p.hasten_pulls()
from flwr.superlink.grid import http_grid
assert http_grid.HttpGrid.pull_messages.__globals__["pull_objects"] is http_grid.pull_objects
told = http_grid.pull_objects.keywords
assert http_grid.pull_objects.func is pull
assert told["initial_backoff"] < default["initial_backoff"] and told["backoff_cap"] < default["backoff_cap"]
assert told["max_tries_per_object"] * told["backoff_cap"] >= default["max_tries_per_object"] * default["backoff_cap"]
assert "pull_objects" in http_grid.HttpGrid.pull_messages.__code__.co_names
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)

"""`residency key`, `residency explain`, and what the top command costs to start."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from compliance.codes_index import index
from tests.desk import day, ok, policy_raw, refused, run, write_yaml

ROOT = Path(__file__).parents[2]
_CODE = re.compile(r"RSD-[0-9]{4}")


def test_new_and_show(tmp_path: Path) -> None:
    made = ok("key", "new", "--role", "signatory", "--holder", "berlin", "--out", tmp_path)
    assert (tmp_path / "signatory.key").stat().st_mode & 0o777 == 0o600
    for name in ("signatory.key", "signatory.pub.json"):
        shown = ok("key", "show", tmp_path / name)
        assert shown["keyid"] == made["keyid"]
        assert "private" not in json.dumps(shown).lower()
    assert "PRIVATE" not in run("key", "show", tmp_path / "signatory.key").output


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620])
def test_a_key_that_others_may_read_signs_nothing(tmp_path: Path, mode: int) -> None:
    ok("key", "new", "--role", "signatory", "--holder", "berlin", "--out", tmp_path)
    key, out = tmp_path / "signatory.key", tmp_path / "signed.json"
    write_yaml(tmp_path / "policy.yaml", policy_raw(issued=day(0)))
    sign = ("policy", "sign", tmp_path / "policy.yaml", "--key", key, "--without-advice", "none", "--out", out)
    key.chmod(mode)
    error = refused(3, "RSD-6022", *sign)
    assert (error["found"], error["limit"]) == (f"mode {mode:04o}", "mode 0600")
    assert f"chmod 600 {key}" in error["next"]
    assert not out.exists()
    key.chmod(0o400)
    ok(*sign)


def test_new_never_overwrites(tmp_path: Path) -> None:
    ok("key", "new", "--role", "dpo", "--holder", "berlin", "--out", tmp_path)
    before = (tmp_path / "dpo.key").read_bytes()
    refused(3, "RSD-6004", "key", "new", "--role", "dpo", "--holder", "berlin", "--out", tmp_path)
    assert (tmp_path / "dpo.key").read_bytes() == before


@pytest.mark.parametrize("role", ["signatory", "dpo"])
@pytest.mark.parametrize("below", [".", "keys", "a/b/c"])
def test_people_never_get_keys_on_the_agents_host(tmp_path: Path, role: str, below: str) -> None:
    home = tmp_path / "agent"
    home.mkdir()
    (home / "agent.json").write_text("{}")
    (tmp_path / "link").symlink_to(home)
    for start in (home, tmp_path / "link"):
        error = refused(4, "RSD-6007", "key", "new", "--role", role, "--holder", "berlin", "--out", start / below)
        assert str(home) in error["limit"]
    assert not list(home.rglob("*.key"))
    ok("key", "new", "--role", "agent", "--holder", "berlin", "--out", home / below)


def test_malformed_arguments_leave_nothing(tmp_path: Path) -> None:
    refused(3, "RSD-6003", "key", "new", "--role", "dpo", "--holder", "Berlin!", "--out", tmp_path / "x")
    for args in (["--role", "king"], ["--role", "dpo", "--days", "0"], []):
        assert run("key", "new", *args, "--holder", "b", "--out", tmp_path / "x").exit_code == 2
    assert not (tmp_path / "x").exists()


def test_show_refuses_what_is_no_key(tmp_path: Path) -> None:
    refused(3, "RSD-2005", "key", "show", tmp_path / "none.pub.json")
    (tmp_path / "x.pub.json").write_text("{}")
    refused(3, "RSD-6003", "key", "show", tmp_path / "x.pub.json")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(7, "RSD-7001", "key", "new", "--role", "dpo", "--holder", "b", "--out", tmp_path / "file" / "below")


def test_explain_one_all_and_none() -> None:
    found = ok("explain", "rsd-2101")
    assert (found["code"], found["area"]) == ("RSD-2101", "study")
    assert "next: " in run("explain", "RSD-2101").output
    assert len(ok("explain")["codes"]) == len(index())
    refused(2, "RSD-2010", "explain", "RSD-0000")


def _used() -> dict[str, set[str]]:
    """Each code in the source with the files that name it; the index itself does not count."""
    found: dict[str, set[str]] = {}
    for folder in ("compliance", "strategies", "client", "server", "demo", "bench"):
        for path in (ROOT / folder).rglob("*.py"):
            for code in _CODE.findall(path.read_text(encoding="utf-8")):
                found.setdefault(code, set()).add(str(path.relative_to(ROOT)))
    for code in _CODE.findall((ROOT / "residency.py").read_text(encoding="utf-8")):
        found.setdefault(code, set()).add("residency.py")
    return found


def test_every_code_in_the_source_is_explained() -> None:
    missing = {code: sorted(files) for code, files in _used().items() if code not in index()}
    assert not missing


def test_every_explained_code_is_used() -> None:
    unused = sorted(set(index()) - set(_used()))
    assert not unused


def test_help_is_fast_and_loads_neither_torch_nor_flwr() -> None:
    program = (
        "import sys, time; start = time.perf_counter(); import residency\n"
        "try: residency.cli.main(['--help'], standalone_mode=False)\n"
        "finally: heavy = {'torch', 'flwr', 'dp_accounting', 'cedarpy', 'numpy'} & set(sys.modules)\n"
        "print(heavy or 'light', file=sys.stderr)"
    )
    best = 60.0
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
        best = min(best, time.perf_counter() - start)
        assert done.stderr.strip() == "light"
    assert "consortium" in done.stdout
    assert best < 0.5


@pytest.mark.parametrize("group", ["key", "consortium", "study", "policy", "explain"])
def test_groups_load_neither_torch_nor_flwr_nor_the_accounting(group: str) -> None:
    program = (
        f"import sys, residency; residency.cli.main(['{group}', '--help'], standalone_mode=False)\n"
        "print({'torch', 'flwr', 'dp_accounting', 'cedarpy'} & set(sys.modules) or 'light', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "light"


def test_every_command_and_group_has_an_example_and_every_command_json() -> None:
    from residency import cli

    seen = list(_tree(cli, ()))
    assert len(seen) > 80
    for words, found in seen:
        assert (found.help or "").count("Example: residency ") == 1, words
        if not isinstance(found, click.Group) and words != ("run", "watch"):  # all that it prints is JSON
            assert any("--json" in p.opts for p in found.params), words


def _tree(found: click.Command, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield words, found
    if isinstance(found, click.Group):
        context = click.Context(found)
        for name in found.list_commands(context):
            below = found.get_command(context, name)
            assert below is not None
            yield from _tree(below, (*words, name))

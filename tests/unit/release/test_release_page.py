"""docs/bundle.md: every command on the page is run on a bundle, and every file of a bundle is on the page."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

import pytest
from click.testing import CliRunner
from model_signing._cli import main as model_signing

from compliance.canonical import sha256_hex
from compliance.release.model_signature import KEY_FILE
from residency import cli
from tests.world import AT, world

PAGE = (Path(__file__).parents[3] / "docs" / "bundle.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ (.+)$", PAGE, re.MULTILINE)
PROGRAMS = {"residency": cli, "model_signing": model_signing}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle and the trust file, as an auditor has them."""
    folder = tmp_path_factory.mktemp("auditor")
    for path, data in world().bundle.items():
        (folder / "bundle" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "bundle" / path).write_bytes(data)
    (folder / "trust.json").write_bytes(world().trust)
    return folder


def _words(command: str) -> Sequence[str]:
    """The page's command, of a site of this bundle and as of its day."""
    words = shlex.split(command.replace("berlin", "site-a"))
    if words[:2] == ["residency", "verify"]:
        words = [*words[: words.index("--at")], *words[words.index("--at") + 2 :]] if "--at" in words else words
        words += ["--at", AT.strftime("%Y-%m-%dT%H:%M:%SZ")]
    return words


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.split()[0] in PROGRAMS])
def test_the_commands_of_the_page_succeed(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    program, *rest = _words(command)
    done = CliRunner().invoke(PROGRAMS[program], rest)
    assert done.exit_code == 0, done.output


def test_the_digest_of_the_model_key_is_what_verify_prints(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [c for c in COMMANDS if c.split()[0] not in PROGRAMS] == [f"sha256sum bundle/{KEY_FILE}"]
    monkeypatch.chdir(folder)
    verify = next(c for c in COMMANDS if c.endswith("--json"))
    shown = json.loads(CliRunner().invoke(cli, _words(verify)[1:]).stdout)
    assert shown["model_key"] == sha256_hex((folder / "bundle" / KEY_FILE).read_bytes())


def test_every_file_of_a_bundle_stands_in_the_table() -> None:
    named = [name for row in re.findall(r"^\| (`.+?) \|", PAGE, re.MULTILINE) for name in re.findall(r"`(.+?)`", row)]
    patterns = [f"{name}*" if name.endswith("/") else name for name in named]
    assert [p for p in world().bundle if not any(fnmatch(p, pattern) for pattern in patterns)] == []


def test_show_names_what_is_there_for_other_tools(folder: Path) -> None:
    done = CliRunner().invoke(cli, ["release", "show", str(folder / "bundle")])
    assert "for other tools: bom.cdx.json, model/model.sig, 3 in-toto statements, 14 proofs of entries" in done.output
    shown = json.loads(CliRunner().invoke(cli, ["release", "show", str(folder / "bundle"), "--json"]).stdout)
    assert KEY_FILE in shown["for_other_tools"]
    assert len(shown["for_other_tools"]) == 3 + 1 + 1 + 1 + 14

"""docs/auditor.md from its first command to its last, in one folder, as an auditor types it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from compliance import clock
from compliance.clock import rfc3339
from compliance.identity import save_signer
from compliance.law import proofs, timing
from compliance.release.bundle_folder import write_folder
from residency import cli
from tests.world import AT, ORDINARY, WITNESS, World, _members, give_back, stopped_clock
from tests.world_run import Run

PAGE = Path(__file__).parents[2] / "docs" / "auditor.md"
# What the page calls these members.
NAMES = {"berlin": "site-a", "lyon": "site-b"}
# Two commands run until they are stopped; tests/browser and tests/unit/log/test_log_witness_door.py start them.
HANDED = (".adoption.json", "-held-by-lyon.txt")  # files under the names of the page
RUN_ON = ("audit serve", "log witness serve")


def typed() -> list[list[str]]:
    """The residency commands of the page, in order, continued lines joined."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        lines = block.replace("\\\n", " ").splitlines()
        found += [shlex.split(line.removeprefix("$ residency ")) for line in lines if line.startswith("$ residency ")]
    return found


@pytest.fixture(autouse=True)
def day_of_the_world() -> Iterator[None]:
    """Commands judge as of the day after the run, whenever this test is run."""
    real = clock.now

    def now() -> datetime:
        return AT

    give_back(real, now)
    yield
    give_back(now, real)


def _played(folder: Path) -> World:
    """The synthetic world, with the files of its logs in `folder`."""
    folder.mkdir()
    with stopped_clock(), ExitStack() as stack:
        made = _members(ORDINARY)
        Run(made, ORDINARY, folder, stack).play()
    return made


@pytest.fixture(scope="module")
def handed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the auditor was handed: bundle, trust file, log, held checkpoint, adoption, export, older packs."""
    folder = tmp_path_factory.mktemp("auditor")
    made, desk = _played(folder / "members"), folder / "desk"
    desk.mkdir()
    write_folder(desk / "bundle", made.bundle, lambda _: None)
    (desk / "trust.json").write_bytes(made.trust)
    (desk / "berlin.checkpoint-held-by-lyon.txt").write_text(made.held["site-a"][-1], "utf-8")
    shutil.copy(desk / "bundle" / "law" / "site-a.adoption.json", desk / "berlin.adoption.json")
    (desk / "older").mkdir()
    shutil.copy(next((desk / "bundle" / "packs").glob("eu*.yaml")), desk / "older" / "eu.yaml")
    shutil.copy(folder / "members" / "site-a.db", desk / "log.db")
    (desk / "site").mkdir()  # what a site engineer's folder looks like
    shutil.copy(desk / "log.db", desk / "site" / "log.db")
    key = save_signer(made.keys["site-a", "agent"], folder / "keys")[0]
    ran = _run(["log", "export", str(desk / "log.db"), "--key", str(key), "--out", str(desk / "site-a-export")])
    assert ran.exit_code == 0, ran.output
    save_signer(made.keys[WITNESS, "witness"], folder / "admitted")
    return folder


@pytest.fixture
def desk(handed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The auditor's folder, the same for each test."""
    monkeypatch.chdir(shutil.copytree(handed / "desk", tmp_path / "desk"))
    return handed


def _run(words: list[str]) -> Result:
    return CliRunner().invoke(cli, words)


def _meant(words: list[str], study: str, denial: int) -> list[str]:
    """What the page says, in the names of this world."""
    out = list(words)
    for said, name in NAMES.items():
        out = [word if word.endswith(HANDED) else re.sub(rf"\b{said}\b", name, word) for word in out]
    for flag, value in (("--study", study), ("--entry", str(denial))):
        if flag in out:
            out[out.index(flag) + 1] = value
    if out[0] == "verify" and "--at" not in out:
        out += ["--at", rfc3339(AT)]
    return out


@pytest.fixture
def short_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """`law check` proves the first statement and times few decisions; tests/unit/law has it do all of its work."""
    monkeypatch.setattr(proofs, "STATEMENTS", dict(list(proofs.STATEMENTS.items())[:1]))
    monkeypatch.setattr(timing, "SAMPLES", 50)


@pytest.mark.usefixtures("short_check")
def test_every_command_of_the_page_does_what_it_says(desk: Path) -> None:
    listed = json.loads(_run(["audit", "explain", "bundle", "--log", "site-a", "--json"]).stdout)
    study = json.loads(_run(["release", "show", "bundle", "--json"]).stdout)["study"]
    denial = int(listed["denials"][0]["entry"])
    walked, wrong = [], {}
    for words in typed():
        line = " ".join(words)
        if line.startswith(RUN_ON):
            continue
        ran = _run(_meant(words, study, denial))
        walked.append(line)
        if line.startswith("log witness init"):  # the consortium admits the witness: here, the one that it has
            shutil.copytree(desk / "admitted", "witness", dirs_exist_ok=True)
        if ran.exit_code != 0 or (ran.exception and not isinstance(ran.exception, SystemExit)):
            wrong[line] = f"exit {ran.exit_code}: {ran.output[-500:]} {ran.exception!r}"
    assert not wrong, "\n".join(f"{line}: {why}" for line, why in wrong.items())
    assert len(walked) >= 20


def test_the_walk_ends_with_a_verified_release_and_a_replayed_denial(desk: Path) -> None:
    del desk
    verified = _run(["verify", "bundle", "--trust", "trust.json", "--at", rfc3339(AT)])
    assert verified.output.rstrip().endswith("verified: bundle")
    listed = json.loads(_run(["audit", "explain", "bundle", "--log", "site-a", "--json"]).stdout)
    entry = str(listed["denials"][0]["entry"])
    told = json.loads(_run(["audit", "explain", "bundle", "--log", "site-a", "--entry", entry, "--json"]).stdout)
    assert (told["again"], told["decision"]["allow"]) == ("same", False)
    assert told["decision"]["law"]

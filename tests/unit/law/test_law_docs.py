"""docs/law.md shows what the commands print, and the picture beside it is what they draw.

After a change of a pack: `make law-docs` writes both again; read the difference before you keep it.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from compliance import clock
from compliance.law.decide import Engine
from compliance.law.law_adoption import draft_law_set
from compliance.law.pack import builtin_packs
from compliance.law.regions import load_regions
from compliance.log.store import LogStore
from compliance.release.bodies import decision_body
from compliance.study import Study
from compliance.study_file import check_file
from compliance.study_transfer import parties, transfer_of
from residency import cli

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "law.md"
PICTURE = ROOT / "docs" / "law-matrix.svg"
AT = "2026-11-22T12:00:00Z"
PLACES = ("ireland", "singapore")
_BLOCK = re.compile(r"(<!-- real-output -->\n```console\n)(.*?)(^```$)", re.MULTILINE | re.DOTALL)
_WRITE = "RESIDENCY_WRITE_DOCS"


@pytest.fixture(scope="module")
def studies() -> dict[str, Study]:
    found = {place: check_file(ROOT / "examples" / "two-places" / f"{place}.yaml") for place in PLACES}
    assert [mistakes for mistakes, _ in found.values()] == [[], []]
    return {place: study for place, (_, study) in found.items() if study is not None}


@pytest.fixture
def workplace(tmp_path: Path, studies: dict[str, Study], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the example studies, and the log of the agent in Berlin that decided on both."""
    monkeypatch.setattr(clock, "now", lambda: clock.parse_time(AT))
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (tmp_path / "berlin").mkdir()
    with LogStore.open(tmp_path / "berlin" / "log.db", "berlin/log", Ed25519PrivateKey.generate()) as log:
        for study in studies.values():
            decision = _engine().decide(_update(study))
            log.append("decision", decision_body(decision, 1, study.operator.name), "ab" * 32)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _engine() -> Engine:
    packs, regions = builtin_packs(), load_regions()
    return Engine.of(draft_law_set("berlin", "DE", packs, regions, {}), packs, regions)


def _update(study: Study):
    known = parties(study)
    return transfer_of(study, "ab" * 32, "berlin", "dp_update", known["hub"], (known["lyon"],), at=AT)


def _run(line: str) -> str:
    done = CliRunner().invoke(cli, shlex.split(line)[1:])
    assert done.exit_code == 0, done.output
    return done.output


def _block(text: str) -> str:
    """The block with the real output after each prompt."""
    prompts = re.findall(r"^\$ ((?:.*\\\n)*.*)$", text, re.MULTILINE)
    return "".join(f"$ {prompt}\n{_run(prompt.replace(chr(92) + chr(10), ' '))}" for prompt in prompts)


def test_the_page_shows_what_the_commands_print(workplace: Path) -> None:
    del workplace
    text = PAGE.read_text(encoding="utf-8")
    assert len(_BLOCK.findall(text)) >= 3
    real = _BLOCK.sub(lambda m: m[1] + _block(m[2]) + m[3], text)
    if os.environ.get(_WRITE):
        PAGE.write_text(real, encoding="utf-8")
    assert real == PAGE.read_text(encoding="utf-8"), f"{PAGE.name} is out of date: make law-docs"


def test_the_picture_is_what_the_command_draws(tmp_path: Path) -> None:
    (line,) = re.findall(
        r"^\$ (residency law matrix .*law-matrix\.svg)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    _run(line.replace("docs/law-matrix.svg", str(tmp_path / "new.svg")))
    if os.environ.get(_WRITE):
        shutil.copy(tmp_path / "new.svg", PICTURE)
    assert (tmp_path / "new.svg").read_bytes() == PICTURE.read_bytes(), "out of date: make law-docs"


def test_the_example_studies_differ_in_the_place_alone() -> None:
    one, two = ((ROOT / "examples" / "two-places" / f"{place}.yaml").read_text().splitlines() for place in PLACES)
    differing = [(a, b) for a, b in zip(one, two, strict=True) if a != b]
    assert [a.split(":")[0] for a, _ in differing] == ["# The server stands in Ireland", "name", "operator"]


def test_the_same_update_is_allowed_to_one_place_and_refused_to_the_other(studies: dict[str, Study]) -> None:
    here, there = (_engine().decide(_update(studies[place])) for place in PLACES)
    assert (here.allow, here.rule) == (True, "eu.update.within")
    assert (there.allow, there.rule) == (False, "eu.no-basis")
    same = here.transfer.model_copy(update={"recipient": there.transfer.recipient})
    assert same == there.transfer

"""No slip in a pack or in the shared code lets out what the reference cases deny without being noticed.

A sample here, everything by `make law-mutations`.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from compliance.law.cases import CaseFile, load_folder
from compliance.law.pack import Pack
from compliance.law.proof_regions import differences
from compliance.law.proofs import only_by, proofs
from compliance.law.regions import load_regions
from tests.law_pack_mutants import PACKS, mutants, noticed, sample
from tests.law_region_mutants import region_mutants

# Changes of a rule by which more leaves, which no case and no statement sees but the adopted digest: each by name, with
# the reason why nobody need see it.
ONLY_THE_DIGEST: dict[str, str] = {}
ROOT = Path(__file__).parents[2]
SILENT = {"plain", "law", "source", "source_kind", "url", "retention", "confidence"}  # no evaluator reads them
FILES = {file.pack: file for file in load_folder()}


def _cases(pack: Pack) -> tuple[CaseFile, ...]:
    return (FILES[pack.id],)


def _code(first: int, step: int) -> list[dict[str, str]]:
    program = [sys.executable, str(ROOT / "tests" / "law_code_mutants.py"), str(first), str(step)]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_field_of_a_rule_dropped_flipped_or_misspelt_is_noticed():
    found = Counter(noticed(one, _cases(one.pack))[0].split()[0] for one in sample(7, 54))
    assert found["UNNOTICED:"] == 0
    assert found["refused"] > 5
    assert found["case"] > 0


def test_a_change_by_which_more_leaves_is_seen_by_a_case_or_a_statement():
    """One change of each full regime; all by `make law-mutations`."""
    rng, tried = random.Random(3), 0  # noqa: S311 - which are tried
    full = [pack for pack in PACKS.values() if pack.kind == "full"]
    for pack in full:
        looser = [m for m in mutants(pack) if m.field in {"requires", "house", "unless"} and "dropped" in m.how]
        for mutant in rng.sample(looser, 1):
            outcome, changed = noticed(mutant, _cases(pack))
            if changed is not None and outcome == "digest" and only_by(changed, pack, load_regions()):
                tried += 1
                assert not _proved(changed) or mutant.told in ONLY_THE_DIGEST
    assert tried > 0


def test_an_engine_that_does_not_compare_digests_would_be_noticed(monkeypatch):
    monkeypatch.setattr("compliance.law.decide._first_broken", lambda *_: None)
    pack = PACKS["eu"]
    harmless = next(m for m in mutants(pack) if "eu.no-basis.source misspelt:" in m.told)
    assert noticed(harmless, _cases(pack))[0].startswith("UNNOTICED")


def test_a_slip_in_the_shared_code_is_noticed():
    rows = _code(5, 110)
    assert len(rows) >= 3
    assert rows[0]["allowed"] > 50
    assert [row for row in rows if row["outcome"].startswith("UNNOTICED")] == []


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_every_field_of_every_rule(capsys):
    seen, looser, survived = Counter[str](), Counter[str](), []
    for pack in PACKS.values():
        for mutant in mutants(pack):
            outcome, changed = noticed(mutant, _cases(pack))
            seen[outcome.split()[0]] += 1
            if changed is not None and mutant.field not in SILENT and only_by(changed, pack, load_regions()):
                by = "proof" if outcome == "digest" and not _proved(changed) else outcome.split()[0]
                looser[by] += 1
                survived += [mutant.told] if by == "digest" else []
    with capsys.disabled():
        told = "\n  ".join(survived)
        print(f"\npacks: {dict(seen)}; of those that allow more: {dict(looser)}; seen by no case or proof:\n  {told}")  # noqa: T201
    assert seen["UNNOTICED:"] == 0
    assert sorted(survived) == sorted(ONLY_THE_DIGEST)


def _proved(changed: Pack) -> bool:
    """Whether every statement still holds for the packs that bind the same countries."""
    near = {i: p for i, p in PACKS.items() if set(p.jurisdictions) & set(changed.jurisdictions)}
    return all(proof.proved for proof in proofs({**near, changed.id: changed}, load_regions()))


@pytest.mark.slow
def test_every_slip_in_the_region_sets():
    loaded = [(mutant.told, mutant.load()) for mutant in region_mutants()]
    assert [told for told, regions in loaded if regions is not None and not any(differences(regions))] == []
    assert sum(regions is not None for _, regions in loaded) > 300


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_slip_in_the_shared_code(capsys):
    rows = _code(0, 1)
    with capsys.disabled():
        print(f"\ncode: {Counter(row['outcome'].split()[0].rstrip(':') for row in rows)}")  # noqa: T201
    assert [row for row in rows if row["outcome"].startswith("UNNOTICED")] == []

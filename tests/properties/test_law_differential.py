"""Both evaluators say the same of whatever a pack may say: few cases here, very many by `make law-differential`."""

from __future__ import annotations

import time

import pytest

from compliance.law import cedar_eval
from tests.law_differential import compare


def test_the_evaluators_agree_on_changed_packs():
    tally = compare(2_000, seed=20261122)
    assert tally.differ == []
    assert tally.packs >= 30
    assert min(tally.verdicts["allow"], tally.verdicts["deny"]) >= 100


def test_a_slip_in_one_evaluator_is_seen(monkeypatch):
    monkeypatch.setattr(cedar_eval, "_limits", lambda *_: [])
    assert compare(500, seed=1).differ


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_evaluators_agree_on_very_many(capsys):
    seed = time.time_ns() % 2**32
    tally = compare(100_000, seed)
    with capsys.disabled():
        told = f"{tally.legs} cases over {tally.packs} changed packs, {dict(tally.verdicts)}"
        print(f"\nseed {seed}: {told}, {len(tally.differ)} disagreements")  # noqa: T201
    assert tally.differ[:3] == []

"""What a study may say of its evaluation, and that its noise is paid from the same eps as the rounds."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from client.admission import Case
from client.budget import check_terms
from compliance.errors import InputError, Refused
from compliance.privacy.accounting import epsilon
from compliance.privacy.events import PrivacyEvent
from compliance.privacy.ledger import Ledger
from compliance.study import Study, study_mistakes
from compliance.study_desk import check_noise
from compliance.study_event import also_done, study_event
from compliance.study_file import noise_for
from compliance.validation import load_model
from tests.world_plan import study_json

TERMS = {"noise_multiplier_micro": 2_000_000, "bins": 10}


def _study(**changes: Any) -> Study:
    return load_model(Study, {**study_json(), **changes}, "RSD-2007", "study")


def _fields(raw: dict[str, Any]) -> list[str]:
    return [m.field for m in study_mistakes(raw)]


def test_without_a_word_there_is_no_evaluation() -> None:
    assert _study().evaluation is None
    assert also_done(_study()) == ()


@pytest.mark.parametrize("bins", [None, 3, 1, 101])
def test_two_classes_need_an_even_number_of_bins(bins: int | None) -> None:
    raw = {**study_json(), "evaluation": {**TERMS, "bins": bins}}
    with pytest.raises(InputError, match="RSD-2007"):
        load_model(Study, raw, "RSD-2007", "study")


def test_more_classes_have_no_bins() -> None:
    task = {**study_json()["task"], "labels": ["ill", "well", "other"]}
    raw = {**study_json(), "task": task, "evaluation": TERMS}
    assert "evaluation.bins" in _fields(raw)
    assert _fields({**raw, "evaluation": {"noise_multiplier_micro": 2_000_000}}) == []


@pytest.mark.parametrize("kind", ["token_classification", "causal_lm"])
def test_a_task_without_one_class_a_record_has_no_evaluation(kind: str) -> None:
    task = {**study_json()["task"], "kind": kind}
    if kind == "causal_lm":
        del task["labels"]
    assert "evaluation" in _fields({**study_json(), "task": task, "evaluation": TERMS})


@pytest.mark.parametrize("noise", [0, 199_999, 100_000_001])
def test_the_noise_has_the_bounds_of_every_event(noise: int) -> None:
    with pytest.raises(InputError, match="RSD-2007"):
        _study(evaluation={**TERMS, "noise_multiplier_micro": noise})


def test_the_operators_calibration_leaves_room_for_the_evaluation() -> None:
    plain, asked = _study(), _study(evaluation=TERMS)
    terms = asked.sites[0].model_copy(update={"epsilon_milli": 4000})
    without, noise = noise_for(plain, terms), noise_for(asked, terms)
    assert noise > without
    for enough, found in ((True, noise), (False, without)):
        site = terms.model_copy(update={"noise_multiplier_micro": found})
        whole = [study_event(asked, site, asked.charged_rounds), *also_done(asked)]
        assert (epsilon(whole, asked.privacy.inverse_delta) <= 4000) == enough
        if enough:
            check_noise(asked, site)
        else:
            case = cast("Case", SimpleNamespace(study=asked, terms=site, event=partial(study_event, asked, site)))
            for check in (lambda s=site: check_noise(asked, s), lambda c=case: check_terms(c)):
                with pytest.raises(Refused, match="RSD-4005"):
                    check()
    least = terms.model_copy(update={"noise_multiplier_micro": noise - 10 ** (len(str(noise)) - 4)})
    with pytest.raises(Refused, match="RSD-4005"):  # four digits less: no room
        check_noise(asked, least)


# --- the ledger: what a study does beside its rounds ------------------------------------------------------------------


def _event(noise: int, steps: int, **more: Any) -> PrivacyEvent:
    fields = {"sample_numerator": 1, "sample_denominator": 4, "unit": "record", **more}
    return PrivacyEvent.model_validate({"noise_multiplier_micro": noise, "steps": steps, **fields})


ROUNDS, ONCE = _event(1_600_000, 80), _event(4_000_000, 1, sample_denominator=1, tv_error_femto=1)
STUDY = "a" * 64


@pytest.fixture
def ledger(tmp_path: Path) -> Any:
    with Ledger.open(tmp_path / "ledger.db") as opened:
        opened.set_limit("s", 11_000, 10**5)
        opened.reserve("s", STUDY, ROUNDS, 8000, 10**5, also=(ONCE,))
        yield opened


def test_a_reservation_holds_the_rounds_and_the_evaluation(ledger: Ledger, tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "other.db") as other:
        other.set_limit("s", 11_000, 10**5)
        plan = other.plan("s", ROUNDS, (ONCE,))
        assert plan.needed_milli > other.plan("s", ROUNDS).needed_milli
    assert ledger.balance("s").held_milli == plan.needed_milli
    for changed in ((), (_event(3_999_999, 1, sample_denominator=1, tv_error_femto=1),), (ONCE, ONCE)):
        with pytest.raises(Refused, match="RSD-4107"):
            ledger.reserve("s", STUDY, ROUNDS, 8000, 10**5, also=changed)


def test_a_limit_that_covers_the_rounds_alone_admits_no_study_that_also_evaluates(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "other.db") as other:
        other.set_limit("s", 11_000, 10**5)
        rounds, whole = (other.plan("s", ROUNDS, also).needed_milli for also in ((), (ONCE,)))
        other.set_limit("s", whole - 1, 10**5)
        assert rounds < whole
        assert other.plan("s", ROUNDS).fits
        assert not other.plan("s", ROUNDS, (ONCE,)).fits
        for ask in (other.check, other.reserve):
            with pytest.raises(Refused, match="RSD-4101"):
                ask("s", STUDY, ROUNDS, 8000, 10**5, also=(ONCE,))
        assert other.reservation("s", STUDY) is None


def test_each_charge_is_paid_from_its_own_part_and_none_twice(ledger: Ledger) -> None:
    ledger.charge("s", STUDY, 1, 1, _event(1_600_000, 80))
    ledger.charge("s", STUDY, 0, 1, ONCE)
    for beyond in (ONCE, _event(1_600_000, 1)):
        with pytest.raises(Refused, match="RSD-4109"):
            ledger.charge("s", STUDY, 2, 1, beyond)
    held = ledger.reservation("s", STUDY)
    assert held is not None
    assert held.charged() == (ROUNDS, ONCE)
    balance = ledger.balance("s")
    assert balance.charged_milli == balance.held_milli


@pytest.mark.parametrize(
    "other", [_event(200_000, 1, sample_denominator=1), _event(4_000_000, 2, sample_denominator=1)]
)
def test_less_noise_or_a_second_step_is_not_paid(ledger: Ledger, other: PrivacyEvent) -> None:
    with pytest.raises(Refused, match="RSD-4109"):
        ledger.charge("s", STUDY, 0, 1, other)


def test_what_was_not_evaluated_is_free_again_and_what_was_is_not(ledger: Ledger, tmp_path: Path) -> None:
    whole = ledger.balance("s").held_milli
    ledger.charge("s", STUDY, 0, 1, ONCE)
    with Ledger.open(tmp_path / "ledger.db") as again:  # from the entries alone
        again.release_unused(STUDY)
        held = again.reservation("s", STUDY)
        assert held is not None
        assert held.held() == (ONCE,)
        assert 0 < again.balance("s").held_milli < whole


def test_an_evaluation_of_another_unit_is_refused(ledger: Ledger) -> None:
    other = _event(4_000_000, 1, unit="patient")
    with pytest.raises(InputError, match="RSD-4121"):
        ledger.reserve("s", "b" * 64, ROUNDS, 8000, 10**5, also=(other,))

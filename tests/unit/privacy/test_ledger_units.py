"""Records and patients on one data source: never one eps for both, unless a record is a patient."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compliance.errors import InputError, Refused
from compliance.privacy import ledger_state as rules
from compliance.privacy.events import UNITS, PrivacyEvent, Unit
from compliance.privacy.ledger import Ledger
from compliance.privacy.ledger_state import SourceState

SOURCE = "clinic"


def event(unit: Unit, steps: int = 4) -> PrivacyEvent:
    return PrivacyEvent(
        noise_multiplier_micro=4_000_000, sample_numerator=1, sample_denominator=10, steps=steps, unit=unit
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path / "ledger.db") as opened:
        opened.set_limit(SOURCE, 9000, 10**5)
        yield opened


def reserve(ledger: Ledger, study: str, unit: Unit, units: tuple[Unit, ...] = ()) -> None:
    ledger.reserve(SOURCE, study, event(unit), 1000, 10**5, units)


@pytest.mark.parametrize(("first", "second"), [("record", "patient"), ("patient", "record")])
def test_the_units_do_not_mix(ledger: Ledger, first: Unit, second: Unit) -> None:
    assert ledger.units(SOURCE) == UNITS
    reserve(ledger, "one", first)
    assert ledger.units(SOURCE) == (first,)
    before = ledger.show(SOURCE)
    with pytest.raises(Refused) as refused:
        reserve(ledger, "two", second)
    assert (refused.value.code, refused.value.limit) == ("RSD-4108", f"a study per {first}")
    assert refused.value.found == f"a study per {second}"
    with pytest.raises(Refused, match="RSD-4108"):
        ledger.check(SOURCE, "two", event(second), 1000, 10**5)
    assert ledger.show(SOURCE) == before
    reserve(ledger, "three", first)


@pytest.mark.parametrize("other", UNITS)
def test_where_a_record_is_a_patient_it_counts_as_either_and_then_fixes_nothing(ledger: Ledger, other: Unit) -> None:
    reserve(ledger, "sole", "record", UNITS)
    assert ledger.units(SOURCE) == UNITS
    reserve(ledger, "other", other)
    assert ledger.units(SOURCE) == (other,)
    reserve(ledger, "sole-again", "patient", UNITS)
    with pytest.raises(Refused, match="RSD-4108"):
        reserve(ledger, "third", "patient" if other == "record" else "record")


def test_what_was_spent_binds_for_ever_and_what_was_not_spent_does_not(ledger: Ledger) -> None:
    reserve(ledger, "unused", "record")
    ledger.release_unused("unused")
    assert ledger.units(SOURCE) == UNITS
    reserve(ledger, "patients", "patient")
    ledger.charge(SOURCE, "patients", 1, 1, event("patient", 1))
    ledger.release_unused("patients")
    assert ledger.units(SOURCE) == ("patient",)
    with pytest.raises(Refused, match="RSD-4108"):
        reserve(ledger, "records", "record")


def test_a_charge_has_the_unit_of_its_reservation(ledger: Ledger) -> None:
    reserve(ledger, "sole", "record", UNITS)
    with pytest.raises(Refused, match="RSD-4109"):
        ledger.charge(SOURCE, "sole", 1, 1, event("patient", 1))


def test_an_event_holds_in_its_own_unit_at_least(ledger: Ledger) -> None:
    with pytest.raises(InputError, match="RSD-4121"):
        reserve(ledger, "one", "record", ("patient",))


def test_units_survive_reopening_and_stand_in_the_rows(ledger: Ledger, tmp_path: Path) -> None:
    reserve(ledger, "sole", "record", UNITS)
    reserve(ledger, "patients", "patient")
    with Ledger.open(tmp_path / "ledger.db") as again:
        assert again.units(SOURCE) == ("patient",)
        assert [r["unit"] for r in again.show(SOURCE) if r["kind"] == "reserve"] == ["record", "patient"]
        assert [r.units for r in again.reservations(SOURCE)] == [UNITS, ("patient",)]


HOLDS = st.sampled_from([("record",), ("patient",), UNITS])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(HOLDS, st.booleans(), st.booleans()), max_size=8))
def test_whatever_is_asked_all_that_is_held_has_a_unit_in_common(
    asked: list[tuple[tuple[Unit, ...], bool, bool]],
) -> None:
    """(units, charged, released) one after the other: a refusal exactly when nothing would be left in common."""
    state = SourceState(SOURCE, "0" * 64)
    _apply(state, "limit", {"epsilon_milli": 90_000, "inverse_delta": 10**5, "policy_sha256": ""})
    held: dict[str, tuple[Unit, ...]] = {}
    for i, (units, charged, released) in enumerate(asked):
        study, wanted = f"s{i}", event(units[0])
        common = set(UNITS).intersection(*held.values())
        assert set(state.units()) == common
        if not common & set(units):
            with pytest.raises(Refused, match="RSD-4108"):
                rules.decide_reserve(state, study, wanted, (1, 10**5), units)
            continue
        _apply(state, "reserve", rules.decide_reserve(state, study, wanted, (1, 10**5), units))
        held[study] = units
        if charged:
            _apply(state, "charge", rules.decide_charge(state, study, 1, 1, event(units[0], 1)))
        if released:
            _apply(state, "release", rules.decide_release(state, study))
            if not charged:
                del held[study]


def _apply(state: SourceState, kind: str, body: object) -> None:
    state.apply(state.seq + 1, kind, body, "0" * 64)

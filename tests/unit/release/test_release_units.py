"""Unit, adjacency and the eps of a unit that several sites hold: on the card, in privacy.json, in every roster."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from compliance.canonical import canonical
from compliance.errors import ResidencyError
from compliance.privacy.accounting import epsilon
from compliance.release.build import build_bundle
from tests.world import CONTRIBUTORS, World, build_world, failed, released, world
from tests.world_plan import EVENT, Plan


@cache
def patients() -> World:
    """A world whose study protects patients."""
    return build_world(Plan(unit="patient"))


def _privacy(made: World) -> dict[str, Any]:
    return dict(json.loads(made.bundle["privacy.json"]))


def _card(made: World) -> str:
    return made.bundle["model/README.md"].decode()


def test_a_bundle_whose_unit_is_the_patient_verifies_and_says_so() -> None:
    made = patients()
    report = made.verify(made.bundle)
    assert failed(report) == (0, "")
    assert (_privacy(made)["unit"], _privacy(made)["adjacency"]) == ("patient", "add_remove")
    proved = "\n".join(report.fields()["proved"])
    assert "per patient at delta 1/100000" in proved
    assert f"a patient that {len(CONTRIBUTORS)} sites hold: eps" in proved
    text = _card(made)
    for words in ("per patient; neighbours differ by adding or", "removing one patient", "in the column patient",
                  "4 of them count", "| Sites that hold the patient | eps |"):  # fmt: skip
        assert words in text
    assert "less: the bound is per record" not in text


def test_the_card_of_a_record_study_says_that_patients_are_protected_less() -> None:
    text = _card(world())
    assert "removing one record" in text
    assert "A patient with several records is protected less" in text


def test_the_eps_at_k_sites_is_the_composition_of_their_events() -> None:
    made = patients()
    rows = _privacy(made)["overlap"]
    one = EVENT.model_copy(update={"unit": "patient"})
    assert [r["sites"] for r in rows] == [2, 3, 4]
    for row in rows:
        exact = epsilon([one] * (2 * row["sites"]), 100_000)  # two rounds at each
        assert exact <= row["epsilon_milli"] <= exact + 2
        assert f"| {row['sites']} | {row['epsilon_milli'] / 1000:.3f} |" in _card(made)
    single = max(s["epsilon_milli"] for s in _privacy(made)["sites"])
    assert single < rows[0]["epsilon_milli"] < rows[1]["epsilon_milli"] < rows[2]["epsilon_milli"]


def _less(claims: dict[str, Any]) -> None:
    claims["overlap"][0]["epsilon_milli"] -= 1


def _fewer(claims: dict[str, Any]) -> None:
    claims["overlap"].pop()


def _unknown(claims: dict[str, Any]) -> None:
    claims["overlap"][1]["epsilon_milli"] = None


def _none(claims: dict[str, Any]) -> None:
    del claims["overlap"]


def _record(claims: dict[str, Any]) -> None:
    claims["unit"] = "record"


def _substitution(claims: dict[str, Any]) -> None:
    claims["adjacency"] = "substitution"


@pytest.mark.parametrize("change", [_less, _fewer, _unknown, _none, _record, _substitution])
def test_other_claims_make_step_12_false(change: Callable[[dict[str, Any]], None]) -> None:
    made = patients()
    claims = _privacy(made)
    change(claims)
    bundle = made.resigned({**made.bundle, "privacy.json": canonical(claims) + b"\n"})
    assert failed(made.verify(bundle))[0] == 12


def test_a_roster_that_states_another_unit_makes_step_8_false() -> None:
    made = build_world(Plan(roster=lambda roster: roster.update(unit="patient")))
    number, message = failed(released(made, made.run))
    assert (number, "another privacy unit" in message) == (8, True)


@pytest.mark.parametrize("change", [{"unit": "person"}, {"adjacency": "substitution"}])
def test_a_roster_without_the_unit_is_no_roster(change: dict[str, str]) -> None:
    made = build_world(Plan(roster=lambda roster: roster.update(change)))
    with pytest.raises(ResidencyError, match="RSD-9041"):
        build_bundle(made.run, made.operator, made.anchor)


@pytest.mark.parametrize(
    ("field", "value", "told"), [("tv_error_femto", 0, "sampler's error"), ("tv_error_femto", 21, "sampler's error"),
                                 ("steps", 1, "steps"), ("sample_numerator", 32, "sampling rate")],
)  # fmt: skip
def test_a_charge_of_another_event_makes_step_12_false(field: str, value: int, told: str) -> None:
    """Whatever of the event differs: the sampler's error is a part of eps."""

    def change(member: str, kind: str, body: dict[str, Any]) -> None:
        if kind == "charge":
            body["event"] = {**body["event"], field: value}

    made = build_world(Plan(body=change))
    number, message = failed(released(made, made.run))
    assert (number, f"the {told} is not the study's" in message) == (12, True)


def test_a_charge_per_record_in_a_patient_study_makes_step_12_false() -> None:
    def change(member: str, kind: str, body: dict[str, Any]) -> None:
        if kind == "charge":
            body["event"] = {**body["event"], "unit": "record"}

    made = build_world(Plan(unit="patient", body=change))
    assert failed(released(made, made.run))[0] == 12

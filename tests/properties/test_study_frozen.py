"""No change to a signed study survives verification, least of all to its privacy."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compliance.canonical import canonical, parse_canonical
from compliance.errors import CheckFailed, ResidencyError
from compliance.identity import seal
from compliance.study import Study, open_study
from compliance.validation import load_model
from tests.desk import consortium, full_study

WORLD = consortium()
ANCHOR = WORLD.anchor()
RAW = load_model(Study, full_study(), "RSD-2007", "study").as_json()
SIGNED = seal(RAW, WORLD.operator).encode()
PRIVACY = [
    *(("privacy", f) for f in ("unit", "inverse_delta", "clip_micro", "spare_rounds")),
    *(
        ("sites", i, f)
        for i in range(3)
        for f in ("records_public", "batch", "epsilon_milli", "noise_multiplier_micro")
    ),
    ("training", "rounds"),
    ("training", "steps"),
    ("quorum", "sites"),
    ("software", "bundle_sha256"),
]


def with_payload(change: Any) -> bytes:
    """The signed file with another payload under the old signature."""
    envelope = json.loads(SIGNED)
    payload = json.loads(base64.b64decode(envelope["payload"]))
    change(payload)
    envelope["payload"] = base64.b64encode(canonical(payload)).decode()
    return canonical(envelope)


@given(st.sampled_from(PRIVACY), st.integers(-(10**13), 10**13))
@settings(max_examples=200)
def test_no_changed_privacy_field_survives(path: tuple[Any, ...], value: int) -> None:
    def change(payload: Any) -> None:
        for part in path[:-1]:
            payload = payload[part]
        old = payload[path[-1]]
        payload[path[-1]] = value if isinstance(old, int) and value != old else "f" * 64

    with pytest.raises(ResidencyError) as e:
        open_study(ANCHOR, with_payload(change), "study")
    assert e.value.exit_code in {1, 3}


@pytest.mark.parametrize("path", PRIVACY)
def test_a_plausible_change_fails_by_its_signature(path: tuple[Any, ...]) -> None:
    def change(payload: Any) -> None:
        for part in path[:-1]:
            payload = payload[part]
        if isinstance(payload[path[-1]], int):
            payload[path[-1]] += 1
        else:
            payload[path[-1]] = "a" * 64

    if path == ("privacy", "unit"):
        return  # the schema knows one unit only
    with pytest.raises(CheckFailed) as e:
        open_study(ANCHOR, with_payload(change), "study")
    assert e.value.code == "RSD-6006"


def test_every_flipped_byte_of_a_signed_study_is_refused() -> None:
    assert open_study(ANCHOR, SIGNED, "study")[0].as_json() == RAW
    for i in range(0, len(SIGNED), 7):
        with pytest.raises(ResidencyError):
            open_study(ANCHOR, SIGNED[:i] + bytes([SIGNED[i] ^ 1]) + SIGNED[i + 1 :], "study")


def test_a_study_is_immutable_in_memory() -> None:
    study, _ = open_study(ANCHOR, SIGNED, "study")
    for target in (study, study.privacy, study.sites[0]):
        field = next(iter(type(target).model_fields))
        with pytest.raises(ValueError, match="frozen"):
            setattr(target, field, 1)


def test_canonical_form_is_stable() -> None:
    again = load_model(Study, parse_canonical(canonical(RAW), "x"), "RSD-2007", "study")
    assert canonical(again.as_json()) == canonical(RAW)

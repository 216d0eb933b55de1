"""The law set: each pack once, by digest; and the adoption of exactly one set."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from compliance.canonical import canonical, sha256_hex
from compliance.errors import InputError
from compliance.law.law_set import Adoption, LawSet

A, B = "aa" * 32, "bb" * 32
SET = {
    "schema": "residency.law-set/1",
    "site": "clinic",
    "jurisdiction": "US",
    "regions": A,
    "packs": ({"id": "us-hipaa", "sha256": A}, {"id": "us-ca", "sha256": B}),
    "not_binding": ({"id": "us-202", "reason": "No data of US persons leave this site."},),
}


def _adoption(**change):
    law_set = LawSet.model_validate(SET)
    given = {
        "schema": "residency.law-adoption/1",
        "site": "clinic",
        "digest": law_set.digest,
        "law_set": SET,
        "advice": B,
        "reason": "",
        "at": "2026-11-22T10:00:00Z",
    }
    return Adoption.model_validate(given | change)


def test_digest_is_of_the_canonical_json():
    law_set = LawSet.model_validate(SET)
    assert law_set.digest == sha256_hex(canonical(law_set.as_json()))
    assert law_set.as_json()["schema"] == "residency.law-set/1"
    assert law_set.adopted == {"us-hipaa": A, "us-ca": B}
    other = LawSet.model_validate(SET | {"not_binding": ()})
    assert other.digest != law_set.digest


@pytest.mark.parametrize(
    "change",
    [
        {"packs": ()},
        {"packs": ({"id": "us-hipaa", "sha256": A}, {"id": "us-hipaa", "sha256": B})},
        {"packs": ({"id": "us-202", "sha256": A},)},
        {"packs": ({"id": "US", "sha256": A},)},
        {"packs": ({"id": "us", "sha256": "a"},)},
        {"not_binding": ({"id": "us-202", "reason": "No."},)},
        {"jurisdiction": "USA"},
        {"regions": ""},
        {"colour": "blue"},
        {"schema": "residency.law-set/2"},
    ],
)
def test_a_set_that_is_none_is_refused(change):
    with pytest.raises(ValidationError):
        LawSet.model_validate(SET | change)


@pytest.mark.parametrize(
    "change",
    [
        {"digest": A},
        {"site": "another"},
        {"advice": "", "reason": ""},
        {"law_set": SET | {"regions": B}},
        {"advice": "yes"},
    ],
)
def test_an_adoption_of_another_set_is_refused(change):
    assert _adoption().law_set.site == "clinic"
    with pytest.raises(ValidationError):
        _adoption(**change)


def test_an_adoption_without_advice_says_why():
    assert _adoption(advice="", reason="The officer is ill.").reason
    with pytest.raises(InputError, match="RSD-2004"):
        _adoption(at="yesterday")

"""A name or country that is none is refused in words, not by the pattern that it does not match."""

from __future__ import annotations

from pathlib import Path

import pytest

from compliance.law import model
from compliance.trust import root
from compliance.trust.root import Member
from compliance.validation import try_model
from tests.desk import refused, study_raw, write_yaml

WORDS = "small letters, digits and hyphens, no hyphen first, at most 63 characters"


@pytest.mark.parametrize("name", ["Kyoto", "-kyoto", "kyo to", "münchen", "", "k" * 64])
def test_the_words_say_what_the_pattern_takes(name: str) -> None:
    (mistake,), found = try_model(Member, {"name": name, "jurisdiction": "JP"})
    assert found is None
    assert (mistake.field, mistake.limit) == ("name", WORDS)
    assert mistake.message == f"must be {WORDS} (found {name!r})"
    for good in ("kyoto", "9-a", "k" * 63):
        assert try_model(Member, {"name": good, "jurisdiction": "JP"})[0] == []
    assert root.NAME == model.NAME  # one rule for all names


def test_a_country_too() -> None:
    (mistake,), _ = try_model(Member, {"name": "kyoto", "jurisdiction": "jp"})
    assert mistake.limit == "the two capital letters of a country, e.g. DE"


def test_commands_say_it_of_sites_consortia_keys_and_studies(tmp_path: Path) -> None:
    init = ("--operator", "hub", "--jurisdiction", "IE", "--threshold", 1, "--server", "h:1", "--home", tmp_path / "h")
    study = write_yaml(tmp_path / "study.yaml", study_raw(name="Thyroid One"))
    for code, args in (
        ("RSD-6019", ("consortium", "init", "The Consortium", *init)),
        ("RSD-6003", ("key", "new", "--role", "dpo", "--holder", "Kyoto", "--out", tmp_path / "k")),
        ("RSD-3030", ("law", "init", "--site", "Kyoto", "--jurisdiction", "JP", "--out", tmp_path / "l.json")),
        ("RSD-2007", ("study", "check", study)),
    ):
        error = refused(3, code, *args)
        assert WORDS in error["message"], code
        assert "a-z" not in error["message"] + error["limit"]

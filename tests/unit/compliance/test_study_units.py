"""The privacy unit in a study file: patients by default, and every contradiction told with its field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from compliance.canonical import canonical, parse_canonical
from compliance.errors import InputError
from compliance.privacy.events import MOST_RECORDS_PER_UNIT
from compliance.study import Study, study_mistakes
from compliance.study_file import check_file, complete
from compliance.validation import load_model
from tests.desk import full_study, study_raw, write_yaml


def raw(**privacy: Any) -> dict[str, Any]:
    """A study whose unit is what `privacy` says, and nothing else."""
    value = study_raw()
    value["privacy"] = {**{k: v for k, v in value["privacy"].items() if k != "unit"}, **privacy}
    return value


def test_whoever_names_the_column_of_the_person_protects_patients(tmp_path: Path) -> None:
    study = complete(raw(group_column="patient", records_per_unit=4), tmp_path)
    assert study["privacy"]["unit"] == "patient"
    assert load_model(Study, parse_canonical(canonical(study), "s"), "RSD-2007", "s").privacy.records_per_unit == 4
    kept = write_yaml(tmp_path / "study.yaml", raw(group_column="patient"))
    mistakes, found = check_file(kept)
    assert mistakes == []
    assert found is not None
    assert (found.privacy.unit, found.privacy.records_per_unit) == ("patient", 1)


def test_without_a_column_the_weaker_unit_must_be_said(tmp_path: Path) -> None:
    mistakes, study = check_file(write_yaml(tmp_path / "study.yaml", raw()))
    assert study is None
    assert [m.field for m in mistakes] == ["privacy.unit"]
    assert complete(raw(unit="record"), tmp_path)["privacy"]["group_column"] is None


@pytest.mark.parametrize(
    ("privacy", "field", "words"),
    [
        ({"unit": "patient"}, "privacy.group_column", "name the column of the person"),
        ({"unit": "record", "group_column": "patient"}, "privacy.group_column", "the unit is the record"),
        ({"unit": "record", "records_per_unit": 2}, "privacy.records_per_unit", "2 is above 1"),
        ({"group_column": "patient", "records_per_unit": 65}, "privacy.records_per_unit", "physical_batch 64"),
        ({"group_column": "patient", "records_per_unit": 0}, "privacy.records_per_unit", "found 0"),
        ({"group_column": "p", "records_per_unit": MOST_RECORDS_PER_UNIT + 1}, "privacy.records_per_unit", "found"),
        ({"group_column": ""}, "privacy.group_column", "found ''"),
        ({"group_column": ["a", "b"]}, "privacy.group_column", "string"),
        ({"unit": "hospital"}, "privacy.unit", "found 'hospital'"),
    ],
)
def test_each_contradiction_is_told_with_its_field(
    tmp_path: Path, privacy: dict[str, Any], field: str, words: str
) -> None:
    value = raw(**privacy)
    value["training"]["physical_batch"] = 64
    mistakes, study = check_file(write_yaml(tmp_path / "study.yaml", value))
    assert study is None
    assert field in [m.field for m in mistakes]
    assert any(words in m.message for m in mistakes if m.field == field), mistakes


def test_a_signed_study_is_held_to_the_same_rules() -> None:
    value = full_study()
    value["privacy"] = {**value["privacy"], "unit": "patient"}
    assert [m.field for m in study_mistakes(value)] == ["privacy.group_column"]
    with pytest.raises(InputError, match="name the column of the person"):
        load_model(Study, parse_canonical(canonical(value), "study"), "RSD-2007", "study")

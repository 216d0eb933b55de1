"""The split of the real table: disjoint, complete, the same every time."""

from __future__ import annotations

import pandas as pd
import pytest

from demo.cast import SITES
from demo.data import CALIBRATION_ROWS, HOLDOUT_ROWS, Split, find_model, find_table, split_table


@pytest.fixture(scope="module")
def split() -> Split:
    """The split of the installed table."""
    return split_table(pd.read_csv(find_table()))


def parts(split: Split) -> list[pd.DataFrame]:
    """All parts."""
    return [*split.sites.values(), split.holdout, split.calibration]


def test_no_row_is_in_two_parts(split: Split) -> None:
    rows = pd.Index([]).append([p.index for p in parts(split)])
    assert rows.is_unique


def test_no_patient_number_of_the_holdout_is_at_a_site(split: Split) -> None:
    held = set(split.holdout["patient_id"])
    assert not any(held & set(rows["patient_id"]) for rows in split.sites.values())


def test_sizes(split: Split) -> None:
    assert {n: len(r) for n, r in split.sites.items()} == {
        "svi": 2394, "svhc": 956, "stmw": 255, "other": 1500, "svhd": 71
    }  # fmt: skip
    assert (len(split.holdout), len(split.calibration)) == (HOLDOUT_ROWS, CALIBRATION_ROWS)
    assert all(abs(s.records - len(split.sites[s.name])) <= max(10, s.records // 50) for s in SITES)


def test_the_split_does_not_depend_on_the_order_of_the_file(split: Split) -> None:
    again = split_table(pd.read_csv(find_table()).sample(frac=1, random_state=3))
    assert set(again.holdout.index) == set(split.holdout.index)
    assert list(again.holdout.index) == list(split.holdout.index)


def test_no_part_tells_its_source(split: Split) -> None:
    assert all("referral_source" not in p.columns for p in parts(split))


def test_the_model_is_there() -> None:
    assert (find_model() / "model.safetensors").is_file()

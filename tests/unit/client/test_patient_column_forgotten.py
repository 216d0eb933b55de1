"""An extract in which the people are known by another column than they withdraw by is refused, and told which."""

import numpy as np
import pandas as pd
import pytest

from client import registration, subjects
from client.data.withdrawals import excluded_rows
from client.home import AgentHome
from compliance.errors import Refused
from tests.federation import DATA_TERMS, consortium, die, in_child


@pytest.fixture
def home(tmp_path):
    """Site a before any study."""
    return AgentHome(consortium().copy_home("a", tmp_path))


def _extract(path, seed, people, **columns):
    """Visits of these people, one each, in an order of its own, with values of their own."""
    rng = np.random.default_rng(seed)
    n = len(people)
    frame = {"visit": [f"v{seed}-{i}" for i in range(n)], "mrn": people, "TSH": rng.normal(5, 1, n).round(4), **columns}
    pd.DataFrame(frame).to_csv(path, index=False)
    return path


def _add(home, path, name, ids=("visit",), patients=()):
    return registration.add_dataset(home, name, path, "wards", list(ids), DATA_TERMS, list(patients)).record


MRN = [f"M{i:05d}" for i in range(0, 3000, 7)]
SPARSE = [str(10_000 + i * i) for i in range(300)]


def _refused(home, path, name="y2", **kwargs):
    with pytest.raises(Refused) as error:
        _add(home, path, name, **kwargs)
    assert error.value.code == "RSD-2422"
    assert not [d for d in home.registry().datasets if d.name == name]
    return error.value


@pytest.mark.parametrize("people", [MRN, SPARSE], ids=["texts", "numbers"])
@pytest.mark.parametrize("header", ["mrn", "hospital number"])
def test_next_year_s_export_without_its_patient_column_is_refused(home, tmp_path, people, header):
    _add(home, _extract(tmp_path / "y1.csv", 1, people), "y1", patients=["mrn"])
    later = _extract(tmp_path / "y2.csv", 2, people[: len(people) // 2] + [f"N{i}" for i in range(50)])
    later.write_text(later.read_text().replace("mrn", header, 1))
    error = _refused(home, later)
    assert f"--patient-column {header}" in error.next
    assert people[3] not in str(error.as_json())
    record = _add(home, later, "y2", patients=[header])
    subjects.withdraw(home, [(people[3],)], "erasure")
    assert excluded_rows(home.path, "y2", record.sha256) == (3,)


def test_a_patient_column_hidden_in_the_identifier_of_a_row_is_seen(home, tmp_path):
    _add(home, _extract(tmp_path / "y1.csv", 1, MRN), "y1", patients=["mrn"])
    later = _extract(tmp_path / "y2.csv", 2, MRN)
    _refused(home, later, ids=("visit", "mrn"))
    _add(home, later, "y2", ids=("visit", "mrn"), patients=["mrn"])


def test_the_same_header_speaks_for_identifiers_without_gaps(home, tmp_path):
    people = [str(i) for i in range(1, 101)]
    _add(home, _extract(tmp_path / "y1.csv", 1, people), "y1", patients=["mrn"])
    _refused(home, _extract(tmp_path / "y2.csv", 2, people))


@pytest.mark.parametrize(
    "ages", [range(100), range(20, 95), [a for a in range(18, 99) if a % 5]], ids=["all", "a range", "with gaps"]
)
def test_ages_are_not_taken_for_identifiers_that_are_small_numbers(home, tmp_path, ages):
    _add(home, _extract(tmp_path / "y1.csv", 1, [str(i) for i in range(1, 101)]), "y1", patients=["mrn"])
    others = [f"N{i}" for i in range(len(ages) * 2)]
    _add(home, _extract(tmp_path / "y2.csv", 2, others, age=[*ages, *ages]), "y2", patients=["mrn"])


def test_years_of_birth_are_not_taken_for_identifiers_of_four_digits(home, tmp_path):
    people = [str(i) for i in range(1000, 6000) if i % 3]
    _add(home, _extract(tmp_path / "y1.csv", 1, people), "y1", patients=["mrn"])
    years = [1930 + i % 80 for i in range(200)]
    others = [f"N{i}" for i in range(200)]
    _add(home, _extract(tmp_path / "y2.csv", 2, others, born=years), "y2", patients=["mrn"])


def test_a_few_people_in_common_by_chance_refuse_nothing(home, tmp_path):
    _add(home, _extract(tmp_path / "y1.csv", 1, MRN), "y1", patients=["mrn"])
    others = MRN[:19] + ["x"] * 20
    _add(home, _extract(tmp_path / "y2.csv", 2, [f"N{i}" for i in range(39)], seen=others), "y2", patients=["mrn"])


# --- a registration that was cut short ---


def test_after_a_crash_the_patient_column_that_is_asked_for_now_counts(home, tmp_path):
    path = _extract(tmp_path / "x.csv", 1, MRN)

    def child():
        AgentHome.save_registry = lambda *_: die()
        _add(home, path, "x")

    assert in_child(child) == -9
    record = _add(home, path, "x", patients=["mrn"])
    subjects.withdraw(home, [(MRN[3],)], "erasure")
    assert excluded_rows(home.path, "x", record.sha256) == (3,)

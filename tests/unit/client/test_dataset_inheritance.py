"""A budget follows the people: copies, re-exports and overlaps inherit it, another population does not."""

import itertools

import numpy as np
import pandas as pd
import pytest

from client import registration
from client.data.coincidence import coincide, read_content
from client.home import AgentHome
from compliance.errors import Refused
from demo.data import find_table, split_table
from tests.federation import DATA_TERMS, consortium, entries, open_home

SECRET = bytes(range(32))


@pytest.fixture(scope="module")
def table():
    return pd.read_csv(find_table(), low_memory=False)


@pytest.fixture(scope="module")
def sites(table):
    """The real rows of each hospital, by referral source."""
    return {name: part.drop(columns="referral_source") for name, part in table.groupby("referral_source")}


@pytest.fixture
def home(tmp_path):
    return AgentHome(consortium().copy_home("a", tmp_path))


def _write(path, rows):
    if path.suffix == ".parquet":
        rows.to_parquet(path)
    elif path.suffix == ".jsonl":
        rows.to_json(path, orient="records", lines=True)
    else:
        rows.to_csv(path, index=False)
    return path


def _add(home, path, name, source, ids=("patient_id",)):
    return registration.add_dataset(home, name, path, source, list(ids), DATA_TERMS)


def _pseudonyms(rows):
    """New identifiers that have nothing to do with the old ones."""
    fresh = np.random.default_rng(5).permutation(10**6)[: len(rows)] + 10**7
    return rows.assign(patient_id=[f"P{i}" for i in fresh])


def _shuffled(rows):
    return rows.sample(frac=1, random_state=3)


REEXPORTS = {
    "the same file": (lambda r: r, ".csv"),
    "one row less": (lambda r: r.iloc[1:], ".csv"),
    "shuffled": (_shuffled, ".csv"),
    "another format": (lambda r: r, ".parquet"),
    "text for numbers": (lambda r: r.astype(str).replace("nan", None), ".jsonl"),
    "new pseudonyms": (_pseudonyms, ".csv"),
    "new pseudonyms, one row less, shuffled": (lambda r: _shuffled(_pseudonyms(r).iloc[1:]), ".csv"),
    "new pseudonyms, another format": (_pseudonyms, ".parquet"),
    "new pseudonyms, one column dropped": (lambda r: _pseudonyms(r).drop(columns="age"), ".csv"),
    "new pseudonyms, five columns dropped": (lambda r: _pseudonyms(r).iloc[:, 5:], ".csv"),
    "new pseudonyms, one column added": (lambda r: _pseudonyms(r).assign(ward=np.arange(len(r)) % 7), ".csv"),
    "new pseudonyms, everybody a year older": (lambda r: _pseudonyms(r).assign(age=r.age + 1), ".csv"),
    "new pseudonyms, sex coded anew": (lambda r: _pseudonyms(r).assign(sex=r.sex.map({"F": 2, "M": 1})), ".csv"),
    "new pseudonyms, columns in another order": (lambda r: _pseudonyms(r)[sorted(r.columns)], ".csv"),
    "new pseudonyms, every column renamed": (
        lambda r: _pseudonyms(r).rename(columns=lambda c: c if c == "patient_id" else f"x_{c}"),
        ".csv",
    ),
    "new pseudonyms, half of the rows": (lambda r: _pseudonyms(r).iloc[::2], ".csv"),
}


@pytest.mark.parametrize("what", REEXPORTS)
def test_a_re_export_spends_from_the_ledger_of_the_first_one(home, tmp_path, sites, what):
    change, suffix = REEXPORTS[what]
    rows = sites["STMW"]
    _add(home, _write(tmp_path / "first.csv", rows), "first", "clinic")
    added = _add(home, _write(tmp_path / f"second{suffix}", change(rows)), "renamed", "fresh")
    assert added.record.source == "clinic"
    assert added.known.sources == {"clinic"}
    with open_home(home.path) as site:
        last = entries(site, "dataset")[-1]
    assert (last.body["source"], last.body["inherited"]) == ("clinic", True)


def test_old_rows_among_many_new_ones_bring_their_ledger(home, tmp_path, sites):
    _add(home, _write(tmp_path / "first.csv", sites["STMW"]), "first", "clinic")
    mixed = _pseudonyms(pd.concat([sites["SVHC"], sites["STMW"].iloc[:8]]))
    assert _add(home, _write(tmp_path / "mixed.csv", mixed), "mixed", "fresh").record.source == "clinic"


def test_an_identifier_is_the_same_however_it_is_written(home, tmp_path, sites):
    """Leading zeros, a decimal point, letter case and space; the rest of the rows is of other people."""
    rows = sites["STMW"].iloc[:40].assign(patient_id=[f"AB-{i:04d}" for i in range(40)])
    _add(home, _write(tmp_path / "a.csv", rows), "letters", "clinic")
    other = sites["SVHC"].iloc[:40].assign(patient_id=[f" ab-{i + 39:04d} " for i in range(40)])
    assert _add(home, _write(tmp_path / "b.csv", other), "other", "fresh").record.source == "clinic"
    numbers = sites["SVHD"].iloc[:40].assign(patient_id=range(70_000, 70_040))
    _add(home, _write(tmp_path / "c.csv", numbers), "numbers", "ward")
    zeros = sites["SVI"].iloc[:40].assign(patient_id=[f"000{i + 70_039}" for i in range(40)])
    assert _add(home, _write(tmp_path / "d.parquet", zeros), "zeros", "fresh").record.source == "ward"


def test_another_hospital_with_the_same_columns_has_its_own_ledger(home, tmp_path, sites):
    for name in ("STMW", "SVHC", "SVHD"):
        added = _add(home, _write(tmp_path / f"{name}.csv", sites[name]), name.lower(), f"clinic-{name.lower()}")
        assert (added.record.source, added.known.sources) == (f"clinic-{name.lower()}", frozenset())


def test_no_two_hospitals_of_the_real_table_are_taken_for_one(sites):
    contents = {name: read_content(SECRET, rows, ["patient_id"]) for name, rows in sites.items()}
    assert len(contents) == 6
    merged = [(a, b) for a, b in itertools.permutations(contents, 2) if coincide(contents[a], contents[b])]
    assert merged == []


def test_the_demo_s_parts_of_one_hospital_are_told_apart(table):
    """Other people of one population: site, holdout and calibration rows are disjoint, and stay so."""
    split = split_table(table)
    parts = [read_content(SECRET, p, ["patient_id"]) for p in (split.sites["other"], split.holdout, split.calibration)]
    assert not any(coincide(a, b) for a, b in itertools.permutations(parts, 2))


def test_too_few_columns_to_tell_people_apart_count_as_the_same_people(sites):
    """The rule fails towards one ledger: age and sex say too little."""
    few = ["age", "sex", "patient_id"]
    a, b = (read_content(SECRET, sites[s][few], ["patient_id"]) for s in ("STMW", "SVHC"))
    assert coincide(a, b)


def test_two_tables_that_share_age_and_sex_only_are_two_populations(sites):
    """Wide tables have such columns in common by nature."""
    other = sites["SVHC"].rename(columns=lambda c: c if c in {"age", "sex", "patient_id"} else f"y_{c}")
    other = other.assign(extra=range(len(other)))
    a, b = (read_content(SECRET, t, ["patient_id"]) for t in (sites["STMW"], other))
    assert not coincide(a, b)


def test_rows_of_two_data_sources_under_new_pseudonyms_are_refused(home, tmp_path, sites):
    """Whichever of the two ledgers paid, the other one's people would be read for nothing."""
    _add(home, _write(tmp_path / "a.csv", sites["STMW"]), "one", "clinic")
    _add(home, _write(tmp_path / "b.csv", sites["SVHC"]), "two", "ward")
    both = _pseudonyms(pd.concat([sites["STMW"], sites["SVHC"]]))
    before = (home.path / "registry.json").read_bytes()
    with pytest.raises(Refused) as refused:
        _add(home, _write(tmp_path / "both.csv", both), "both", "fresh")
    assert (refused.value.code, refused.value.found) == ("RSD-1231", "clinic, ward")
    assert "split" in refused.value.next
    assert (home.path / "registry.json").read_bytes() == before
    # A refusal leaves nothing behind by which one part would be known as the other's.
    half = _pseudonyms(sites["SVHC"].iloc[:100])
    assert _add(home, _write(tmp_path / "half.csv", half), "half", "fresh").record.source == "ward"


def test_identifiers_of_one_source_and_content_of_another_are_refused(home, tmp_path, sites):
    _add(home, _write(tmp_path / "a.csv", sites["STMW"]), "one", "clinic")
    _add(home, _write(tmp_path / "b.csv", sites["SVHC"]), "two", "ward")
    known = sites["STMW"].patient_id.tolist()[:100]
    mixed = sites["SVHC"].iloc[:100].assign(patient_id=known)
    with pytest.raises(Refused) as refused:
        _add(home, _write(tmp_path / "m.csv", mixed), "mixed", "fresh")
    assert refused.value.found == "clinic, ward"


def test_the_person_counts_when_rows_have_identifiers_of_their_own(home, tmp_path, sites):
    """Several records of a person: a second extract with new record numbers, and other people's values, is known."""
    rows = sites["STMW"].iloc[:60].assign(visit=range(60), patient_id=[f"p{i // 3}" for i in range(60)])
    registration.add_dataset(
        home, "visits", _write(tmp_path / "a.csv", rows), "clinic", ["visit"], DATA_TERMS, ["patient_id"]
    )
    later = sites["SVHC"].iloc[:10].assign(visit=range(900, 910), patient_id=[f"p{i + 19}" for i in range(10)])
    added = registration.add_dataset(
        home, "later", _write(tmp_path / "b.csv", later), "fresh", ["visit"], DATA_TERMS, ["patient_id"]
    )
    assert added.record.source == "clinic"


def test_a_name_stands_for_one_extract_for_ever(home, tmp_path, sites):
    first = _write(tmp_path / "a.csv", sites["STMW"])
    _add(home, first, "one", "clinic")
    registration.retire_dataset(home, "one")
    (home.path / "registry.json").unlink()  # even if the registry is lost
    with pytest.raises(registration.InputError) as refused:
        _add(home, _write(tmp_path / "b.csv", sites["SVHC"]), "one", "fresh")
    assert refused.value.code == "RSD-1230"
    assert _add(home, first, "one", "fresh").record.source == "clinic"  # the same extract is taken up again

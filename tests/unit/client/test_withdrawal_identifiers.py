"""Whoever is named is found: identifiers as people type them match those that a file's reader sees differently."""

import json

import pandas as pd
import pytest

from client import registration, subjects
from client.data.table import TableFile
from client.data.withdrawals import excluded_rows
from client.home import AgentHome
from compliance.errors import InputError
from tests.federation import DATA_TERMS, consortium, entries, open_home

# label, the column of identifiers as the file has it, who withdraws as typed on stdin, that row
WRITTEN = {
    "decimals": (["101.20", "101.30", "102.11", *(f"{i}.5" for i in range(200, 220))], "101.20", 0),
    "decimals typed shorter": (["101.20", "101.30", "102.11"], "101.2", 0),
    "more digits than a float's text": ([f"1234{i}.1{i}" for i in range(10, 40)], "123412.112", 2),
    "exponents": ([f"{i}E{i % 5 + 1}" for i in range(10, 40)], "12E3", 2),
    "more digits than an integer": ([f"9{i:025d}" for i in range(10, 40)], f"9{12:025d}", 2),
    "a sign before zeros": ([f"-{i:03d}" for i in range(10, 40)], "-012", 2),
    "days": ([f"2001-01-{i:02d}" for i in range(1, 29)], "2001-01-03", 2),
    "moments at midnight": ([f"2001-01-{i:02d} 00:00:00" for i in range(1, 29)], "2001-01-03", 2),
    "truth values": (["False", "True"], "True", 1),
    "initials NA": (["AB", "NA", "CD"], "NA", 1),
    "initials null": (["AB", "null", "CD"], "NULL", 1),
}


@pytest.fixture
def home(tmp_path):
    """Site a before any study."""
    return AgentHome(consortium().copy_home("a", tmp_path))


def _register(home, path, ids=("patient_id",), name="x"):
    return registration.add_dataset(home, name, path, "x-clinic", list(ids), DATA_TERMS).record


def _without(home, record, stdin):
    subjects.withdraw(home, subjects.read_ids(stdin), "erasure")
    return excluded_rows(home.path, record.name, record.sha256)


def _values(cells):
    return [i * 1.37 + 0.5 for i in range(len(cells))]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@pytest.mark.parametrize("case", WRITTEN)
def test_an_identifier_is_found_as_it_is_typed(home, tmp_path, case, suffix):
    cells, who, row = WRITTEN[case]
    path = tmp_path / f"x.{suffix}"
    rows = list(zip(cells, _values(cells), strict=True))
    if suffix == "csv":
        path.write_text("patient_id,TSH\n" + "".join(f"{c},{v}\n" for c, v in rows))
    else:
        path.write_text("".join(json.dumps({"patient_id": c, "TSH": v}) + "\n" for c, v in rows))
    assert _without(home, _register(home, path), who.encode()) == (row,)


@pytest.mark.parametrize(
    ("cells", "who"),
    [
        (pd.date_range("1960-01-01", periods=40), "1960-01-02"),
        ([100.5, 101.2, *(200.5 + i for i in range(38))], "101.20"),
        ([123456.125, 123456.5, *(200000.5 + i for i in range(38))], "123456.5"),
    ],
    ids=["dates", "floats", "floats of many digits"],
)
def test_a_typed_column_of_parquet_matches_what_people_type(home, tmp_path, cells, who):
    path = tmp_path / "x.parquet"
    pd.DataFrame({"patient_id": cells, "TSH": _values(cells)}).to_parquet(path)
    assert _without(home, _register(home, path), who.encode()) == (1,)


@pytest.mark.parametrize(
    "stdin", [b"\xef\xbb\xbf9000\r\n9001\r\n", b'"9000"\n"9001"\n', b"'9000'\n 9001 \n", b'\xef\xbb\xbf"9000"\n9001']
)
def test_a_list_of_identifiers_may_come_from_a_spreadsheet(home, stdin):
    assert _without(home, home.registry().datasets[0], stdin) == (0, 1)


def test_cells_of_a_line_that_ends_with_a_comma_stay_in_their_columns(tmp_path):
    """Some readers take the first column of such a file for row names, and every other column moves by one."""
    path = tmp_path / "x.csv"
    path.write_text("row,patient_id,TSH\n" + "".join(f"r{i},{i},{i * 1.37},\n" for i in range(20)))
    assert TableFile(path).table(())["patient_id"].tolist() == [str(i) for i in range(20)]
    path.write_text("row,patient_id,TSH\n" + "".join(f"r{i},{i},{700 + i},{i * 1.37},\n" for i in range(20)))
    with pytest.raises(InputError, match="RSD-2301"):
        TableFile(path).table(())


# --- lines of another number of columns ---


def _two_columns(home, tmp_path):
    path = tmp_path / "two.csv"
    path.write_text("ini,born,TSH\n" + "".join(f"{n},1960-01-{i + 1:02d},{i * 1.37}\n" for i, n in enumerate("ABCDE")))
    return _register(home, path, ("ini", "born"))


@pytest.mark.parametrize("stdin", [b"A\t1960-01-01\tx", b"9000\nA\tb\tc\td"])
def test_a_line_that_no_extract_could_match_is_refused_whole(home, tmp_path, stdin):
    record = _two_columns(home, tmp_path)
    with pytest.raises(InputError) as error:
        _without(home, record, stdin)
    assert (error.value.code, error.value.limit) == ("RSD-2420", "1 or 2 columns")
    assert "ini TAB born" in error.value.next
    assert "9000" not in str(error.value.as_json())
    assert excluded_rows(home.path, "thyroid", home.registry().datasets[0].sha256) == ()
    with open_home(home.path) as site:
        assert not entries(site, "withdrawal")


def test_lines_of_each_extract_s_own_number_are_taken(home, tmp_path):
    assert _without(home, _two_columns(home, tmp_path), b"9000\nC\t1960-01-03") == (2,)


def test_without_an_extract_any_line_is_kept_for_later(tmp_path):
    home = AgentHome(consortium().copy_home("a", tmp_path))
    for file in (*home.path.glob("rows.db*"), home.path / "registry.json"):
        file.unlink()
    subjects.withdraw(home, subjects.read_ids(b"C\t1960-01-03"), "optout")
    record = _two_columns(home, tmp_path)
    assert excluded_rows(home.path, record.name, record.sha256) == (2,)

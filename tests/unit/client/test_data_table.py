"""Tables, templates, classes and row keys."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from client.data.identity import subject_keys
from client.data.table import TableFile, load_table
from client.data.template import parse_template, render
from client.data.text import MISSING, as_written, canonical_text, value_of
from client.tasks.classification import load_records
from compliance.errors import InputError
from tests.tiny_bert import tiny_task, write_table

SECRET = b"0123456789abcdef"


def three_formats(tmp_path):
    csv = write_table(tmp_path / "t.csv")
    frame = pd.read_csv(csv)
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    return [csv, tmp_path / "t.parquet", tmp_path / "t.jsonl"]


def test_the_three_formats_give_the_same_texts_classes_and_keys(tmp_path):
    paths = three_formats(tmp_path)
    records = [load_records(tiny_task(), TableFile(p)) for p in paths]
    assert records[0].texts == records[1].texts == records[2].texts
    assert "TSH" in records[0].texts[1]
    assert "TSH" not in records[0].texts[0], "the first row's TSH is missing"
    assert records[0].texts[0].startswith("age ")
    columns = ["patient_id", "TSH", "age"]
    keys = [subject_keys(SECRET, load_table(p, columns), columns) for p in paths]
    assert keys[0] == keys[1] == keys[2]
    assert len(set(keys[0])) == 40


def test_keys_follow_the_row_and_the_secret_and_nothing_else(tmp_path):
    table = load_table(write_table(tmp_path / "t.csv"), ["patient_id", "age", "target"])
    keys = subject_keys(SECRET, table, ["patient_id"])
    assert subject_keys(SECRET, table.iloc[::-1], ["patient_id"]) == keys[::-1]
    assert set(subject_keys(SECRET + b"x", table, ["patient_id"])).isdisjoint(keys)
    assert set(subject_keys(SECRET, table, ["patient_id", "age"])).isdisjoint(keys)
    shifted = pd.DataFrame({"a": ["1", "12"], "b": ["23", "3"]})
    assert len(set(subject_keys(SECRET, shifted, ["a", "b"]))) == 2, "values do not run together"
    missing = pd.DataFrame({"a": [None, "x"], "b": ["x", None]})
    assert len(set(subject_keys(SECRET, missing, ["a", "b"]))) == 2


def error_of(call) -> InputError:
    with pytest.raises(InputError) as caught:
        call()
    return caught.value


def test_each_mistake_in_a_file_has_its_code(tmp_path):
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "header.csv").write_text("a,b\n")
    (tmp_path / "t.xlsx").write_bytes(b"PK")
    (tmp_path / "t.parquet").write_bytes(b"no parquet at all")
    (tmp_path / "t.jsonl").write_text('{"a": 1}\nMueller, Hans\n')
    (tmp_path / "ragged.csv").write_text("a,b\n1,2\n1,2,3,Mueller\n")
    codes = {
        "missing.csv": "RSD-2300", "empty.csv": "RSD-2302", "header.csv": "RSD-2302", "t.xlsx": "RSD-2301",
        "t.parquet": "RSD-2301", "t.jsonl": "RSD-2301", "ragged.csv": "RSD-2301",
    }  # fmt: skip
    for name, code in codes.items():
        error = error_of(lambda name=name: load_table(tmp_path / name, ["a"]))
        assert (name, error.code) == (name, code)
        assert "Mueller" not in str(error)
    table = write_table(tmp_path / "t.csv")
    error = error_of(lambda: load_table(table, ["TSH", "diagnosis", "ward"]))
    assert error.code == "RSD-2303"
    assert error.found == "missing: diagnosis, ward"


def test_unknown_classes_are_errors_without_values_and_one_class_will_do(tmp_path):
    source = TableFile(write_table(tmp_path / "t.csv"))
    error = error_of(lambda: load_records(tiny_task(label_column="age", label_other=None), source))
    assert error.code == "RSD-2304"
    assert error.found == "classes unknown or missing"
    (tmp_path / "gap.csv").write_text("TSH,age,target\n1,2,-\n1,2,\n1,2,K\n")
    assert error_of(lambda: load_records(tiny_task(), TableFile(tmp_path / "gap.csv"))).code == "RSD-2304"
    (tmp_path / "one.csv").write_text("TSH,age,target\n1,2,-\n1,2,-\n")
    assert len(set(load_records(tiny_task(), TableFile(tmp_path / "one.csv")).labels.tolist())) == 1


def test_classes_are_indices_into_the_task_s_labels(tmp_path):
    (tmp_path / "t.csv").write_text("TSH,age,target\n1,2,K\n1,2,-\n1,2,X\n")
    assert load_records(tiny_task(), TableFile(tmp_path / "t.csv")).labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"), (0.1 + 0.2, "0.3"), (np.float32(0.3), "0.3"), (np.int64(7), "7"), (True, "true"),
        (np.bool_(False), "false"), (" a ", "a"), ("", None), ("  ", None), (None, None), (float("nan"), None),
        (pd.NA, None), (pd.NaT, None), (np.float64("nan"), None), (1e300, str(int(1e300))),
    ],
)  # fmt: skip
def test_values_have_one_text(value, text):
    assert canonical_text(value) == text


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("1.10", 1.1), ("007", 7), (" +5 ", 5), ("-0", 0), (".5", 0.5), ("5.", 5.0), ("1E3", 1000.0), ("TRUE", True),
        ("12345678901234567891", 12345678901234567891), ("9" * 5000, "9" * 5000), ("1e999", "1e999"), ("inf", "inf"),
        ("<0.1", "<0.1"), ("1,5", "1,5"), ("1_0", "1_0"), ("\u0661", "\u0661"), ("0x1f", "0x1f"), ("1 2", "1 2"),
        ("na", "na"), ("?", "?"), (Decimal("1.50"), 1.5), (Decimal("NaN"), None), (2**60 + 1, 2**60 + 1),
        *((f" {text} ", None) for text in sorted(MISSING)),
    ],
)  # fmt: skip
def test_a_cell_is_read_by_its_own_text(cell, value):
    assert value_of(cell) == value
    assert type(value_of(cell)) is type(value)


def test_names_stay_as_they_are_written():
    assert as_written(Decimal("123456789.125")) == "123456789.125"
    assert [as_written(v) for v in (" 1.10", "12E3", "NA", " ", None, 1.0)] == ["1.10", "12E3", "NA", None, None, "1"]


def test_classes_are_read_as_cells_are(tmp_path):
    """A study that lists "01" means the cells 1, 1.0 and 01, and cannot mean two classes by them."""
    (tmp_path / "t.csv").write_text("TSH,age,target\n1,2,01\n1,2,1.0\n1,2,0\n")
    source = TableFile(tmp_path / "t.csv")
    task = tiny_task(label_values={"00": "no", "01": "yes"}, label_other=None)
    assert load_records(task, source).labels.tolist() == [1, 1, 0]
    two = tiny_task(label_values={"1": "no", "01": "yes", "0": "no"})
    assert error_of(lambda: load_records(two, source)).code == "RSD-2304"


def test_a_csv_is_cut_into_cells_line_by_line(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b'\xef\xbb\xbf,a,"b\nc"\r\n1,2\n\n  \n"x\r\ny",3,4,,\r\n')
    table = load_table(path, [])
    assert table.columns.tolist() == ["Unnamed: 0", "a", "b\nc"]
    assert table.to_numpy().tolist() == [["1", "2", ""], ["x\r\ny", "3", "4"]]
    for damaged in (b"a,a\n1,2\n", b'a,b\n1,"2\n', b"a,b\n1,2,3\n", b"a,b\n1," + b"x" * (1 << 18)):
        path.write_bytes(damaged)
        assert error_of(lambda: load_table(path, [])).code == "RSD-2301"


@pytest.mark.parametrize("line", ['{"a": "\\ud800"}', "[1]", '{"a": 1} {"a": 2}', '{"a": ' + "1" * 5000 + "}"])
def test_a_line_that_is_no_record_is_refused(tmp_path, line):
    (tmp_path / "t.jsonl").write_text('{"a": 1, "b": "\\u00e9"}\n\n' + line + "\n")
    assert error_of(lambda: load_table(tmp_path / "t.jsonl", ["a"])).code == "RSD-2301"


def test_a_line_of_json_without_end_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("client.data.table._LONGEST_LINE", 64)
    path = tmp_path / "t.jsonl"
    path.write_text('{"a": "' + "x" * 50 + '"}\n')
    assert len(load_table(path, ["a"])) == 1
    path.write_text('{"a": "' + "x" * 60 + '"}\n')
    assert error_of(lambda: load_table(path, ["a"])).code == "RSD-2301"


def test_templates_substitute_columns_and_drop_parts():
    row = {"a": 1.0, "b": None, "c d": "x{a}"}
    assert render("a={a}; b={b}; [b is {b}, ][c is {c d}]", row) == "a=1; b=; c is x{a}"
    assert render("[{a} and {b}]", row) == ""
    assert parse_template("{a}[{b}{a}]").columns == ("a", "b")
    with pytest.raises(KeyError):
        render("{z}", row)


@pytest.mark.parametrize("text", ["{a", "a}", "[{a}", "{a}]", "[[{a}]]", "{}", "{a{b}}", "plain", "{a[b]}", ""])
def test_a_malformed_template_is_refused(text):
    assert error_of(lambda: parse_template(text)).code == "RSD-2306"


@pytest.mark.parametrize("text", ["{a.__class__}", "{a!r}", "{a:>10}", "{0}", "{a[0]}"])
def test_templates_are_no_format_strings(text):
    """What `str.format` would evaluate is either a column of that very name or an error."""
    try:
        columns = parse_template(text).columns
    except InputError:
        return
    assert columns == (text[1:-1],)

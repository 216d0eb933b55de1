"""No error about a dataset holds a cell, a header or the path of it: it goes to the operator and into the log."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from client.data.identity import subject_keys
from client.data.table import TableFile, load_table
from client.data.text import canonical_text
from client.tasks.classification import load_records
from compliance.errors import InputError
from tests.tiny_bert import tiny_task

PATIENTS = [["Ingrid Mueller", "1950-03-02", "HIV+", "TSH 4.1"], ["Hans Meier", "1961-01-01", "none", "TSH 1.0"]]


def error_of(path: Path, **task: Any) -> InputError:
    """The refusal of `path`, of which the path is no part."""
    with pytest.raises(InputError) as e:
        load_records(tiny_task(**task), TableFile(path))
    said = " ".join(e.value.as_json().values())
    assert path.name not in said
    assert path.stem not in said
    assert str(path.parent) not in said
    return e.value


def holds_none(error: InputError, cells: Sequence[object]) -> None:
    """No cell occurs as a word of the error: words, because every number stands in some longer one."""
    said = " ".join(error.as_json().values())
    for cell in cells:
        text = str(cell)
        assert not re.search(rf"(?<![\w.]){re.escape(text)}(?![\w.])", said), (text, said)


def test_the_first_patient_of_a_headerless_extract_is_no_header(tmp_path: Path) -> None:
    path = tmp_path / "extract.csv"
    path.write_text("\n".join(",".join(row) for row in PATIENTS) + "\n")
    error = error_of(path)
    assert error.code == "RSD-2303"
    assert (error.found, error.limit) == ("missing: TSH, age, target", "4 columns present")
    holds_none(error, [cell for row in PATIENTS for cell in row])
    for row in PATIENTS:
        for word in " ".join(row).split():
            assert word == "TSH" or word not in str(error)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_header_of_the_file_is_no_part_of_an_error(tmp_path: Path, suffix: str) -> None:
    frame = pd.DataFrame({"ward_seven": ["Mueller", "Meier"], "TSH": [4.125, 1.0625], "diagnosis": ["B20", "E03"]})
    path = tmp_path / f"extract{suffix}"
    write = {".csv": frame.to_csv, ".parquet": frame.to_parquet}.get(suffix)
    if write:
        write(path, index=False)
    else:
        frame.to_json(path, orient="records", lines=True)
    error = error_of(path)
    assert (error.code, error.limit) == ("RSD-2303", "3 columns present")
    holds_none(error, ["ward_seven", "diagnosis", *frame.to_numpy().ravel()])


def test_unknown_classes_are_not_named_or_counted(tmp_path: Path) -> None:
    path = tmp_path / "extract.csv"
    path.write_text("TSH,age,target\n4.125,71,B20\n1.0625,72,E03\n9.5,73,F10\n")
    error = error_of(path, label_other=None)
    assert error.code == "RSD-2304"
    holds_none(error, ["4.125", "1.0625", "71", "72", "73", "B20", "E03", "F10", "3"])


DAMAGED: dict[str, tuple[str, bytes]] = {
    "ragged": ("ragged.csv", b"TSH,age,target\n1,2,K\n1,2,K,Mueller\n"),
    "latin": ("latin.csv", b"TSH,age,target\n1,2,M\xfcller\n"),
    "quote": ("unclosed.csv", b'TSH,age,target\n1,2,"Mueller\n'),
    "broken line": ("lines.jsonl", b'{"TSH": 1}\nMueller, Hans\n'),
    "numbers": ("numbers.jsonl", b"71\n72\n"),
    "texts": ("texts.jsonl", b'"Mueller"\n"Meier"\n'),
    "lists": ("hospital.jsonl", b'["Mueller", 1]\n["Meier", 3]\n'),
    "bigint": ("bigint.jsonl", b'{"TSH": ' + b"7" * 5000 + b"}\n"),
    "nested": ("nested.jsonl", b"[" * 5000 + b"]" * 5000),
    "no parquet": ("none.parquet", b"Mueller"),
    "half parquet": ("half.parquet", b"PAR1Mueller\xff\xff\xff\x7fPAR1"),
    "empty": ("empty.csv", b""),
    "header only": ("header.csv", b"Mueller,1950-03-02\n"),
    "the suffix": ("extract.mueller", b"TSH,age,target\n1,2,K\n"),
    "no suffix": ("mueller-extract", b"TSH,age,target\n1,2,K\n"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_file_is_refused_without_its_content(tmp_path: Path, kind: str) -> None:
    name, data = DAMAGED[kind]
    (tmp_path / name).write_bytes(data)
    error = error_of(tmp_path / name)
    assert error.code in {"RSD-2301", "RSD-2302", "RSD-2303", "RSD-2304"}
    said = str(error).lower()
    for word in ("mueller", "meier", "ller", "1950", "71", "777"):
        assert word not in said


def test_no_table_and_no_file(tmp_path: Path) -> None:
    assert error_of(tmp_path / "mueller.csv").code == "RSD-2300"
    (tmp_path / "meier.csv").mkdir()
    assert error_of(tmp_path / "meier.csv").code == "RSD-2300"


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    columns = [pa.array([1.5, 2.5]), pa.array([71, 72]), pa.array(["K", "-"]), pa.array(["-", "K"])]
    pq.write_table(pa.table(columns, names=["TSH", "age", "target", "target"]), tmp_path / "hospital.parquet")
    assert error_of(tmp_path / "hospital.parquet").code == "RSD-2301"


ODD = {
    "lists": [[1, 2], [3]],
    "empty lists": [[], []],
    "structs": [{"a": 1}, {"a": 2}],
    "decimals": [Decimal("1.50"), Decimal("2.25")],
    "bytes": [b"Mueller", b"Meier"],
    "times": [pd.Timestamp("1950-03-02"), pd.NaT],
    "infinities": [float("inf"), float("-inf")],
    "nulls": [None, None],
    "truths": [True, False],
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_types_are_text_or_an_error_without_values(tmp_path: Path, kind: str) -> None:
    frame = pd.DataFrame({"TSH": ODD[kind], "age": ODD[kind], "target": ["K", "-"]})
    path = tmp_path / "hospital.parquet"
    frame.to_parquet(path)
    assert load_records(tiny_task(), TableFile(path)).labels.tolist() == [1, 0]
    table = load_table(path, [])
    assert len(subject_keys(b"0" * 16, table, ["TSH", "age", "target"])) == 2
    frame["target"] = ODD[kind]
    frame.to_parquet(path)
    holds_none(error_of(path, label_other=None), ["Mueller", "Meier", "1.50", "2.25", "inf", "1950-03-02"])


def test_a_list_has_one_text_whatever_the_format() -> None:
    assert canonical_text(np.array([1, 2])) == canonical_text([1, 2]) == "[1, 2]"
    assert canonical_text(np.array([7])) == "[7]"
    long = [canonical_text(np.arange(n)) for n in (2000, 2001)]
    assert long[0] != long[1], "nothing is left out of a long one"

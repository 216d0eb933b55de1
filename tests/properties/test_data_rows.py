"""A record's input depends on its own cells: whatever row joins the table, every other record stays what it was."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from client.data.coincidence import read_content
from client.data.identity import subject_keys
from client.data.table import TableFile
from client.data.text import MISSING
from client.data.units import patient_units
from client.tasks.base import task_of
from compliance.task_spec import Categorical, CausalLM, Numeric, SequenceClassification, Tabular, TokenClassification

CLASSES = {"labels": ("no", "yes"), "label_column": "target", "label_values": {"0": "no", "01": "yes"},
           "label_other": "yes"}  # fmt: skip
TEMPLATE = "[TSH {TSH}.][ age {age}][ note {note}] end"
TEXTS = SequenceClassification(kind="sequence_classification", template=TEMPLATE, max_tokens=9, **CLASSES)
LETTERS = CausalLM(kind="causal_lm", template=TEMPLATE, max_tokens=9)
WORDS = TokenClassification(kind="token_classification", labels=("O", "B-x", "1.0"), tokens_column="words",
                            tags_column="tags", max_tokens=9)  # fmt: skip
CELLS = Tabular(
    kind="tabular", ranges_source="a textbook", **CLASSES,
    numeric=(Numeric(column="age", centre_micro=50_000_000, half_width_micro=50_000_000),),
    categorical=(Categorical(column="note", categories=("1", "x", "true")),),
)  # fmt: skip
COLUMNS = ("patient", "TSH", "age", "note", "target", "words", "tags")

# What other readers give another meaning as soon as one row of the column is a text, missing, or a longer number.
TRICKY = ("1.10", "1", "1.0", "01", "007", "0", "TRUE", "true", "1E3", "NA", "", "<0.1", "x", "1960-01-01", "1.50 ",
          "12345678901234567890", "12345678901234567891", "-0")  # fmt: skip
NUMBERS = ("1.10", "1", "07", " 50 ", "NA", "", "true", "9" * 20, ".5", "1e1")
PEOPLE = st.sampled_from(["7", "07", "7.0", "NA", "12E3", "12345678901234567890", "12345678901234567891"])
UTF8 = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
CSV_TEXTS = UTF8.filter(lambda text: "\0" not in text)  # a CSV with a zero byte is refused (RSD-2301)


CELL_TEXTS = st.sampled_from(TRICKY)


@st.composite
def rows(draw: Any, anything: Any = CELL_TEXTS) -> dict[str, Any]:
    """A row that every task takes: it has a class, a number or none as age, and as many tags as words."""
    words = draw(st.lists(st.sampled_from(["1.10", "1", "tsh"]), min_size=1, max_size=2))
    return {
        "patient": draw(PEOPLE),
        "TSH": draw(anything),
        "age": draw(st.sampled_from(NUMBERS)),
        "note": draw(anything),
        "target": draw(st.sampled_from(["0", "1", "01", "1.0", "00", "K", "TRUE"])),
        "words": " ".join(words),
        "tags": " ".join(draw(st.sampled_from(["O", "1.0"])) for _ in words),
    }


def as_csv(table: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS)
    writer.writeheader()
    writer.writerows(table)
    return out.getvalue()


def as_lines(table: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in table)


def seen(path: Path, count: int) -> list[Any]:
    """All that the first `count` records are to the tasks, the engine and the site's own index."""
    source = TableFile(path)
    texts, letters = task_of(TEXTS.kind).records(TEXTS, source), task_of(LETTERS.kind).records(LETTERS, source)
    words = task_of(WORDS.kind).records(WORDS, source)
    cells = task_of(CELLS.kind).records(CELLS, source)
    table = source.table(COLUMNS)
    content = read_content(bytes(16), table, ["patient"]).cells
    return [
        texts.texts[:count], texts.labels[:count].tolist(), letters.texts[:count],
        words.words[:count], words.tags[:count], cells.cells[:count].tobytes(), cells.labels[:count].tolist(),
        patient_units(table["patient"].tolist())[:count].tolist(), subject_keys(bytes(16), table, ["patient"])[:count],
        {name: numbers[:count].tolist() for name, numbers in content.items()},
    ]  # fmt: skip


def unchanged(suffix: str, before: str, after: str, count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"t{suffix}"
        path.write_bytes(before.encode())
        found = seen(path, count)
        path.write_bytes(after.encode())
        assert seen(path, count) == found


ODD = {"patient": "x", "TSH": "<0.1", "age": "NA", "note": "high", "target": "K", "words": "a", "tags": "O"}
PLAIN = {"patient": "12345678901234567890", "TSH": "1.10", "age": "1", "note": "1.0", "target": "01", "words": "1.10",
         "tags": "1.0"}  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(rows(), min_size=1, max_size=4), rows(CSV_TEXTS))
@example([PLAIN, PLAIN | {"TSH": "2", "target": "0"}], ODD)
def test_a_row_of_a_csv_changes_no_other(table, other):
    unchanged(".csv", as_csv(table), as_csv([*table, other]), len(table))


CELL = st.one_of(st.sampled_from(TRICKY), st.integers(-(10**20), 10**20), st.floats(), st.booleans(), st.none(),
                 st.lists(st.integers(0, 2), max_size=2), UTF8)  # fmt: skip


@st.composite
def objects(draw: Any) -> dict[str, Any]:
    row = draw(rows(CELL)) | {"age": draw(st.one_of(st.integers(0, 99), st.floats(0, 99), st.none(), st.booleans()))}
    for name in draw(st.sets(st.sampled_from(["TSH", "age", "note"]))):
        del row[name]
    return {**row, **draw(st.dictionaries(st.sampled_from(["other", "date", "modified"]), CELL))}


NATIVE = {"patient": 9, "TSH": 1.1, "age": 2**60 + 1, "note": 1, "target": 1, "words": "1.10", "tags": "1.0"}


@settings(max_examples=60, deadline=None)
@given(st.lists(objects(), min_size=1, max_size=4), objects())
@example([NATIVE | {"note": None}, NATIVE | {"patient": 2**60 + 1, "date": 5}], ODD)
@example([NATIVE | {"patient": 2**60 + 1}, NATIVE | {"patient": 2**60}], {**NATIVE, "patient": 1.5, "age": None})
def test_a_line_of_json_changes_no_other(table, other):
    table = [{"TSH": None, "age": None, "note": None, **row} for row in table]  # the columns are the schema's
    names = {name for row in table for name in row}
    with_other = [*table, {k: v for k, v in other.items() if k in names}]
    unchanged(".jsonl", as_lines(table), as_lines(with_other), len(table))


@pytest.mark.parametrize("other", [None, 5])
def test_a_null_of_a_typed_column_changes_no_other(tmp_path, other):
    """2^60 + 1 is no float: a column of integers with a null must not become one of floats."""
    base = {"patient": [2**60 + 1, 2**60], "TSH": [1.1, None], "age": [2**60 + 1, 7], "note": [1, 2],
            "target": [True, False], "words": ["1.10", "b"], "tags": ["1.0", "O"]}  # fmt: skip
    types = dict(zip(COLUMNS, (pa.int64(), pa.float32(), pa.int64(), pa.int64(), pa.bool_(), pa.string(), pa.string()),
                     strict=True))  # fmt: skip
    path = tmp_path / "t.parquet"
    found = []
    for last in ([], [other]):
        table = {name: cells + [cells[1] if name not in ("age", "note", "TSH") else c for c in last]
                 for name, cells in base.items()}  # fmt: skip
        pq.write_table(pa.table({n: pa.array(c, types[n]) for n, c in table.items()}), path)
        found.append(seen(path, 2))
    assert found[0] == found[1]
    assert f"age {2**60 + 1} note 1" in found[0][0][0]
    assert found[0][7] == [0, 1]


@settings(deadline=None)  # three files an example: a busy machine takes its time
@given(st.sampled_from(sorted(MISSING)) | st.sampled_from(TRICKY))
def test_a_text_means_the_same_in_every_format(cell):
    row = {**PLAIN, "TSH": cell, "note": cell}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "t.csv").write_text(as_csv([row]))
        (path / "t.jsonl").write_text(as_lines([row]))
        pq.write_table(pa.Table.from_pylist([row]), path / "t.parquet")
        found = [seen(path / f"t{s}", 1) for s in (".csv", ".jsonl", ".parquet")]
    assert found[0] == found[1] == found[2]

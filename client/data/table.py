"""A site's table on disk: CSV, Parquet or JSON Lines, read record by record.

What a cell means follows from that cell alone (`client.data.text.value_of`): no type is inferred from a column, so
that no record changes another one's input. A CSV's cells are texts; those of JSON Lines are as JSON types them; those
of Parquet are as the file's schema types them, and a missing one changes no other.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import pandas as pd

from client.data import damage
from client.data.damage import Damage
from compliance.errors import InputError

_LONGEST_LINE: Final = 1 << 26  # characters of a line of JSON
_Cells = dict[str, list[Any]]


class DataSource(Protocol):
    """Where a site's records come from. Reading has no side effect; the same extract gives the same rows in order."""

    def table(self, columns: Sequence[str]) -> pd.DataFrame:
        """The records, one a row, with at least `columns`. Raises InputError RSD-2300 to RSD-2303."""
        ...


@dataclass(frozen=True)
class TableFile:
    """A `DataSource` that is one file."""

    path: Path

    def table(self, columns: Sequence[str]) -> pd.DataFrame:
        """See `DataSource.table`."""
        return load_table(self.path, columns)

    @property
    def folder(self) -> Path:
        """Where the file lies, and the images that its rows may name."""
        return self.path.parent


def load_table(path: Path, columns: Sequence[str], *, at_the_site: bool = False) -> pd.DataFrame:
    """The rows of `path` with `columns`, all of them if none is named, in file order. Cells are Python objects.

    Raises InputError RSD-2300 (no file), RSD-2301 (not .csv, .parquet or .jsonl, or not readable as such), RSD-2302
    (no rows), RSD-2303 (a column is missing). An error reaches the operator and the log: it names columns of the study
    and numbers of columns, nothing of the file. Without a header the first patient would be the "columns". Who is
    `at_the_site` is told the place of a damage as well.
    """
    if not path.is_file():
        raise InputError(
            "RSD-2300", "the dataset's file is not there", found="no file", limit="a readable file",
            next="check the path of the dataset",
        )  # fmt: skip
    try:
        cells = _read(path)
    except Damage as e:
        raise e.error(at_the_site=at_the_site) from None
    if not any(cells.values()):
        raise InputError(
            "RSD-2302", "the dataset has no rows", found="0 rows", limit="at least 1 row",
            next="export the dataset again",
        )  # fmt: skip
    if missing := sorted(set(columns) - set(cells)):
        raise InputError(
            "RSD-2303", "the dataset lacks a column that is asked for", rule="the study's template and label name it",
            found=f"missing: {', '.join(missing)}", limit=f"{len(cells)} columns present",
            next="export these columns too, or ask the operator to change the study",
        )  # fmt: skip
    return pd.DataFrame({name: cells[name] for name in dict.fromkeys(columns or cells)}, dtype=object)


def _csv(path: Path) -> _Cells:
    """UTF-8, cells apart by commas. A short line lacks its last cells, but the last line of the file is whole; a longer
    one may only have empty cells more.
    """
    fields, last = 0, 0
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(_text(file), strict=True)
        try:
            names = [name or f"Unnamed: {i}" for i, name in enumerate(next(lines, []))]
            rows = []
            for row in lines:
                if not _blank(row, len(names)):
                    fields, last = len(row), lines.line_num
                    rows.append(_fitted(row, len(names), last))
        except csv.Error as e:
            raise damage.of_csv(e, lines.line_num) from None
    if rows and fields < len(names):
        raise damage.cut_off(last, fields, len(names))
    return _columns(names, list(zip(*rows, strict=True)) or [()] * len(names))


def _text(lines: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if "\0" in line:
            raise damage.zero_byte(number)
        yield line


def _blank(row: Sequence[str], width: int) -> bool:
    return not row or (len(row) == 1 < width and not row[0].strip())


def _fitted(row: list[str], width: int, line: int) -> list[str]:
    if any(row[width:]):
        raise damage.too_many_fields(line, len(row), width)
    return row[:width] + [""] * (width - len(row))


def _json_lines(path: Path) -> _Cells:
    """One object a line. A key that a line lacks is missing there, and a whole number is exact."""
    with path.open(encoding="utf-8-sig") as file:
        rows = [_object(line, number) for number, line in _lines(file.readline)]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _lines(readline: Callable[[int], str]) -> Iterator[tuple[int, str]]:
    number = 0
    while line := readline(_LONGEST_LINE):
        number += 1
        if len(line) == _LONGEST_LINE:
            raise damage.no_object(number)
        if line.strip():
            yield number, line


def _object(line: str, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
        if "\\u" in line:
            json.dumps(row, ensure_ascii=False).encode()  # half a character could be neither hashed nor tokenised
    except (ValueError, RecursionError):
        raise damage.no_object(number) from None
    if not isinstance(row, dict):
        raise damage.no_object(number)
    return row


def _parquet(path: Path) -> _Cells:
    from pyarrow import parquet  # noqa: PLC0415 - the allocator of pyarrow has threads; only here

    with parquet.ParquetFile(path) as file:
        table = file.read()
    return _columns(table.column_names, [column.to_pylist() for column in table.columns])


def _columns(names: Sequence[str], cells: Sequence[Sequence[Any]]) -> _Cells:
    places: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if (first := places.setdefault(name, number)) < number:
            raise damage.one_name_twice(first, number)
    return {name: list(column) for name, column in zip(names, cells, strict=True)}


_READERS: Final[dict[str, Callable[[Path], _Cells]]] = {".csv": _csv, ".parquet": _parquet, ".jsonl": _json_lines}

# What the readers raise on damaged files, beside their own classes (which derive from these).
_BROKEN: Final = (
    csv.Error, ValueError, OSError, LookupError, TypeError, AttributeError, ArithmeticError, NotImplementedError,
    RecursionError,
)  # fmt: skip


def _read(path: Path) -> _Cells:
    """Raises Damage."""
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise damage.other_suffix(tuple(_READERS))
    try:
        return reader(path)
    except Damage:
        raise
    except UnicodeDecodeError:
        raise damage.of_encoding(path) from None
    except _BROKEN as e:
        raise damage.of_library(e) from None

"""A site's table on disk: CSV, Parquet or JSON Lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pandas as pd

from compliance.errors import InputError


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

    def texts(self, columns: Sequence[str]) -> pd.DataFrame:
        """`columns` as the file writes them: a CSV's cells are not read as numbers, dates or missing values.

        The rows are those of `table`: the same file is read whole, so that a line is cut into columns the same way.
        """
        if self.path.suffix.lower() != ".csv":
            return self.table(columns)
        read = pd.read_csv(self.path, dtype=str, keep_default_na=False)
        return read[list(dict.fromkeys(columns))]


def _csv(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, low_memory=False)


def _json_lines(path: Path) -> pd.DataFrame:
    return pd.read_json(path, lines=True, dtype=False)


_READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": _csv,
    ".parquet": pd.read_parquet,
    ".jsonl": _json_lines,
}


# What the libraries raise on damaged files, beside their own classes (which derive from these).
_PARSER_ERRORS = (ValueError, OSError, LookupError, TypeError, AttributeError, ArithmeticError, NotImplementedError)


def load_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """The rows of `path` with `columns`, all of them if none is named, in file order.

    Raises InputError RSD-2300 (no file), RSD-2301 (not .csv, .parquet or .jsonl, or not readable as such), RSD-2302
    (no rows), RSD-2303 (a column is missing). An error reaches the operator and the log: it names columns of the study
    and numbers of columns, nothing of the file. Without a header the first patient would be the "columns".
    """
    if not path.is_file():
        raise InputError(
            "RSD-2300", "the dataset's file is not there", found="no file", limit="a readable file",
            next="check the path of the dataset",
        )  # fmt: skip
    table = _read(path)
    if table.empty:
        raise InputError(
            "RSD-2302", "the dataset has no rows", found="0 rows", limit="at least 1 row",
            next="export the dataset again",
        )  # fmt: skip
    if missing := sorted(set(columns) - set(table.columns)):
        raise InputError(
            "RSD-2303", "the dataset lacks a column that is asked for", rule="the study's template and label name it",
            found=f"missing: {', '.join(missing)}", limit=f"{len(table.columns)} columns present",
            next="export these columns too, or ask the operator to change the study",
        )  # fmt: skip
    return table[list(dict.fromkeys(columns))] if columns else table


def _read(path: Path) -> pd.DataFrame:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise _unreadable("another suffix")
    try:
        return reader(path)
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
    except _PARSER_ERRORS as e:
        # The library's message may quote a row; its type is enough.
        raise _unreadable(type(e).__name__) from None


def _unreadable(found: str) -> InputError:
    return InputError(
        "RSD-2301", "the dataset cannot be read as a table", rule="the suffix tells the format", found=found,
        limit=", ".join(_READERS), next="export the dataset as CSV, Parquet or JSON Lines",
    )  # fmt: skip

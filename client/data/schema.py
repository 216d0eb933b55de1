"""What may be told of an extract: columns with their types, rounded numbers of rows and of people."""

from __future__ import annotations

from typing import Literal

import pandas as pd

from client.data.text import value_of
from client.home import Column
from compliance.errors import InputError

_LEAST = 10


def declared_count(count: int) -> int:
    """A number of rows or of people rounded to two significant digits, at least to tens, half up; never below 10.

    2394 is 2400, 255 is 260, 71 is 70, 3 is 10. No other number of them is stored, logged or shown.
    """
    unit = max(_LEAST, int(10 ** (len(str(count)) - 2)))
    return max(_LEAST, (2 * count + unit) // (2 * unit) * unit)


def columns_of(table: pd.DataFrame) -> tuple[Column, ...]:
    """Name and type of each column, in order, and nothing of the values.

    Raises InputError RSD-2401 for a name that is no text or is longer than 200 characters, or is a bare number: then
    the first record stands in the place of the header.
    """
    for name in table.columns:
        if not isinstance(name, str) or not name.strip() or len(name) > 200 or _numeric(name):
            raise InputError(
                "RSD-2401",
                "the extract has no header",
                rule="the first line names the columns",
                found="a column name that is a number, empty, or very long",
                limit="names",
                next="export the extract with a header line",
            )
    return tuple(Column(name=str(name), type=_type(table[name])) for name in table.columns)


def _numeric(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


def _type(column: pd.Series) -> Literal["integer", "number", "truth", "text"]:
    """What all values are that are not missing. It describes the column and changes how no cell is read."""
    kinds = {type(value_of(cell)) for cell in column.tolist()} - {type(None)}
    if kinds == {bool}:
        return "truth"
    if kinds == {int}:
        return "integer"
    return "number" if kinds and kinds <= {int, float} else "text"

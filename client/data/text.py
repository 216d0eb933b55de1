"""What one cell says, whatever file it came from and whatever stands in other rows. No pandas: the agent uses it."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Any, Final

# A text that is one of these means that the value is missing. Others, such as "?" or "unknown", are values.
MISSING: Final = frozenset(
    {
        "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
        "NULL", "NaN", "None", "n/a", "nan", "null",
    }
)  # fmt: skip
_NULLS: Final = frozenset({"NAType", "NaTType"})  # pandas' own missing values
_WHOLE: Final = re.compile(r"[-+]?[0-9]+")
_NUMBER: Final = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")

Value = None | bool | int | float | str


def value_of(cell: Any) -> Value:
    """What a cell says: None (missing), a truth value, a number, or a text without outer space. Of this cell alone.

    A text is a number if all of it is one in decimal digits, with a sign, a point or an exponent if need be: "007" is
    7, "1.10" is 1.1, "<0.1" and "1,5" are texts. A whole number without point is exact; others are float64, and one
    beyond their range stays a text. "true" and "false" in any case are truth values. Missing are None, NaN and the
    texts of `MISSING`. What is none of these (a list, a date, bytes) is its text.
    """
    if cell is None or type(cell).__name__ in _NULLS:
        return None
    if hasattr(cell, "tolist"):  # a numpy scalar, or a list
        cell = cell.tolist()
    if isinstance(cell, float):
        return None if math.isnan(cell) else cell
    if isinstance(cell, bool | int):
        return cell
    return _read(str(cell).strip()) if isinstance(cell, str | Decimal) else str(cell).strip() or None


def _read(text: str) -> Value:
    if text in MISSING:
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        if _WHOLE.fullmatch(text):
            return int(text)
        number = float(text) if _NUMBER.fullmatch(text) else math.inf
    except ValueError:  # more digits than Python reads
        return text
    return number if math.isfinite(number) else text


def canonical_text(cell: Any) -> str | None:
    """One text per value (`value_of`), None for a missing one.

    Whole numbers have no decimal point, others at most six significant digits; truth values are true and false.
    """
    value = value_of(cell)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else f"{value:.6g}"
    return str(value) if isinstance(value, int) else value


def as_written(cell: Any) -> str | None:
    """A text or decimal as the file has it, without outer space: for names and identifiers, which may be long.

    Other cells as `canonical_text`.
    """
    return str(cell).strip() or None if isinstance(cell, str | Decimal) else canonical_text(cell)

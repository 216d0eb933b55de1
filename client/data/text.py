"""One text for one value of a cell, whatever file it came from. No pandas: the agent's own process uses it."""

from __future__ import annotations

import math
from typing import Any, Final

_MISSING: Final = frozenset({"NAType", "NaTType"})  # pandas' own missing values


def canonical_text(value: Any) -> str | None:
    """One text per value, whatever file format it came from; None for a missing value (None, NaN, empty text).

    Integral numbers have no decimal point, others at most six significant digits; truth values are true and false;
    text is stripped.
    """
    if value is None or type(value).__name__ in _MISSING:
        return None
    if hasattr(value, "tolist"):  # a numpy scalar, or the list in a cell of a Parquet file
        value = value.tolist()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() else f"{value:.6g}"
    return str(value).strip() or None

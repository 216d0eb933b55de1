"""Columns of a new extract that hold the identifiers of people whom the site knows, although none was named as such."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from client.data.identity import canonical_id, subject_key

if TYPE_CHECKING:
    import pandas as pd

_MOST = 2000  # values looked at of one column, evenly spread over its sorted values
_FEWEST = 20  # known people: below that a withdrawal of them is likelier seen by a person than by a rule
_PROBES = 400
_DIGITS = 18  # longer numbers lie far apart
_DEVIATIONS = 4.0  # above what chance would give

Count = Callable[[Sequence[bytes]], int]  # how many of these keys are those of known people


def forgotten_columns(
    secret: bytes, table: pd.DataFrame, columns: Sequence[str], used: frozenset[str], count: Count
) -> list[str]:
    """Those of `columns` that identify known people. `used`: names of patient columns of registered extracts.

    A column does if at least 20, and half, of its values are known people, beyond what chance gives. Chance: where
    known identifiers are numbers that lie close together, such as 1 to 100, any small number is "known", an age too. So
    as many numbers of the column's own range that the column does not hold are looked up: as often as those are known,
    a value is known by chance. A column without gaps says nothing. For a column that is called as in an earlier
    extract the name speaks, and chance is not asked. Missed are identifiers without gaps under a new name.
    """
    return [name for name in columns if _identifies(secret, table[name], name.casefold() in used, count)]


def _identifies(secret: bytes, column: pd.Series, named: bool, count: Count) -> bool:
    every = sorted({canonical_id(v) for v in column.tolist()} - {""})
    values = every if len(every) <= _MOST else [every[i * len(every) // _MOST] for i in range(_MOST)]
    if len(values) < _FEWEST:
        return False
    known = count([subject_key(secret, (v,)) for v in values])
    if known < _FEWEST or 2 * known < len(values):
        return False
    chance = 0.0 if named else len(values) * _density(secret, every, count)
    return known >= chance + _DEVIATIONS * math.sqrt(chance + 1)


def _density(secret: bytes, values: Sequence[str], count: Count) -> float:
    """Share of known people among whole numbers between those of the column; 0 for other texts."""
    if not all(v.isascii() and v.isdigit() and len(v) <= _DIGITS for v in values):
        return 0.0
    numbers = {int(v) for v in values}
    low, span = min(numbers), max(numbers) - min(numbers) + 1
    picked = {low + int(f * span) for f in np.random.default_rng(0).random(4 * _PROBES)} - numbers
    if not picked:
        return 1.0
    probes = sorted(picked)[:: max(1, len(picked) // _PROBES)]
    return count([subject_key(secret, (p,)) for p in probes]) / len(probes)

"""Whether two extracts hold the same people although their identifiers differ: decisions without I/O.

A re-export under new pseudonyms has no identifier in common with the old one, but its rows say the same. Each cell of a
row, identifiers left out, becomes a keyed 64-bit number; a row is the sum of its cells modulo 2^64, over the columns
that both extracts have. So the order of rows and columns, the file's format and columns that only one of them has do
not matter. See `coincide` for the rule and what it gets wrong.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from client.data.text import canonical_text

if TYPE_CHECKING:
    import pandas as pd

Numbers = npt.NDArray[np.uint64]
MOST_ROWS = 20_000  # kept of one extract: enough to see an overlap of a thousandth
_FEWEST = 2  # coinciding rows: chance even where no row was seen to repeat
_DEVIATIONS = 4.0  # above what chance would give


@dataclass(frozen=True)
class Content:
    """Rows of one extract as keyed numbers: column name -> one number a row. Empty without content columns."""

    cells: Mapping[str, Numbers]
    rows: int

    def kept(self, keep: npt.NDArray[np.bool_]) -> Content:
        """Only the rows where `keep` is true."""
        return Content({name: column[keep] for name, column in self.cells.items()}, int(keep.sum()))


def read_content(secret: bytes, table: pd.DataFrame, id_columns: Sequence[str]) -> Content:
    """The content of all rows of `table`, in order; without `secret`, which stays at the site, it says nothing."""
    names = [str(name) for name in table.columns if name not in set(id_columns)]
    return Content({name: _column(secret, table[name]) for name in names}, len(table))


def _column(secret: bytes, column: pd.Series) -> Numbers:
    texts = [canonical_text(value) for value in column.tolist()]
    known = {text: _number(secret, text) for text in set(texts)}
    return np.array([known[text] for text in texts], dtype=np.uint64)


def _number(secret: bytes, text: str | None) -> int:
    data = b"" if text is None else b"\x01" + text.casefold().encode("utf-8")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, key=secret[:64], person=b"rsd.cell").digest(), "big")


def coincide(old: Content, new: Content) -> bool:
    """Whether enough rows say the same in both to be the same people.

    Each view of the rows (all common columns; those whose values agree; the latter without one more; all columns
    whatever their names) counts k, the rows of the smaller extract that stand in the larger one. Chance would give
    about e of its s rows, by how often rows repeat within either extract (Good-Turing: one minus the share of rows
    that are alone). The same people, if k >= e + 4 sqrt(e + 1) + 2 in any view; or if k >= s / 2 over all common
    columns and these are at least half of the columns of one extract.

    It errs towards yes: two populations described by so few or coarse columns that most rows coincide by chance count
    as one. It says no wrongly for fewer than six rows in common that are less than half, or when more than one column
    was rewritten in part.
    """
    common = sorted(set(old.cells) & set(new.cells))
    narrow = 2 * len(common) >= min(len(old.cells), len(new.cells)) > 0 and bool(common)
    if narrow and _half(_sum(old, common), _sum(new, common)):
        return True
    return any(_beyond_chance(a, b) for a, b in _views(old, new, common))


def _views(old: Content, new: Content, common: list[str]) -> Iterator[tuple[Numbers, Numbers]]:
    agreeing = [name for name in common if _agree(old.cells[name], new.cells[name])]
    for names in {tuple(common), tuple(agreeing)}:
        if names:
            yield _sum(old, names), _sum(new, names)
    a, b = _sum(old, agreeing), _sum(new, agreeing)
    for name in agreeing if len(agreeing) > 1 else ():
        yield a - _mixed(old, name), b - _mixed(new, name)
    if len(old.cells) == len(new.cells) > 0:
        yield _unnamed(old), _unnamed(new)


def _sum(content: Content, names: Sequence[str]) -> Numbers:
    out = np.zeros(content.rows, dtype=np.uint64)
    for name in names:
        out += _mixed(content, name)
    return out


def _mixed(content: Content, name: str) -> Numbers:
    """The column's numbers times an odd number of its name: the same value in two columns gives different terms."""
    factor = int.from_bytes(hashlib.blake2b(name.encode("utf-8"), digest_size=8).digest(), "big") | 1
    return content.cells[name] * np.uint64(factor)


def _unnamed(content: Content) -> Numbers:
    out = np.zeros(content.rows, dtype=np.uint64)
    for column in content.cells.values():
        out += column
    return out


def _agree(a: Numbers, b: Numbers) -> bool:
    """Whether the values of the shorter column mostly occur in the longer one: not if it was coded anew."""
    small, large = (a, b) if len(a) <= len(b) else (b, a)
    return 2 * int(np.isin(small, large).sum()) >= len(small)


def _counted(a: Numbers, b: Numbers) -> tuple[int, int]:
    """(k, s): rows of the smaller one that stand in the larger one, and how many rows it has."""
    small, large = (a, b) if len(a) <= len(b) else (b, a)
    return int(np.isin(small, large).sum()), len(small)


def _half(a: Numbers, b: Numbers) -> bool:
    k, s = _counted(a, b)
    return 2 * k >= s > 0


def _beyond_chance(a: Numbers, b: Numbers) -> bool:
    k, s = _counted(a, b)
    e = s * max(_repeated(a), _repeated(b))
    return k >= e + _DEVIATIONS * math.sqrt(e + 1) + _FEWEST


def _repeated(rows: Numbers) -> float:
    """Share of rows that occur more than once: what another draw from the same people would hit by chance."""
    _, counts = np.unique(rows, return_counts=True)
    return 1.0 - float((counts == 1).sum()) / max(len(rows), 1)

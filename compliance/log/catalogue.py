"""Which entries of a log are of which kind and study, so that a process looks at each text once."""

from __future__ import annotations

import re
import sqlite3
from array import array
from collections.abc import Iterator
from itertools import chain
from typing import Final

from compliance.log import expired, merkle, tree
from compliance.log.merkle import Frontier

# The end of an encoded entry. A body ends before it, and an object inside a body would end with two brackets.
_END: Final = re.compile(rb'"kind":"([a-z_]+)","salt":"[0-9a-f]{32}","study":"([0-9a-f]{0,64})","v":[0-9]+\}\Z')
_END_SIZE: Final = 220  # bytes; at least as long as what _END matches


class Catalogue:
    """Grows with the log. Each text was hashed once, against its leaf, and its leaf into the tree, before it is listed.

    What `find` gives is hashed again when it is read. A later change on disk of a text that nobody asks for is not
    seen by this process; one of the tree is. Not thread-safe.
    """

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._frontier = Frontier()
        self._places: dict[tuple[str, str], array[int]] = {}

    def update(self, connection: sqlite3.Connection, size: int) -> None:
        """List the entries up to `size`. Raises CheckFailed RSD-5033, RSD-5035, RSD-5062; RSD-5035 too for a tree that
        is no longer the one whose entries are listed."""
        frontier, fresh = self._frontier, list[tuple[str, str, int]]()
        self._check(connection, frontier, size)
        marks = tree.marks_of(connection, self._origin)
        for index, leaf, data in tree.raw(connection, self._origin, frontier.size, size):
            frontier = frontier.append(leaf)
            if expired.is_mark(data):
                marks.removal(index, data)
            else:
                fresh.append((*self._what(index, data), index))
        self._check(connection, frontier, size)
        for study, kind, index in fresh:
            self._places.setdefault((study, kind), array("q")).append(index)
        self._frontier = frontier

    def find(self, study: str | None, kind: str | None) -> Iterator[int]:
        """The indices of the entries of that study and kind, in order; None: of any."""
        matching = (
            places
            for (its_study, its_kind), places in self._places.items()
            if study in {None, its_study} and kind in {None, its_kind}
        )
        return iter(sorted(chain.from_iterable(matching)))

    def _what(self, index: int, data: bytes) -> tuple[str, str]:
        end = _END.search(data[-_END_SIZE:])
        if end is not None:
            return end[2].decode("ascii"), end[1].decode("ascii")
        entry = tree.parsed(self._origin, index, data)
        return entry.study, entry.kind

    def _check(self, connection: sqlite3.Connection, frontier: Frontier, size: int) -> None:
        if frontier.size > size:
            raise tree.damaged(f"log {self._origin} became shorter", f"{size} entries", f"{frontier.size} entries")
        root = merkle.root_from(tree.subtrees(connection), frontier.size)
        if root != frontier.root():
            raise tree.damaged(
                f"the tree of log {self._origin} is not that of its first {frontier.size} entries",
                root.hex(),
                frontier.root().hex(),
            )

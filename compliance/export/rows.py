"""What every format has in common: one line an entry between a head and a tail, made and read back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final, Protocol

from compliance.errors import CheckFailed
from compliance.log.entry import Entry

_BLOCK: Final = 256  # lines that are written together


@dataclass(frozen=True, slots=True)
class Row:
    """One line of an export as it was found: which entry it says that it is, and the bytes.

    `entry`: the whole entry, in formats that carry it; nothing about it is checked.
    """

    index: int
    leaf: str
    line: bytes
    entry: Entry | None = None


class Write(Protocol):
    """Makes the line of one entry: canonical, without its end."""

    def __call__(self, entry: Entry, leaf: str, origin: str) -> bytes: ...


@dataclass(frozen=True)
class Format:
    """A kind of file: `head`, the lines of the entries with `between` after each but the last, `tail`.

    `empty`: the file without any entry, where it is another one than head and tail.
    """

    file: str
    head: bytes
    between: bytes
    tail: bytes
    write: Write
    read: Callable[[bytes], Row]
    empty: bytes | None = None

    def chunks(self, entries: Iterable[tuple[Entry, str]], origin: str) -> Iterator[bytes]:
        """The file, some entries at a time; `entries` are with their leaf hashes in hex."""
        lines = iter(entries)
        before = self.head
        while block := [self.write(entry, leaf, origin) for entry, leaf in islice(lines, _BLOCK)]:
            yield before + self.between.join(block)
            before = self.between
        if before is self.head:
            yield self.head + self.tail if self.empty is None else self.empty
        else:
            yield self.tail or self.between

    def rows(self, data: bytes) -> Iterator[Row]:
        """The rows of a file. Raises CheckFailed RSD-5154 where it has another form."""
        if data == self.empty:
            return
        if not data.startswith(self.head) or not data.endswith(self.tail):
            raise malformed(f"{self.file} does not begin and end as it should", "other bytes", "its head and tail")
        inner = data[len(self.head) : len(data) - len(self.tail)]
        if not self.tail:
            inner = inner.removesuffix(self.between)
        for line in inner.split(self.between) if inner else ():
            yield self.read(line)


def malformed(message: str, found: object, limit: object) -> CheckFailed:
    """CheckFailed RSD-5154."""
    return CheckFailed(
        "RSD-5154",
        message,
        rule="every line of an export is an entry of the log",
        found=found,
        limit=limit,
        next="obtain the export again from whoever made it",
    )

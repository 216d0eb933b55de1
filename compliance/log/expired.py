"""Entries that lost their text by retention: the leaf hash stays, and a `compaction` entry says that it was on purpose.

Where the text stood, the store holds a mark: the index of that compaction entry. A mark that no such entry confirms is
damage, and so is a text that is missing without a mark.
"""

from __future__ import annotations

import hashlib
import sqlite3
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

from compliance.clock import parse_time, time_or_none
from compliance.errors import CheckFailed, Refused
from compliance.law.vocabulary import RecordClass
from compliance.log.bodies import CompactionBody
from compliance.log.entry import MAX_INDEX, Entry
from compliance.log.kinds import KIND_OF
from compliance.validation import load_model

COMPACTION = "compaction"
MARK_SIZE = 8  # bytes; no entry is as short
ALL_MARKS = f"SELECT idx, data FROM entries WHERE length(data) = {MARK_SIZE}"  # noqa: S608 - a number
Read = Callable[[int], Entry | None]
_MAY_GO: Final = frozenset(spec.record_class for spec in KIND_OF.values() if spec.needed != "ever")
_Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Removal:
    """On what grounds texts were removed, as a compaction entry says. That they had expired is its member's word."""

    record_class: RecordClass
    before: str
    policy: str

    def words(self) -> str:
        """The grounds, for people."""
        return f"class {self.record_class}, before {self.before}, by policy '{self.policy}'"


class Removed:
    """What the compaction entries of one log name. Ranges stay ranges: nobody has to hold as much as they claim."""

    def __init__(self, spans: Iterable[tuple[int, int, Removal]]) -> None:
        """`spans`: first and last index, and on what grounds. Raises CheckFailed RSD-5062 if two overlap."""
        self._spans = sorted(spans, key=lambda span: span[:2])
        for (_, last, _), (first, _, _) in zip(self._spans, self._spans[1:], strict=False):
            if first <= last:
                raise _no_proof(first, "it is named as removed twice", "once: a text goes once")
        self._firsts = [first for first, _, _ in self._spans]

    def __contains__(self, index: int) -> bool:
        return self.grounds(index) is not None

    def __iter__(self) -> Iterator[int]:
        return (i for first, last, _ in self._spans for i in range(first, last + 1))

    def grounds(self, index: int) -> Removal | None:
        """On what grounds entry `index` lost its text; None if nothing says that it did."""
        at = bisect_right(self._firsts, index) - 1
        return self._spans[at][2] if at >= 0 and index <= self._spans[at][1] else None

    def classes(self) -> Iterator[tuple[int, RecordClass]]:
        """Every index with its class of record."""
        return ((i, removal.record_class) for first, last, removal in self._spans for i in range(first, last + 1))

    def below(self, index: int) -> int:
        """How many entries before `index` are named."""
        return sum(min(last + 1, index) - first for first, last, _ in self._spans if first < index)

    def counts(self) -> Mapping[Removal, int]:
        """How many entries on which grounds, in the order of their words."""
        found: Counter[Removal] = Counter()
        for first, last, removal in self._spans:
            found[removal] += last - first + 1
        return {removal: found[removal] for removal in sorted(found, key=Removal.words)}


def mark(by: int) -> bytes:
    """What stands in place of a text that the compaction entry at index `by` names."""
    return by.to_bytes(MARK_SIZE, "big")


def body_of(entry: Entry) -> CompactionBody:
    """The body of a compaction entry. Raises InputError RSD-9041."""
    return load_model(CompactionBody, entry.body, "RSD-9041", f"entry {entry.index}")


def removal_of(entry: Entry) -> Removal:
    """The grounds that a compaction entry gives. Which kinds it removed, nobody can know any more: so it is judged.

    Its class is one of which something may go, `before` lies before its own time, and it names a policy. Raises
    CheckFailed RSD-5062.
    """
    body = body_of(entry)
    if body.record_class not in _MAY_GO:
        raise _no_proof(entry.index, f"class {body.record_class}", f"a class that may go: {', '.join(sorted(_MAY_GO))}")
    before = time_or_none(body.before)
    if before is None or not before < parse_time(entry.at):
        raise _no_proof(entry.index, f"what is older than {body.before}", f"older than the entry itself: {entry.at}")
    if not body.policy.strip():
        raise _no_proof(entry.index, "no policy", "the policy by which texts went")
    return Removal(body.record_class, body.before, body.policy)


def removed_by(entries: Iterable[Entry], size: int) -> Removed:
    """What the compaction entries among `entries` name, of a log of `size` entries. Raises CheckFailed RSD-5062."""
    held = [(_ranges(e, size), removal_of(e)) for e in entries if e.kind == COMPACTION]
    return Removed((first, last, removal) for ranges, removal in held for first, last in ranges)


def expired_of(entries: Iterable[Entry], size: int) -> dict[int, str]:
    """Index -> record class of every entry that the compaction entries among `entries` name, of `size` known leaves.

    Not all of them need be gone: a copy from before may hold their texts. Raises CheckFailed RSD-5062.
    """
    return dict(removed_by(entries, size).classes())


def check_leaves(entry: Entry, leaf_hashes: Sequence[bytes]) -> None:
    """The leaf hashes that a compaction entry took over are those of the log. Raises CheckFailed RSD-5062."""
    ranges = _ranges(entry, len(leaf_hashes))
    found = leaves_sha256(chain.from_iterable(leaf_hashes[first : last + 1] for first, last in ranges))
    expected = body_of(entry).leaves_sha256
    if found != expected:
        raise _no_proof(entry.index, found, expected)


def by_class(counts: Mapping[Removal, int]) -> dict[str, int]:
    """Class of record -> how many entries of it were removed."""
    found: Counter[str] = Counter()
    for removal, many in counts.items():
        found[removal.record_class] += many
    return dict(sorted(found.items()))


def check_disposable(entry: Entry, removal: Removal) -> None:
    """The text of `entry` may go on these grounds. Raises Refused RSD-5065."""
    spec = KIND_OF[entry.kind]
    old = parse_time(entry.at) < parse_time(removal.before)
    if spec.record_class != removal.record_class or spec.needed == "ever" or not old:
        kept = ", kept for ever" if spec.needed == "ever" else ""
        raise Refused(
            "RSD-5065",
            f"entry {entry.index} cannot lose its text now",
            rule="a text goes by its own class, after its time, and some kinds never",
            found=f"a {entry.kind} of class {spec.record_class} of {entry.at}{kept}",
            limit=removal.words(),
            next="plan again: residency log compact --dry-run",
        )


def leaves_sha256(leaves: Iterable[bytes]) -> str:
    """SHA-256 of leaf hashes one after the other, in hex."""
    digest = hashlib.sha256()
    for leaf in leaves:
        digest.update(leaf)
    return digest.hexdigest()


class Marks:
    """What the marks of one log say, each checked against the compaction entry that it names. Not thread-safe."""

    def __init__(self, read: Read) -> None:
        """`read` gives the entry at an index, checked against its leaf hash; None for one that is marked itself."""
        self._read = read
        self._known: dict[int, tuple[Removal, Removed]] = {}

    def removal(self, index: int, data: bytes) -> Removal:
        """On what grounds entry `index` lost its text, by its mark `data`. Raises CheckFailed RSD-5062."""
        by = int.from_bytes(data, "big")
        if by not in self._known:
            self._known[by] = self._named(index, by)
        removal, named = self._known[by]
        if index not in named:
            raise _no_proof(index, f"entry {by} does not name it", "a compaction entry that names it")
        return removal

    def _named(self, index: int, by: int) -> tuple[Removal, Removed]:
        if not index < by <= MAX_INDEX:
            raise _no_proof(index, f"a mark of entry {by}", "a later compaction entry")
        entry = self._read(by)
        if entry is None or entry.kind != COMPACTION:
            found = f"entry {by} is of kind {entry.kind}" if entry else f"entry {by} has no text itself"
            raise _no_proof(index, found, "a compaction entry")
        return removal_of(entry), removed_by([entry], by)


def is_mark(data: bytes | None) -> bool:
    """Whether a stored text is a mark that it is gone."""
    return data is not None and len(data) == MARK_SIZE


def marked(connection: sqlite3.Connection) -> Iterator[tuple[int, bytes]]:
    """Every index with a mark, and the mark."""
    for index, data in connection.execute(f"{ALL_MARKS} ORDER BY idx"):
        yield int(index), bytes(data)


def check_signed(last: int, covered: int) -> None:
    """The last compaction entry that a mark names is covered by a signed checkpoint. Raises CheckFailed RSD-5062."""
    if last >= covered:
        raise _no_proof(last, f"checkpoints up to {covered} entries: nobody signed it", "a signed checkpoint of it")


def _ranges(entry: Entry, size: int) -> _Ranges:
    """What a compaction entry names: earlier entries only."""
    ranges = body_of(entry).ranges
    last = ranges[-1][1]
    if last >= min(entry.index, size):
        raise _no_proof(entry.index, f"it names entry {last}", f"entries before {entry.index}")
    return ranges


def _no_proof(index: int, found: str, limit: str) -> CheckFailed:
    return CheckFailed(
        "RSD-5062",
        f"entry {index} is no proof, or has none, that texts went by retention",
        rule="a text goes only after a compaction entry named it",
        found=found,
        limit=limit,
        next="do not rely on this log; restore the newest backup, and tell the witnesses and the auditor",
    )

"""The whole check of a log file: every text, node, checkpoint, mark, cosignature and time. It changes nothing."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from compliance.canonical import is_canonical
from compliance.clock import parse_time, time_or_none
from compliance.errors import CheckFailed, ResidencyError
from compliance.log import checkpoint, cosign, expired, merkle, note, tree
from compliance.log.checkpoint import Checkpoint
from compliance.log.entry import MAX_ENCODED
from compliance.log.kinds import check_body, version_of
from compliance.log.order import SET_BACK

_ENTRY: Final = re.compile(
    rb'\{"at":"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)","body":(\{.*\}),"index":(0|[1-9][0-9]*),'
    rb'"kind":"([a-z_]+)","salt":"[0-9a-f]{32}","study":"(?:[0-9a-f]{64})?","v":([1-9][0-9]*)\}',
    re.DOTALL,
)


KeysEver = Mapping[str, Sequence[Ed25519PublicKey]]
"""Witness -> the keys that it has, or had."""


@dataclass(frozen=True)
class Whole:
    """A log in which nothing is damaged. `cosigned`: witness -> the largest size that it cosigned, keys known.

    `set_back`: the first entry that is dated more than five minutes before an earlier one.
    """

    size: int
    root: bytes
    expired: Mapping[expired.Removal, int]
    checkpoints: int
    cosigned: Mapping[str, int]
    set_back: CheckFailed | None


def check(
    connection: sqlite3.Connection, origin: str, key: Ed25519PublicKey, witnesses: KeysEver | None = None
) -> Whole:
    """Check everything in this order; raises CheckFailed that names the first thing that is wrong.

    0. the file: its tables, their types (RSD-5035);
    1. every text: its leaf hash, its form, its kind's shape (RSD-5033), or the mark and the compaction entry that
       stand for it (RSD-5062);
    2. every node of the tree (RSD-5035), and what compaction entries say of the leaves (RSD-5062);
    3. every checkpoint: signed by `key`, of this tree (RSD-5002, RSD-5032); each compaction entry that stands for a
       text is covered by one (RSD-5062);
    4. every cosignature of a witness in `witnesses` (RSD-5002), by the key of that witness that it names, if they are
       given.

    Times that run backwards are no damage: `Whole.set_back` says where, as CheckFailed RSD-5063.
    """
    tree.require_sound(connection)
    size = tree.size(connection)
    texts = _Texts(connection, origin)
    leaves = list(texts.leaves(size))
    _check_nodes(connection, leaves)
    compactions = [tree.one(connection, origin, by) for by in sorted(texts.compactions)]
    expired.removed_by(compactions, size)
    for entry in compactions:
        expired.check_leaves(entry, leaves)
    tree.check_ends(connection, origin)
    signed = [row[0] for row in connection.execute("SELECT note FROM checkpoints ORDER BY size")]
    covered = check_checkpoints(connection, signed, origin, key)
    if texts.last_removal is not None:
        expired.check_signed(texts.last_removal, covered)
    cosigned = _check_cosigned(connection, key, witnesses) if witnesses is not None else {}
    set_back = _set_back(origin, *texts.set_back) if texts.set_back is not None else None
    root = merkle.root_from(tree.subtrees(connection), size)
    return Whole(size, root, texts.expired, len(signed), cosigned, set_back)


def check_checkpoints(connection: sqlite3.Connection, signed: list[str], origin: str, key: Ed25519PublicKey) -> int:
    """The tree continues each of these signed notes; returns the largest size.

    Raises CheckFailed RSD-5002, RSD-5005, RSD-5032.
    """
    size, covered = tree.size(connection), 0
    for encoded in signed:
        last = checkpoint.open_signed(encoded, key, origin).checkpoint
        if last.size > size:
            raise _not_continued(last, f"{size} entries", f"{last.size} entries")
        root = merkle.root_from(tree.subtrees(connection), last.size)
        if root != last.root:
            raise _not_continued(last, root.hex(), last.root.hex())
        covered = max(covered, last.size)
    return covered


class _Texts:
    """One pass over the texts: what is checked of each by itself, and what is noticed on the way."""

    def __init__(self, connection: sqlite3.Connection, origin: str) -> None:
        self._connection, self._origin = connection, origin
        self._marks = tree.marks_of(connection, origin)
        self._newest = ""
        self.expired: Counter[expired.Removal] = Counter()
        self.last_removal: int | None = None
        self.compactions: set[int] = set()
        self.set_back: tuple[int, str, str] | None = None

    def leaves(self, size: int) -> Iterator[bytes]:
        """The leaf hashes; each is given after its text was checked."""
        for index, leaf, data in tree.raw(self._connection, self._origin, 0, size):
            if expired.is_mark(data):
                self.expired[self._marks.removal(index, data)] += 1
                self.last_removal = max(self.last_removal or 0, int.from_bytes(data, "big"))
            else:
                self._text(index, data)
            yield leaf

    def _text(self, index: int, data: bytes) -> None:
        found = _ENTRY.fullmatch(data)
        if found is None or len(data) > MAX_ENCODED:
            tree.parsed(self._origin, index, data)  # says what is wrong with it
            raise tree.bad_entry(self._origin, index, "an entry in another form", "an entry")
        at, body, own, kind, version = found.groups()
        if own != b"%d" % index:
            raise tree.bad_entry(self._origin, index, f"entry {int(own)}", f"entry {index}")
        self._shape(index, kind.decode("ascii"), body, int(version))
        self._time(index, at.decode("ascii"))
        if kind == b"compaction":
            self.compactions.add(index)

    def _shape(self, index: int, kind: str, body: bytes, version: int) -> None:
        try:
            known = version_of(kind)
            if version != known:
                raise tree.bad_entry(self._origin, index, f"a {kind} of version {version}", f"version {known}")
            check_body(kind, body)
            if not is_canonical(body):
                raise tree.bad_entry(self._origin, index, "another form of its body", "canonical JSON")
        except ResidencyError as e:
            if e.code == "RSD-5033":
                raise
            raise tree.bad_entry(self._origin, index, f"{e.message} ({e.found})", "an entry") from e

    def _time(self, index: int, at: str) -> None:
        if at == self._newest:
            return
        when = time_or_none(at)
        if when is None:
            raise tree.bad_entry(self._origin, index, f"dated {at}", "a time")
        if at > self._newest:  # one form of time: as text they sort as times
            self._newest = at
        elif self.set_back is None and when < parse_time(self._newest) - SET_BACK:
            self.set_back = (index, at, self._newest)


def _check_nodes(connection: sqlite3.Connection, leaves: list[bytes]) -> None:
    """Every inner node is the hash of its children; level by level, from the leaves that were checked."""
    level, below = 0, leaves
    while len(below) > 1:
        level += 1
        above = merkle.parents(below)
        query = "SELECT i, hash FROM nodes WHERE level = ? ORDER BY i"
        rows = connection.execute(query, (level,)).fetchmany(len(above))
        if rows != list(enumerate(above)):
            raise _wrong_node(level, rows, above)
        below = above


def _wrong_node(level: int, rows: Sequence[tuple[int, bytes]], above: Sequence[bytes]) -> CheckFailed:
    """RSD-5035 for the first that is missing or differs."""
    for i, computed in enumerate(above):
        if i >= len(rows) or rows[i][0] != i:
            break
        if rows[i][1] != computed:
            message = f"node {i} of level {level} is not the hash of its children"
            return tree.damaged(message, bytes(rows[i][1]).hex(), computed.hex())
    return tree.damaged(f"the tree lacks node {i} of level {level}", "nothing", "32 bytes")


def _check_cosigned(connection: sqlite3.Connection, key: Ed25519PublicKey, witnesses: KeysEver) -> dict[str, int]:
    cosign.check_witness_keys({f"{n}, key {i}": k for n, keys in witnesses.items() for i, k in enumerate(keys)}, key)
    largest: dict[str, int] = {}
    query = (
        "SELECT c.size, c.note, s.name, s.line FROM cosignatures s LEFT JOIN checkpoints c ON s.size = c.size"
        " ORDER BY s.size, s.name"
    )
    for size, signed, name, line in connection.execute(query):
        if signed is None:
            raise tree.damaged(f"{name} cosigned a checkpoint that is gone", "nothing", "the note that was cosigned")
        signature = note.parse_line(line)
        if signature.name != name:
            raise tree.damaged(f"a cosignature of {name} is not its own", signature.name, name)
        if name in witnesses:
            keys = {note.key_id(name, note.TYPE_COSIGNATURE, k): k for k in witnesses[name]}
            cosign.verify(note.parse(signed).text, signature, keys.get(signature.key_id, witnesses[name][-1]))
            largest[name] = size
    return largest


def _set_back(origin: str, index: int, at: str, newest: str) -> CheckFailed:
    return CheckFailed(
        "RSD-5063",
        f"entry {index} of log {origin} is dated before an earlier one; its tree is whole",
        rule="time in a log runs forward",
        found=at,
        limit=f"5 minutes before {newest} at most",
        next="find out why the clock was set back; what was decided after that was decided by a wrong clock",
    )


def _not_continued(last: Checkpoint, found: str, limit: str) -> CheckFailed:
    return CheckFailed(
        "RSD-5032",
        f"the tree of log {last.origin} does not continue its own checkpoint of {last.size} entries",
        rule="a log never signs what is inconsistent with what it signed",
        found=found,
        limit=limit,
        next="stop; restore the newest backup of the log, and tell the witnesses and the auditor",
    )

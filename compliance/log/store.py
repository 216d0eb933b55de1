"""The durable log of one origin: append, read, prove, sign checkpoints, keep cosignatures."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice, starmap
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from compliance import clock
from compliance.errors import InputError
from compliance.law.vocabulary import RecordClass
from compliance.log import checkpoint, cosign, expired, fsck, merkle, note, tree
from compliance.log.bodies import CompactionBody
from compliance.log.catalogue import Catalogue
from compliance.log.checkpoint import Checkpoint
from compliance.log.cosign import WitnessKeys
from compliance.log.database import Database
from compliance.log.entry import Entry, Prepared, decode, new_salt, prepare
from compliance.log.group import GroupCommit
from compliance.log.kinds import check_body, version_of


class Draft(NamedTuple):
    """What a caller wants recorded; the log adds index, time and salt."""

    kind: str
    body: dict[str, Any]
    study: str = ""


class Compacted(NamedTuple):
    """Texts that are to go: `ranges` of first and last index, of one class, all from before `before`."""

    record_class: RecordClass
    before: str
    ranges: tuple[tuple[int, int], ...]
    policy: str
    law_set: str


@dataclass(frozen=True, slots=True)
class Appended:
    """An entry that is on disk."""

    index: int
    leaf_hash: bytes


class LogStore:
    """One log, in one SQLite file (WAL, synchronous=FULL, mode 0600). Several processes and threads may use it at once.

    Every method that reads the disk may raise EnvironmentFault RSD-5030 and, if what it reads is not what was
    written, CheckFailed RSD-5032, RSD-5033 or RSD-5035.
    """

    def __init__(self, database: Database, origin: str, key: Ed25519PrivateKey) -> None:
        """Use `open`."""
        self._database = database
        self._key = key
        self._group = GroupCommit(self._write)
        self._catalogue = Catalogue(origin)
        self._least = 0  # entries that this process wrote, or found, and never fewer
        self.origin = origin

    @classmethod
    def open(cls, path: Path, origin: str, key: Ed25519PrivateKey) -> Self:
        """Open the log at `path`, or create it.

        Fails closed if the file is of another log (CheckFailed RSD-5031), if its tree is shorter than the last
        checkpoint that it signed or does not continue it (RSD-5032), or if tree and entries differ in length or at
        the last entry (RSD-5033, RSD-5035). `fsck` looks at every entry.
        """
        note.check_name(origin)
        database = Database(path, tree.SCHEMA)
        store = cls(database, origin, key)
        try:
            with database.writing() as connection:
                tree.claim(connection, origin, key.public_key())
                tree.check_ends(connection, origin)
                store._check_last_checkpoint(connection)
                store._least = tree.size(connection)
        except BaseException:
            database.close()
            raise
        return store

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def public_key(self) -> Ed25519PublicKey:
        """The key that this log's checkpoints are signed with."""
        return self._key.public_key()

    @property
    def size(self) -> int:
        """The number of entries on disk."""
        with self._database.reading() as connection:
            return tree.size(connection)

    def append(self, kind: str, body: dict[str, Any], study: str = "") -> Appended:
        """Record one entry; it is durably on disk when this returns.

        Raises InputError RSD-5020, RSD-5021, RSD-2001 (bad entry) and EnvironmentFault RSD-5030 (not written: whatever
        was to be released with this entry must stay here).
        """
        return self.append_many([Draft(kind, body, study)])[0]

    def append_many(self, drafts: Sequence[Draft]) -> list[Appended]:
        """Record all of `drafts` in one durable commit, in order and without gaps, or none of them. As `append`.

        Calls of several threads at once share one commit; each returns, or raises, when its own drafts are on disk or
        are not.
        """
        return self._group.submit([_prepared(draft) for draft in drafts])

    def _write(self, groups: Sequence[Sequence[Prepared]]) -> list[list[Appended]]:
        with self._database.writing() as connection:
            first = self._whole(connection)
            at = clock.rfc3339(clock.now())  # inside: unless the clock is set back, times follow the order of entries
            encoded = [p.encoded(i, at, new_salt()) for i, p in enumerate(chain.from_iterable(groups), first)]
            leaves = tree.insert(connection, first, encoded)
        self._least = first + len(leaves)
        done = starmap(Appended, enumerate(leaves, first))
        return [list(islice(done, len(group))) for group in groups]

    def compact(self, parts: Sequence[Compacted]) -> bool:
        """Record what goes, one entry of kind `compaction` a part, remove the texts, sign: in one durable commit.

        Leaves stay. Whether no copy is left in the file: False if somebody reads it just now; then they go when the
        log is closed by whoever closes it last, or with the next call. Choosing is `compaction.plan`'s part. Raises
        as `append`, CheckFailed RSD-5062 for grounds that no reader would accept, and Refused RSD-5065 if a part names
        what is gone already, what nobody has cosigned, or an entry of another class, of a kind that is kept for ever,
        or not older than `before`.
        """
        with self._database.writing() as connection:
            connection.execute("PRAGMA secure_delete=ON")
            at, first = clock.rfc3339(clock.now()), tree.size(connection)
            bodies = [self._compaction(connection, part) for part in parts]
            drafts = (_prepared(Draft("compaction", body.as_json())) for body in bodies)
            encoded = [p.encoded(i, at, new_salt()) for i, p in enumerate(drafts, first)]
            expired.removed_by(map(decode, encoded), first)  # refuse here what readers refuse
            tree.insert(connection, first, encoded)
            for by, part in enumerate(parts, first):
                for start, last in part.ranges:
                    tree.remove_texts(connection, start, last, expired.mark(by))
            self._check_last_checkpoint(connection)
            self._sign(connection, self._whole(connection))  # a removal that nobody signed for is damage
        return self._database.fold()

    def expired_by(self, indices: Iterable[int]) -> dict[int, int]:
        """Of these entries those without a text: index -> the compaction entry that names it. As `entry`."""
        with self._database.reading() as connection:
            asked, size = sorted(indices), tree.size(connection)
            if asked:
                self._check_range(asked[0], asked[-1] + 1, size)
            return tree.expired_by(connection, self.origin, asked)

    def entry(self, index: int) -> Entry:
        """Entry `index`, checked against its hash. Raises InputError RSD-5034 (no such entry), RSD-5061 (expired)."""
        with self._database.reading() as connection:
            size = tree.size(connection)
            self._check_range(index, index + 1, size)
            return tree.one(connection, self.origin, index)

    def entries(
        self, start: int = 0, end: int | None = None, study: str | None = None, kind: str | None = None
    ) -> list[Entry]:
        """The entries [start, end) in order, of one study or kind if given, each checked against its hash.

        Those that expired are left out. With a study or kind, the texts of the others are hashed the first time only:
        one of them that is changed on disk later is seen by `fsck`, and by every process that opens the log anew and
        reads it. No column that could be changed to hide an entry is relied on.

        Raises InputError RSD-5034 if the range is not in the log.
        """
        with self._database.reading() as connection:
            size = tree.size(connection)
            end = size if end is None else end
            self._check_range(start, end, size)
            if study is None and kind is None:
                return list(tree.read(connection, self.origin, start, end))
            self._catalogue.update(connection, size)
            wanted = [i for i in self._catalogue.find(study, kind) if start <= i < end]
            return list(tree.some(connection, self.origin, wanted))

    def leaf_hashes(self, size: int | None = None) -> list[bytes]:
        """The leaf hashes of the first `size` entries (all, if None), 32 bytes each. Raises InputError RSD-5034."""
        with self._database.reading() as connection:
            size = self._known_size(connection, size)
            return tree.leaf_hashes(connection, size)

    def root(self, size: int | None = None) -> bytes:
        """The root over the first `size` entries (all, if None). Raises InputError RSD-5034."""
        with self._database.reading() as connection:
            return merkle.root_from(tree.subtrees(connection), self._known_size(connection, size))

    def inclusion_proof(self, index: int, size: int | None = None) -> tuple[bytes, ...]:
        """The proof that entry `index` is in the first `size` entries. Raises InputError RSD-5012, RSD-5034."""
        with self._database.reading() as connection:
            size = self._known_size(connection, size)
            return merkle.inclusion_proof(tree.subtrees(connection), index, size)

    def consistency_proof(self, old: int, new: int | None = None) -> tuple[bytes, ...]:
        """The proof that the first `new` entries continue the first `old`. Raises InputError RSD-5012, RSD-5034."""
        with self._database.reading() as connection:
            new = self._known_size(connection, new)
            return merkle.consistency_proof(tree.subtrees(connection), old, new)

    def checkpoint(self, size: int | None = None) -> str:
        """The signed note of the first `size` entries (all, if None), without cosignatures; remembered on disk.

        Never signs what does not continue the last signed checkpoint: CheckFailed RSD-5032. InputError RSD-5034.
        """
        with self._database.writing() as connection:
            self._check_last_checkpoint(connection)
            size = self._known_size(connection, size)
            return self._sign(connection, size)

    def signed_sizes(self, most: int) -> tuple[int, ...]:
        """The sizes of the last `most` checkpoints that were signed, smallest first: what others may have cosigned."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT size FROM checkpoints ORDER BY size DESC LIMIT ?", (most,)).fetchall()
        return tuple(sorted(size for (size,) in rows))

    def add_cosignature(self, size: int, line: str, witness_keys: WitnessKeys) -> int:
        """Keep a witness's signature line for the checkpoint of `size`; returns its POSIX second.

        Raises InputError RSD-5034 (no checkpoint of that size was signed), RSD-5001, RSD-5055, and CheckFailed RSD-5002
        (not by a known witness, or of another checkpoint). A repeated cosignature replaces the earlier one.
        """
        cosign.check_witness_keys(witness_keys, self.public_key)
        signature = note.parse_line(line)
        known = cosign.key_of(signature, witness_keys)
        if known is None:
            raise cosign.unknown(signature, witness_keys)
        with self._database.writing() as connection:
            row = connection.execute("SELECT note FROM checkpoints WHERE size = ?", (size,)).fetchone()
            if row is None:
                raise _no_such("no checkpoint of this size was signed", size, "a signed size")
            at = cosign.verify(note.parse(row[0]).text, signature, known.key)
            connection.execute("INSERT OR REPLACE INTO cosignatures VALUES (?, ?, ?)", (size, signature.name, line))
        return at

    def cosigned_checkpoints(self) -> tuple[str, ...]:
        """The notes of all checkpoints that somebody cosigned, with the cosignature lines, smallest size first."""
        query = (
            "SELECT c.size, c.note, s.line FROM checkpoints c JOIN cosignatures s ON s.size = c.size"
            " ORDER BY c.size, s.name"
        )
        notes: dict[int, note.Note] = {}
        with self._database.reading() as connection:
            for size, signed, line in connection.execute(query):
                base = notes.get(size) or note.parse(signed)
                notes[size] = note.with_signature(base, note.parse_line(line))
        return tuple(n.encode() for n in notes.values())

    def cosigned_sizes(self) -> dict[str, int]:
        """Witness -> the largest size of this log that it cosigned, as far as its cosignatures came back."""
        with self._database.reading() as connection:
            return dict(connection.execute("SELECT name, max(size) FROM cosignatures GROUP BY name").fetchall())

    def fsck(self) -> int:
        """`compliance.log.fsck.check` without witnesses, and raises as it does; returns the number of entries."""
        with self._database.reading() as connection:
            return fsck.check(connection, self.origin, self.public_key).size

    def _check_last_checkpoint(self, connection: sqlite3.Connection) -> None:
        rows = connection.execute("SELECT note FROM checkpoints ORDER BY size DESC LIMIT 1").fetchall()
        fsck.check_checkpoints(connection, [row[0] for row in rows], self.origin, self.public_key)

    def _sign(self, connection: sqlite3.Connection, size: int) -> str:
        root = merkle.root_from(tree.subtrees(connection), size)
        signed = checkpoint.sign(Checkpoint(self.origin, size, root), self._key)
        connection.execute("INSERT OR IGNORE INTO checkpoints VALUES (?, ?)", (size, signed))
        return signed

    def _compaction(self, connection: sqlite3.Connection, part: Compacted) -> CompactionBody:
        covered = connection.execute("SELECT coalesce(max(size), 0) FROM cosignatures").fetchone()[0]
        leaves = expired.leaves_sha256(tree.leaves_to_strip(connection, part.ranges, covered))
        body = CompactionBody(**part._asdict(), leaves_sha256=leaves)
        removal = expired.Removal(body.record_class, body.before, body.policy)
        for first, last in body.ranges:
            for entry in tree.read(connection, self.origin, first, last + 1):
                expired.check_disposable(entry, removal)
        return body

    def _whole(self, connection: sqlite3.Connection) -> int:
        size = tree.size(connection)
        if size < self._least:
            raise tree.damaged(f"log {self.origin} became shorter", f"{size} entries", f"{self._least} entries")
        return size

    def _known_size(self, connection: sqlite3.Connection, size: int | None) -> int:
        whole = self._whole(connection)
        if size is None:
            return whole
        self._check_range(0, size, whole)
        return size

    def _check_range(self, start: int, end: int, size: int) -> None:
        if not 0 <= start <= end <= size:
            raise _no_such(f"log {self.origin} has no entries {start} to {end - 1}", f"{start}..{end}", f"0..{size}")


def _prepared(draft: Draft) -> Prepared:
    prepared = prepare(draft.kind, draft.body, draft.study, version_of(draft.kind))
    check_body(draft.kind, prepared.body)
    return prepared


def _no_such(message: str, found: object, limit: object) -> InputError:
    return InputError(
        "RSD-5034", message, rule="LogStore", found=found, limit=limit, next="ask for what the log has: see its size"
    )

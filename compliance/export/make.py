"""Makes an export: the file of the entries, the leaf hashes of the log, and the statement about both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from compliance import clock
from compliance.canonical import canonical, sha256_hex
from compliance.errors import CheckFailed, InputError
from compliance.export.fhir import FHIR
from compliance.export.jsonl import JSONL
from compliance.export.rows import Format
from compliance.export.statement import (
    LEAVES,
    SCHEMA,
    STATEMENT,
    FileRecord,
    FormatName,
    Selection,
    Statement,
    ranges_of,
)
from compliance.export.table import CSV
from compliance.identity import Envelope, Signer, media_type, seal
from compliance.law.model import Party
from compliance.log import checkpoint, note
from compliance.log.view import LogView
from compliance.software import VERSION
from compliance.validation import load_model

FORMATS: Final[Mapping[FormatName, Format]] = {"jsonl": JSONL, "csv": CSV, "fhir": FHIR}
EVERYTHING: Final = Selection()
_BLOCK: Final = 1024  # leaf hashes that are written together
Put = Callable[[str, Iterator[bytes]], FileRecord]


@dataclass(frozen=True)
class Logged:
    """What the log itself says of the export: for whom, by which decision, and the entry that records it."""

    to: Party | None = None
    decision: int | None = None
    entry: int | None = None


NOT_LOGGED: Final = Logged()


@dataclass(frozen=True)
class Written:
    """The files of an export, written, and what its statement will say of the log."""

    view: LogView
    size: int
    format: FormatName
    selection: Selection
    indices: tuple[int, ...]
    files: tuple[FileRecord, ...]

    def statement(self, logged: Logged = NOT_LOGGED) -> Statement:
        """The statement about the files, dated now, and never before an entry that is in them."""
        newest = max((self.view.entries[i].at for i in self.indices), default="")  # they sort as texts
        last = note.parse(self.view.checkpoints[-1])
        expired = [i for i in self.view.expired if i < self.size and i not in self.view.entries]
        classes = sorted({self.view.expired[i] for i in expired})
        grouped = {c: ranges_of(sorted(i for i in expired if self.view.expired[i] == c)) for c in classes}
        record = {
            "schema": SCHEMA,
            "origin": self.view.origin,
            "size": self.size,
            "root": checkpoint.parse_text(last.text).root.hex(),
            "checkpoint": last.encode(),
            "earlier": _cosigned(self.view.checkpoints),
            "selection": self.selection.model_dump(),
            "format": self.format,
            "version": 1,
            "entries": len(self.indices),
            "ranges": ranges_of(self.indices),
            "expired": [{"record_class": c, "ranges": r} for c, r in grouped.items()],
            "files": [f.model_dump() for f in self.files],
            "created": max(clock.rfc3339(clock.now()), newest),
            "software": VERSION,
            "to": logged.to.model_dump() if logged.to else None,
            "decision": logged.decision,
            "logged": logged.entry,
        }
        return load_model(Statement, record, "RSD-5151", "the statement of an export")


def export(
    view: LogView, name: FormatName, selection: Selection = EVERYTHING, signer: Signer | None = None
) -> dict[str, bytes]:
    """The files of an export by name, in memory: for a reader of the log. Without `signer` nobody vouches for it.

    Raises InputError RSD-5141 for a log without a checkpoint.
    """
    files: dict[str, bytes] = {}

    def put(file: str, chunks: Iterator[bytes]) -> FileRecord:
        files[file] = b"".join(chunks)
        return FileRecord(name=file, sha256=sha256_hex(files[file]), bytes=len(files[file]))

    files[STATEMENT] = sealed(write(view, name, selection, put).statement(), signer)
    return files


def write(view: LogView, name: FormatName, selection: Selection, put: Put) -> Written:
    """Hand the two files to `put`, in pieces: the entries that were asked for, up to the last checkpoint, and all
    leaf hashes. Raises InputError RSD-5141 for a log without a checkpoint, CheckFailed RSD-5050 for one that is shorter
    than its checkpoint, and what `put` raises.
    """
    if not view.checkpoints:
        raise InputError(
            "RSD-5141",
            f"log {view.origin} has signed no checkpoint",
            rule="an export reaches up to a checkpoint, which names the tree that its entries stand in",
            found=f"{view.size} entries, no checkpoint",
            limit="a checkpoint",
            next="give --key: then the log signs one for the export",
        )
    size = checkpoint.parse_text(note.parse(view.checkpoints[-1]).text).size
    if view.size < size:
        raise CheckFailed(
            "RSD-5050",
            f"log {view.origin} is shorter than its checkpoint",
            rule="a log reaches to its last checkpoint",
            found=f"{view.size} leaf hashes",
            limit=f"{size} leaf hashes",
            next="obtain the log or its evidence again; residency verify says what is wrong with it",
        )
    chosen = [e for i, e in sorted(view.entries.items()) if i < size and selection.takes(e)]
    form = FORMATS[name]
    entries = put(form.file, form.chunks(((e, view.leaf_hashes[e.index].hex()) for e in chosen), view.origin))
    leaves = put(LEAVES, _lines(view.leaf_hashes[:size]))
    return Written(view, size, name, selection, tuple(e.index for e in chosen), (entries, leaves))


def sealed(statement: Statement, signer: Signer | None) -> bytes:
    """export.json: the statement in its envelope, signed or, without a signer, with no signature in it."""
    said = statement.as_json()
    envelope = seal(said, signer) if signer else Envelope(media_type(SCHEMA), canonical(said), ())
    return envelope.encode() + b"\n"


def _lines(hashes: Sequence[bytes]) -> Iterator[bytes]:
    for start in range(0, len(hashes), _BLOCK):
        yield "".join([f"{leaf.hex()}\n" for leaf in hashes[start : start + _BLOCK]]).encode("ascii")


def _cosigned(checkpoints: Iterable[str]) -> tuple[str, ...]:
    """Of the smaller checkpoints those that are somebody's last cosigned one: they bind all that is before."""
    newest: dict[str, int] = {}
    notes = [note.parse(text) for text in checkpoints]
    for number, found in enumerate(notes):
        newest |= {s.name: number for s in found.signatures}
    return tuple(notes[number].encode() for number in sorted(set(newest.values()) - {len(notes) - 1}))

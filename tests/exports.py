"""Exports of the synthetic world's logs: a home to export from, a log of given entries, a statement signed again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from compliance.canonical import parse_canonical, sha256_hex
from compliance.export.check import verify_export
from compliance.export.statement import STATEMENT, ranges_of
from compliance.identity import Signer, parse_envelope, save_signer, seal
from compliance.log import checkpoint, cosign, merkle, note
from compliance.log.checkpoint import Checkpoint
from compliance.log.entry import Entry, new_entry
from compliance.log.expired import leaves_sha256
from compliance.log.store import Draft, LogStore
from compliance.log.view import LogView
from compliance.release.report import Report
from compliance.release.verify_logs import witness_keys
from tests.world import AT, START, World, stopped_clock

MEMBER, PEER = "site-a", "site-b"
OLDER = "2026-11-01T00:00:00Z"
WHEN = AT.strftime("%Y-%m-%dT%H:%M:%SZ")


def entries_of(made: World, member: str = MEMBER) -> list[Entry]:
    """The member's entries, and some that belong to no study."""
    more = (
        ("policy", {"policy": "ab" * 32, "at": "2026-11-22T10:00:00Z"}),
        ("refusal", {"code": "RSD-3100", "message": "=H(1)", "rule": "eu.x", "found": "", "limit": "", "next": ""}),
    )  # fmt: skip
    held = made.entries(member)
    made_here = [new_entry(len(held) + i, WHEN, kind, body) for i, (kind, body) in enumerate(more)]
    return [*held, *(e.model_copy(update={"salt": "5a" * 16}) for e in made_here)]  # the same at each call


def home_of(made: World, folder: Path, member: str = MEMBER) -> Path:
    """A home with the member's log: the world's entries, cosigned by a peer in the middle."""
    (folder / "trust.json").parent.mkdir(parents=True, exist_ok=True)
    (folder / "trust.json").write_bytes(made.trust)
    signer = made.log_signer(member)
    save_signer(signer, folder / "keys")
    drafts = [Draft(e.kind, e.body, e.study) for e in entries_of(made, member)]
    with stopped_clock(), LogStore.open(folder / "log.db", made.origin(member), signer.private) as log:
        log.append_many(drafts[:-2])
        text = log.checkpoint()
        line = cosigned(made, text).line()
        log.add_cosignature(log.size, line, witness_keys(made.anchor.trust, member, START))
        log.append_many(drafts[-2:])
    return folder


def cosigned(made: World, text: str, peer: str = PEER) -> note.Signature:
    """The peer's cosignature of a checkpoint note."""
    name, key = made.anchor.trust.witness_name(peer), made.log_signer(peer).private
    return cosign.cosign(note.parse(text).text, name, key, int(START.timestamp()))


def view_of(
    made: World, entries: Iterable[Entry], *, size: int | None = None, expired: Mapping[int, str] | None = None,
    member: str = MEMBER,
) -> LogView:  # fmt: skip
    """A log that holds just these entries, renumbered, signed with the member's real key at `size` and cosigned."""
    kept = [e.model_copy(update={"index": i}) for i, e in enumerate(entries)]
    gone = expired or {}
    for name in sorted(set(gone.values())):
        kept.append(compaction(kept, [i for i in sorted(gone) if gone[i] == name], name))
    hashes = [e.leaf_hash() for e in kept]
    size = len(kept) if size is None else size
    root = merkle.root(hashes[:size])
    signed = checkpoint.sign(Checkpoint(made.origin(member), size, root), made.log_signer(member).private)
    text = note.with_signature(note.parse(signed), cosigned(made, signed)).encode()
    shown = {e.index: e for e in kept if e.index not in gone}
    return LogView(made.origin(member), hashes, (text,), shown, True, gone)


def compaction(entries: Sequence[Entry], indices: Sequence[int], name: str) -> Entry:
    """What a log appends when it lets go of the texts of these of its entries."""
    body = {
        "record_class": name, "before": OLDER, "policy": "the schedule",
        "ranges": [list(r) for r in ranges_of(indices)], "law_set": "cd" * 32,
        "leaves_sha256": leaves_sha256(entries[i].leaf_hash() for i in indices),
    }  # fmt: skip
    made = new_entry(len(entries), WHEN, "compaction", body)
    return made.model_copy(update={"salt": "5b" * 16})


def statement_of(files: Mapping[str, bytes]) -> dict[str, Any]:
    """What export.json says, unverified."""
    return dict(parse_canonical(parse_envelope(files[STATEMENT], STATEMENT).payload, STATEMENT))


def signed_again(files: Mapping[str, bytes], signer: Signer, **changes: Any) -> dict[str, bytes]:
    """The files under a new statement: their digests, and `changes` in it; what a dishonest signer can make."""
    said = statement_of(files)
    listed = [
        {"name": f["name"], "sha256": sha256_hex(files[f["name"]]), "bytes": len(files[f["name"]])}
        for f in said["files"]
    ]
    return {**files, STATEMENT: seal({**said, "files": listed, **changes}, signer).encode() + b"\n"}


def judged(made: World, files: Mapping[str, bytes], *logs: LogView, against: Iterable[str] = ()) -> Report:
    """The report on an export, a day after the world's run."""
    held = [(f"held-{i}", text) for i, text in enumerate(against)]
    return verify_export(files, made.anchor, AT + timedelta(hours=1), held, logs)


def failed(report: Report) -> tuple[int, str] | None:
    """(number, code) of the step that is false; None if none is."""
    return (report.failed.step.number, report.error.code) if report.failed and report.error else None


def statuses(report: Report) -> list[str]:
    """The outcome of each step, in order."""
    return [r.status for r in report.results]

"""Verify an export offline, with a trust file from outside. In this order; the first check that is false ends it.

1. statement: the key of the log's own member signed export.json, valid when it was made. Without a signature the rest
   is judged only beside the log itself.
2. files: the folder holds the two files of the statement, and no other, each with its SHA-256 and size.
3. log: the checkpoint is of the member's log and signed by it; the leaf hashes lead to its root and to that of every
   smaller checkpoint; it continues what peers hold, if that is given.
4. rows: exactly the entries that the statement lists, once and in order, each with the leaf hash that stands at its
   index.
5. content: each line is, byte for byte, what its entry gives: in JSON Lines the entry itself stands in it and hashes to
   its leaf; the other formats need the log beside them. Each such entry was asked for.
6. whole: beside the whole log, nothing that was asked for is left out, and what is called expired is expired there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Final

from compliance.canonical import Json, parse_canonical, sha256_hex
from compliance.clock import parse_time, rfc3339
from compliance.errors import CheckFailed, ResidencyError
from compliance.export.make import FORMATS
from compliance.export.rows import Row
from compliance.export.statement import LEAVES, SCHEMA, STATEMENT, Selection, Statement
from compliance.identity import Envelope, Role, media_type, parse_envelope
from compliance.law.model import Party
from compliance.log import checkpoint, note
from compliance.log.entry import Entry
from compliance.log.evidence import LogEvidence
from compliance.log.expired import removed_by
from compliance.log.view import LogView
from compliance.release.case import Logged
from compliance.release.evidence_check import compare_held, member_of
from compliance.release.report import Found, Report, Step, StepResult, step_error
from compliance.release.verify_logs import check_key_period, check_log
from compliance.trust.root import CLOCK_SLACK, Anchor
from compliance.trust.witnesses import keys_until
from compliance.validation import load_model

STEPS: Final = (
    Step(1, "RSD-5151", "statement", "the key of the log's own member signed what the export says of itself"),
    Step(2, "RSD-5152", "files", "the files are those of the statement, and no other"),
    Step(3, "RSD-5153", "log", "the leaf hashes lead to checkpoints that the log signed, and continue what peers hold"),
    Step(4, "RSD-5154", "rows", "each listed entry is there once, with the leaf hash that stands in the log"),
    Step(5, "RSD-5155", "content", "each line is what its entry gives, and the entry was asked for"),
    Step(6, "RSD-5156", "whole", "nothing that was asked for is left out"),
)
NOT_COVERED: Final = (
    "whether what the log records is true: a log shows what was recorded, and nothing that bypassed the agent",
    "what a table or an audit event leaves out of an entry: the whole entry stands in JSON Lines and in the log",
    "whether the export was allowed to go where this copy was found",
    "revocations issued after the trust file that was given",
)
UNSIGNED: Final = "who made this export: nobody signed it, so its date, and whom it was made for, are nobody's word"


@dataclass(frozen=True)
class Export:
    """The files of a folder, read lazily, and what they are judged by. `logs`: where the log itself may be seen."""

    files: Mapping[str, bytes]
    anchor: Anchor
    at: datetime
    against: Sequence[tuple[str, str]]
    logs: Sequence[LogView]

    @cached_property
    def envelope(self) -> Envelope:
        """export.json, unverified."""
        return parse_envelope(self.files.get(STATEMENT, b""), STATEMENT)

    @cached_property
    def statement(self) -> Statement:
        """What it says. Raises CheckFailed RSD-5151 for another kind of statement."""
        if self.envelope.payload_type != media_type(SCHEMA):
            raise _false("RSD-5151", f"{STATEMENT} is another kind of statement", self.envelope.payload_type, SCHEMA)
        return load_model(Statement, parse_canonical(self.envelope.payload, STATEMENT), "RSD-5151", STATEMENT)

    @cached_property
    def member(self) -> str:
        """Whose log it is."""
        return member_of(self.anchor.trust, self.statement.origin)

    @cached_property
    def leaves(self) -> tuple[str, ...]:
        """The leaf hashes in hex, as many as the file has."""
        text = self.files[LEAVES].decode("ascii", errors="replace")
        if text and not text.endswith("\n"):
            raise _false("RSD-5153", f"{LEAVES} is cut off", text[-64:], "a line for each entry")
        return tuple(text.split("\n")[:-1])

    @cached_property
    def evidence(self) -> LogEvidence:
        """The log without any entry, in the form that is checked."""
        said = self.statement
        record = {
            "origin": said.origin, "checkpoint": said.checkpoint, "earlier": said.earlier, "leaf_hashes": self.leaves,
            "entries": (),
        }  # fmt: skip
        return load_model(LogEvidence, record, "RSD-5153", LEAVES)

    @cached_property
    def rows(self) -> list[Row]:
        """The lines of the file with the entries."""
        form = FORMATS[self.statement.format]
        return list(form.rows(self.files[form.file]))

    @cached_property
    def log(self) -> LogView | None:
        """The log itself, None if none was given. Raises CheckFailed RSD-5155 if others were."""
        if not self.logs:
            return None
        found = next((log for log in self.logs if log.origin == self.statement.origin), None)
        if found is None:
            shown = ", ".join(log.origin for log in self.logs)
            raise _false("RSD-5155", "--log shows other logs than the one of the export", shown, self.statement.origin)
        return found

    def known(self, row: Row) -> Entry | None:
        """The entry of a row: from the row itself or from the log, None if neither holds it."""
        return row.entry or (self.log.entries.get(row.index) if self.log else None)


def verify_export(
    files: Mapping[str, bytes],
    anchor: Anchor,
    at: datetime,
    against: Sequence[tuple[str, str]] = (),
    logs: Sequence[LogView] = (),
) -> Report:
    """All steps on an export in memory, against held checkpoints (name, note) and beside the log, if they are given.

    `logs`: views of logs; the one of the export's origin counts.

    Never raises for what the files hold: see `Report.error` (exit code 1).
    """
    given = Export(files, anchor, at, against, logs)
    results: list[StepResult] = []
    for step, check in zip(STEPS, _CHECKS, strict=True):
        failed = any(r.status == "FAIL" for r in results)
        results.append(StepResult(step, "not run") if failed else _run(step, check, given))
    error = next((r.error for r in results if r.error), None)
    facts: dict[str, Json] = {"mode": "export", "at": rfc3339(at), "trust": anchor.digest}
    signed = error is not None or bool(given.envelope.signatures)
    if error is None:
        said = given.statement
        facts |= {"origin": said.origin, "size": said.size, "entries": said.entries, "format": said.format}
        facts |= {"signed": signed, "selection": said.selection.model_dump(mode="json")}
    return Report(tuple(results), facts, error, NOT_COVERED if signed else (UNSIGNED, *NOT_COVERED))


def _run(step: Step, check: Callable[[Export], Found | None], given: Export) -> StepResult:
    try:
        found = check(given)
    except ResidencyError as e:
        return StepResult(step, "FAIL", error=step_error(step, e))
    if found is None:
        return StepResult(step, "not judged")
    return StepResult(step, "ok" if found.proved else "not judged", found)


def _statement(given: Export) -> Found | None:
    said, trust = given.statement, given.anchor.trust
    if given.at > parse_time(trust.expires):
        raise _false("RSD-5151", "the trust file has expired", rfc3339(given.at), trust.expires)
    created = parse_time(said.created)
    if created > given.at + CLOCK_SLACK:
        raise _false("RSD-5151", "the export is dated in the future", said.created, rfc3339(given.at))
    if not given.envelope.signatures:
        if not given.logs:
            raise _false("RSD-5151", "nobody signed this export", "no signature", "--log beside it, or a signed export")
        return None
    role: Role = "operator" if given.member == trust.operator.name else "agent"
    given.anchor.statement(given.files[STATEMENT], SCHEMA, STATEMENT, role=role, holder=given.member, at=created)
    who = f"{given.member}'s {role} key signed it, dated {said.created}: {said.selection.words()}, as {said.format}"
    word = [f"that it was made at {said.created}"]
    if said.to is not None:
        word.append(f"that it was made for {said.to.name} ({said.to.jurisdiction}), by its decision {said.decision}")
    return Found((who,), tuple((given.member, text) for text in word))


def _files(given: Export) -> Found:
    listed = {f.name: f for f in given.statement.files}
    wanted = {FORMATS[given.statement.format].file, LEAVES}
    if set(listed) != wanted:
        raise _false("RSD-5152", "the statement lists other files", ", ".join(listed), ", ".join(sorted(wanted)))
    found = set(given.files) - {STATEMENT}
    if found != wanted:
        odd = ", ".join(sorted(found ^ wanted))
        raise _false("RSD-5152", f"a file is missing or there is one more: {odd}", odd, ", ".join(sorted(wanted)))
    for name, record in listed.items():
        digest = sha256_hex(given.files[name])
        if (digest, len(given.files[name])) != (record.sha256, record.bytes):
            raise _false("RSD-5152", f"{name} is not the file of the statement", digest, record.sha256)
    return Found((f"the files are those of the statement: {', '.join(sorted(wanted))}",))


def _log(given: Export) -> Found:
    said, trust = given.statement, given.anchor.trust
    last = checkpoint.parse_text(note.parse(said.checkpoint).text)
    if (last.size, last.root.hex()) != (said.size, said.root):
        raise _false("RSD-5153", "the statement names another tree than its checkpoint", f"{said.size} {said.root}",
                     f"{last.size} {last.root.hex()}")  # fmt: skip
    checked = check_log(trust, given.member, given.evidence, keys_until(trust, given.member, given.at), at_least=0)
    proved = [f"log {said.origin} has {said.size} entries up to the checkpoint, signed by {given.member}"]
    proved += [f"{name} cosigned the first {sizes[-1]} entries" for name, sizes in checked.cosigners.items()]
    asserted = []
    if not any(sizes[-1] == said.size for sizes in checked.cosigners.values()):
        seen = max((sizes[-1] for sizes in checked.cosigners.values()), default=0)
        asserted.append((given.member, f"the entries from {seen} on: nobody else cosigned them"))
    if given.against:
        held = compare_held(given.evidence, given.member, given.against, trust, given.at)
        proved.append(f"the log continues the held checkpoints of {', '.join(map(str, held))} entries")
    return Found(tuple(proved), tuple(asserted))


def _rows(given: Export) -> Found:
    said = given.statement
    indices = [row.index for row in given.rows]
    if indices != said.indices():
        odd = sorted(set(indices) ^ set(said.indices()))
        shown = ", ".join(map(str, odd[:8])) or "the same entries in another order, or twice"
        raise _false("RSD-5154", f"the file holds other entries than the statement lists: {shown}", len(indices),
                     said.entries)  # fmt: skip
    for row in given.rows:
        if row.leaf != given.leaves[row.index]:
            raise _false("RSD-5154", f"line of entry {row.index}: its leaf hash is not the one that stands in the log",
                         row.leaf, given.leaves[row.index])  # fmt: skip
    return Found((f"{said.entries} entries, each with the leaf hash that stands at its index in the log",))


def _content(given: Export) -> Found:
    _same_log(given)
    entries = {row.index: entry for row in given.rows if (entry := given.known(row)) is not None}
    check_key_period(given.anchor.trust, Logged(given.member, given.evidence, entries), given.at)
    for row in given.rows:
        if (entry := entries.get(row.index)) is not None:
            _line(given, row, entry)
    gone = len(given.rows) - len(entries)
    proved = f"{len(entries)} lines are, byte for byte, what their entries give, and each was asked for"
    word = f"what {gone} lines say: their entries are not shown, or expired in the log; their leaves are proven"
    asserted = ((given.member, word),) if gone and given.envelope.signatures else ()
    return Found((proved,) if entries or not gone else (), asserted)


def _line(given: Export, row: Row, entry: Entry) -> None:
    said = given.statement
    if entry.leaf_hash().hex() != row.leaf or entry.index != row.index:
        raise _false("RSD-5155", f"line of entry {row.index}: the entry in it is not the one that was logged there",
                     entry.leaf_hash().hex(), row.leaf)  # fmt: skip
    made = FORMATS[said.format].write(entry, row.leaf, said.origin)
    if made != row.line:
        at = next((i for i, (a, b) in enumerate(zip(made, row.line, strict=False)) if a != b), 0)
        raise _false("RSD-5155", f"line of entry {row.index} is not what the entry gives", row.line[at : at + 60],
                     made[at : at + 60])  # fmt: skip
    if parse_time(entry.at) > parse_time(said.created) + CLOCK_SLACK:
        raise _false("RSD-5155", f"entry {row.index} is dated after the export that it is in", entry.at, said.created)
    if not said.selection.takes(entry):
        raise _false("RSD-5155", f"entry {row.index} was not asked for", f"{entry.kind} of {entry.at}",
                     said.selection.words())  # fmt: skip


def _same_log(given: Export) -> None:
    """The log that was given beside the export is the one that was exported. Raises CheckFailed RSD-5155."""
    log, said = given.log, given.statement
    if log is None:
        return
    common = min(log.size, said.size)
    if [h.hex() for h in log.leaf_hashes[:common]] != list(given.leaves[:common]):
        raise _false("RSD-5155", "the log that was given is not the one that was exported", "other leaf hashes",
                     f"the same first {common} leaf hashes")  # fmt: skip


def _whole(given: Export) -> Found | None:
    log, said = given.log, given.statement
    expired = said.expired_classes()
    word = [f"entries {_shown(list(expired))} had expired when it was made"] if expired else []
    if log is None or not log.whole:
        said_so = ((given.member, text) for text in ("that nothing that was asked for is left out", *word))
        return Found((), tuple(said_so)) if given.envelope.signatures else None
    if log.size < said.size:
        raise _false("RSD-5156", "the log that was given is shorter than the export: it is older, or was cut",
                     f"{log.size} entries", f"{said.size} entries")  # fmt: skip
    for index, name in expired.items():
        if log.expired.get(index) != name:
            raise _false("RSD-5156", f"entry {index} is called expired, and is not in the log",
                         log.expired.get(index, "not expired"), name)  # fmt: skip
    chosen = set(said.indices())
    for index, entry in log.entries.items():
        if index < said.size and index not in expired and (index in chosen) != said.selection.takes(entry):
            raise _false("RSD-5156", f"entry {index} is left out of what was asked for", f"no line of entry {index}",
                         said.selection.words())  # fmt: skip
    later = sorted(i for i in log.expired if i < said.size and i not in expired)
    silent = [i for i in later if i not in chosen]
    if silent and said.selection == Selection():
        raise _false("RSD-5156", f"entry {silent[0]} is left out, and had not expired when it was made",
                     f"no line of {len(silent)} entries", said.selection.words())  # fmt: skip
    # Nobody signed what stands behind the checkpoint in the log that was given.
    named = removed_by((e for e in log.entries.values() if e.index < said.size), said.size)
    proved = [f"nothing that was asked for is left out: {said.selection.words()}"]
    if known := sorted(i for i in (*expired, *later) if i in named):
        grounds = {i: removal for i in known if (removal := named.grounds(i)) is not None}
        for reason in sorted({removal.words() for removal in grounds.values()}):
            some = [i for i, removal in grounds.items() if removal.words() == reason]
            proved.append(f"entries {_shown(some)} are removed, as the log says: {reason}; their leaves proven")
    told = {
        "had expired when they were removed, and were of that class": known,
        "had expired when it was made, by an entry after its checkpoint": [i for i in expired if i not in named],
        "expired since, by an entry after its checkpoint": [i for i in later if i not in named],
        "are gone from the log by now, and were not asked for": silent,
    }
    words = tuple((given.member, f"that entries {_shown(found)} {text}") for text, found in told.items() if found)
    return Found(tuple(proved), (*words, *_recorded(given, log)))


def _recorded(given: Export, log: LogView) -> tuple[tuple[str, str], ...]:
    """The entry that records the export, where the log goes on so far, and the decision by which it was made for
    somebody. Raises CheckFailed RSD-5156 for another one.
    """
    said = given.statement
    allowed = log.entries.get(said.decision) if said.decision is not None else None
    if said.to and allowed and not _allows(allowed, said.to):
        raise _false("RSD-5156", f"entry {allowed.index} does not allow an export for {said.to.name}",
                     f"{allowed.kind} {allowed.body.get('effect', '')}", "a decision that allows it")  # fmt: skip
    entry = log.entries.get(said.logged) if said.logged is not None else None
    if entry is None:
        return ()
    digest = next(f.sha256 for f in said.files if f.name != LEAVES)
    wanted = {
        "format": said.format, "filter_sha256": said.selection.digest, "size": said.size, "entries": said.entries,
        "sha256": digest, "to": said.to.name if said.to else "", "decision": said.decision,
    }  # fmt: skip
    if entry.kind != "export" or entry.body != wanted:
        differs = next((k for k, v in wanted.items() if entry.body.get(k, "") != v), "kind")
        raise _false("RSD-5156", f"entry {entry.index} does not record this export ({differs})",
                     entry.body.get(differs), wanted.get(differs))  # fmt: skip
    return ((given.member, f"that it recorded this export in its log, as entry {entry.index}"),)


def _allows(entry: Entry, to: Party) -> bool:
    sent = entry.body.get("transfer")
    about = isinstance(sent, dict) and sent.get("artifact") == "log_export" and sent.get("recipient")
    return (entry.kind, entry.body.get("effect")) == ("decision", "allow") and about == to.model_dump(mode="json")


def _shown(indices: list[int]) -> str:
    more = f" and {len(indices) - 8} more" if len(indices) > 8 else ""
    return f"{', '.join(map(str, indices[:8]))}{more}"


def _false(code: str, message: str, found: object, limit: object) -> CheckFailed:
    return CheckFailed(
        code,
        message,
        rule="an export is checked back against the log",
        found=found,
        limit=limit,
        next="do not rely on this export; ask the log's member for another, and compare with a peer's checkpoint",
    )


_CHECKS: tuple[Callable[[Export], Found | None], ...] = (_statement, _files, _log, _rows, _content, _whole)

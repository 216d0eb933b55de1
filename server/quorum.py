"""The witnesses that a study asks for: whether a run can get them, and the last attempt to, on the evidence itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from compliance.canonical import canonical, parse_json
from compliance.clock import now
from compliance.errors import CheckFailed, ResidencyError, RunFailed
from compliance.files import read_bytes
from compliance.log import checkpoint, note
from compliance.log.cosign import cosigners
from compliance.log.evidence import LogEvidence
from compliance.log.witness_protocol import proved_from, with_lines
from compliance.messages import CosignedLine
from compliance.release.verify_complete import below_quorum
from compliance.trust.root import Trust, load_anchor
from compliance.trust.witnesses import neutral, outside_keys, owners, witness_keys
from compliance.validation import load_model
from server.outside_witnesses import OutsideWitnesses, Shown
from server.run_folder import RunFolder

PATIENCE_S: Final = 60.0  # for witnesses without which there is no release
_PAUSE_S: Final = 5.0

_MORE: Final = "have the evidence cosigned by more: residency log witness cosign, then residency log witness take"

Held = Mapping[str, LogEvidence]
"""Member -> the evidence of its log."""

Refuses = Callable[[str, str], ResidencyError | None]
"""Why an outside witness may not be shown the log of a member; None if it may."""


def check_possible(trust: Trust, members: Iterable[str], quorum: int, refused: Refuses) -> None:
    """Returns if the logs of `members` and the operator can get so many witnesses. Raises RunFailed RSD-5117.

    Before anything is trained: what is spent cannot be released without them. Each outside witness is decided on here,
    for each log, whether or not the study needs it.
    """
    taking_part, outside = set(members), sorted(outside_keys(trust, now()))
    for member in (trust.operator.name, *sorted(taking_part)):
        denied = {w: e for w in outside if w != member and (e := refused(w, member)) is not None}
        could = neutral(trust, member, taking_part | (set(outside) - denied.keys()))
        if len(could) < quorum:
            found = f"{len(could)} ({', '.join(sorted(could)) or 'nobody'})"
            told = "".join(f"; {e.message}" for e in denied.values())
            first = next(iter(denied.values()), None)
            raise _below(f"the log of {member} cannot get the witnesses that the study asks for", found + told, quorum,
                         first.next if first is not None else _MORE)  # fmt: skip


def completed(
    outside: OutsideWitnesses,
    trust: Trust,
    quorum: int,
    held: Held,
    patience_s: float = PATIENCE_S,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[dict[str, LogEvidence], list[tuple[str, ResidencyError]]]:
    """The evidence with what the outside witnesses cosign of its last checkpoints, and what failed, by address.

    They are asked once for each that none of them cosigned, and for those below the quorum again, for `patience_s`.
    """
    evidence, errors = dict(held), list[tuple[str, ResidencyError]]()
    until = time.monotonic() + patience_s
    names, short = set(outside_keys(trust, now())), shortfalls(trust, quorum, held)
    wanted = [m for m, e in held.items() if m in short or not names & {s.name for s in _note(e).signatures}]
    while outside and wanted:
        came = outside.ask([_shown(evidence[member]) for member in wanted], at_once=True)
        errors = came.errors
        for line in came.lines:
            member = owners(trust)[line.origin]
            evidence[member] = _with(evidence[member], line)
        wanted = list(shortfalls(trust, quorum, evidence))
        if not wanted or not came.asked or time.monotonic() + _PAUSE_S > until:
            break
        sleep(_PAUSE_S)
    return evidence, errors


def shortfalls(trust: Trust, quorum: int, held: Held) -> dict[str, ResidencyError]:
    """Member -> why its log, as it is shown, has not the witnesses that the study asks for."""
    found: dict[str, ResidencyError] = {}
    for member, evidence in held.items():
        try:
            names = cosigners(_note(evidence), witness_keys(trust, member, now()))
            error: ResidencyError | None = below_quorum(trust, member, evidence.origin, names, quorum)
        except ResidencyError as e:
            error = e
        if error is not None:
            found[member] = error
    return found


def witness_error(home: Path, folder: RunFolder) -> RunFailed | None:
    """Why a run that has finished cannot be released: its logs have too few witnesses; else None."""
    result = folder.result()
    if result is None or result["outcome"] != "finished":
        return None
    held = {p.stem: read_evidence(read_bytes(p, "evidence"), p.name) for p in folder.evidence_files()}
    quorum = folder.witness_quorum()
    short = shortfalls(load_anchor(home / "trust.json").trust, quorum, held)
    if not short:
        return None
    told = "; ".join(f"{member}: {e.found}" for member, e in short.items())
    return _below("the run has finished, and cannot be released: its logs have too few witnesses", told, quorum)


def read_evidence(data: bytes, what: str) -> LogEvidence:
    """Evidence from its file, with a checkpoint that can be read. Raises InputError RSD-9041, RSD-5001, RSD-5004."""
    found = load_model(LogEvidence, parse_json(data, what), "RSD-9041", what)
    checkpoint.parse_text(_note(found).text)
    return found


def of_member(trust: Trust, member: str, text: str) -> LogEvidence:
    """The evidence that a member sent: of its own log. Raises InputError as `read_evidence`, CheckFailed RSD-5005.

    Else what is cosigned for one could be put under the log of another.
    """
    found = read_evidence(text.encode("utf-8"), f"evidence of {member}")
    origin = trust.log_origin(member)
    stated = checkpoint.parse_text(_note(found).text).origin
    for wrong in {found.origin, stated} - {origin}:
        raise CheckFailed("RSD-5005", f"the evidence of {member} is of another log", found=wrong, limit=origin)
    return found


def encoded(evidence: LogEvidence) -> str:
    """Evidence as it stands in a run's folder."""
    return canonical(evidence.model_dump(mode="json")).decode("utf-8")


def _shown(evidence: LogEvidence) -> Shown:
    by_log = tuple(s for s in _note(evidence).signatures if s.name == evidence.origin)
    signed = note.Note(_note(evidence).text, by_log)
    return Shown(evidence.origin, signed.encode(), partial(_proof, evidence))


def _proof(evidence: LogEvidence, old: int) -> tuple[bytes, ...]:
    return proved_from(evidence.hashes(), old)


def _with(evidence: LogEvidence, line: CosignedLine) -> LogEvidence:
    cosigned = with_lines(_note(evidence), [note.parse_line(line.line)])
    return evidence.model_copy(update={"checkpoint": cosigned.encode()})


def _note(evidence: LogEvidence) -> note.Note:
    return note.parse(evidence.checkpoint)


def _below(message: str, found: str, quorum: int, advice: str = _MORE) -> RunFailed:
    return RunFailed(
        "RSD-5117",
        message,
        rule="study.quorum.witnesses",
        found=found,
        limit=f"{quorum} for each log, neither its owner nor the operator",
        next=advice,
    )

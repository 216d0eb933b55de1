"""Check one log alone, from its evidence or its log.db, and against checkpoints that peers hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from compliance.canonical import Json, parse_json
from compliance.clock import parse_time, rfc3339
from compliance.errors import CheckFailed, ResidencyError
from compliance.log import checkpoint, cosign, note
from compliance.log.evidence import CheckedLog, LogEvidence, compare_checkpoint
from compliance.log.expired import COMPACTION, Removal, Removed, by_class, check_signed, removed_by
from compliance.log.tiles import read_files
from compliance.log.view import LogView, read_views
from compliance.release.bundle_folder import read_folder
from compliance.release.case import Logged
from compliance.release.report import Found, Report, Step, StepResult, step_error
from compliance.release.verify_logs import check_key_period, check_log, log_key
from compliance.trust.root import Anchor, Trust
from compliance.trust.witnesses import keys_until
from compliance.validation import load_model

_OWN = Step(1, "RSD-9030", "log", "signed by its member's key; its hashes lead to every checkpoint that it shows")
_HELD = Step(2, "RSD-9031", "peers", "it continues the checkpoints that peers hold")
_NOT_COVERED = (
    "whether what the log records is true: a log shows what was recorded, and nothing that bypassed the agent",
    "what the entries mean that are not shown: their hashes alone stand here",
    "revocations issued after the trust file that was given",
)


@dataclass(frozen=True)
class _Shown:
    """A log up to its last checkpoint; `later` leaf hashes follow it. `opened`: how many entries can be read.

    `expired`: on what grounds how many lost their text, as compaction entries say that a checkpoint covers.
    """

    evidence: LogEvidence
    opened: int
    later: tuple[bytes, ...] = ()
    expired: Mapping[Removal, int] = field(default_factory=dict)


def verify_evidence(data: bytes, against: Sequence[tuple[str, str]], anchor: Anchor, at: datetime) -> Report:
    """The log in `data`, then `against` (name of the file, text of the note). Errors are in the report, exit code 1."""

    def shown() -> _Shown:
        evidence = load_model(LogEvidence, parse_json(data, "the evidence"), "RSD-9041", "the evidence")
        return _Shown(evidence, len(evidence.entries))

    return _verify("evidence", shown, against, anchor, at)


def verify_log(
    path: Path, against: Sequence[tuple[str, str]], anchor: Anchor, at: datetime, view: LogView | None = None
) -> Report:
    """As `verify_evidence`, of the log in the log.db at `path`: every entry is hashed again, unless `view` is there."""

    def shown() -> _Shown:
        return _shown(view or read_views(path)[0], anchor.trust, at)

    return _verify("log", shown, against, anchor, at)


def verify_tiles(folder: Path, against: Sequence[tuple[str, str]], anchor: Anchor, at: datetime) -> Report:
    """As `verify_evidence`, of the log in a folder of tiles: every tile and every entry that lies there."""

    def shown() -> _Shown:
        return _shown(read_files(read_folder(folder)), anchor.trust, at)

    return _verify("tiles", shown, against, anchor, at)


def _shown(view: LogView, trust: Trust, at: datetime) -> _Shown:
    if not view.checkpoints:
        raise CheckFailed(
            "RSD-9030",
            f"log {view.origin} has signed no checkpoint",
            found=f"{view.size} entries, no checkpoint",
            limit="a checkpoint signed by the log's key",
            next="have the log cosigned: the member's agent or server does so while it is connected",
        )
    size = checkpoint.parse_text(note.parse(view.checkpoints[-1]).text).size
    evidence = LogEvidence(
        origin=view.origin,
        checkpoint=view.checkpoints[-1],
        earlier=view.checkpoints[:-1],
        leaf_hashes=tuple(h.hex() for h in view.leaf_hashes[:size]),
        entries=(),
    )
    check_key_period(trust, Logged(member_of(trust, view.origin), evidence, dict(view.entries)), at)
    # Nobody signed what stands behind the checkpoint: whoever has the file may have written it.
    named = removed_by((e for e in view.entries.values() if e.index < size), len(view.leaf_hashes))
    if any(index not in named for index in view.expired):
        check_signed(max((e.index for e in view.entries.values() if e.kind == COMPACTION), default=size), size)
    later = tuple(view.leaf_hashes[size:])
    return _Shown(evidence, len(view.entries), later, _grounds(named, view.expired))


def _grounds(named: Removed, gone: Iterable[int]) -> Mapping[Removal, int]:
    return Counter(removal for index in gone if (removal := named.grounds(index)) is not None)


def _verify(
    mode: str, show: Callable[[], _Shown], against: Sequence[tuple[str, str]], anchor: Anchor, at: datetime
) -> Report:
    facts: dict[str, Json] = {"mode": mode, "at": rfc3339(at), "trust": anchor.digest}
    try:
        if at > parse_time(anchor.trust.expires):
            raise CheckFailed("RSD-9030", "the trust file has expired", found=rfc3339(at), limit=anchor.trust.expires,
                              next="give --at, or a newer trust file")  # fmt: skip
        log = show()
        member = member_of(anchor.trust, log.evidence.origin)
        checked = check_log(anchor.trust, member, log.evidence, keys_until(anchor.trust, member, at), at_least=0)
        check_key_period(anchor.trust, Logged(member, log.evidence, checked.entries), at)
    except (ResidencyError, RecursionError) as e:
        error = step_error(_OWN, e if isinstance(e, ResidencyError) else _too_deep())
        results = (StepResult(_OWN, "FAIL", error=error), StepResult(_HELD, "not run"))
        return Report(results, facts, error, _NOT_COVERED)
    own = StepResult(_OWN, "ok", _found(member, checked, log))
    facts |= {"origin": log.evidence.origin, "size": checked.size, "cosigners": checked.cosigners}
    facts |= {"expired": by_class(_gone(checked, log))}
    held = _against(log, member, against, anchor.trust, at)
    return Report((own, held), facts, held.error, _NOT_COVERED)


def _against(log: _Shown, member: str, against: Sequence[tuple[str, str]], trust: Trust, at: datetime) -> StepResult:
    if not against:
        return StepResult(_HELD, "not judged")
    try:
        sizes = compare_held(log.evidence, member, against, trust, at, log.later)
    except ResidencyError as e:
        return StepResult(_HELD, "FAIL", error=step_error(_HELD, e))
    shown = ", ".join(map(str, sizes))
    return StepResult(_HELD, "ok", Found((f"the log continues the held checkpoints of {shown} entries",)))


def compare_held(
    evidence: LogEvidence,
    member: str,
    against: Sequence[tuple[str, str]],
    trust: Trust,
    at: datetime,
    later: Sequence[bytes] = (),
) -> list[int]:
    """The sizes of the checkpoints in `against`, each cosigned by somebody else and continued by the log of `member`.

    A cosignature counts by a key that began before `at` and held at the time that the cosignature states.
    `later`: leaf hashes after the last checkpoint of `evidence`. Raises CheckFailed RSD-9031 (nobody cosigned it) and
    what `compare_checkpoint` raises.
    """
    keys, key = keys_until(trust, member, at), log_key(trust, member, evidence)
    for name, text in against:
        _cosigned_by_a_member(name, text, keys)
    texts = (text for _, text in against)
    log = [*evidence.hashes(), *later] if later else evidence
    return [c.size for c in compare_checkpoint(log, *texts, origin=evidence.origin, log_key=key, witness_keys=keys)]


def _cosigned_by_a_member(name: str, text: str, keys: cosign.WitnessKeys) -> None:
    """What is held against a log must carry somebody's cosignature. Raises CheckFailed RSD-9031."""
    parsed = note.parse(text)
    checkpoint.parse_text(parsed.text)
    if not cosign.cosigners(parsed, keys):
        raise CheckFailed(
            "RSD-9031",
            f"{name} carries no cosignature of a member",
            rule="a held checkpoint counts when somebody else cosigned it",
            found=", ".join(s.name for s in parsed.signatures),
            limit=", ".join(keys),
            next="give a checkpoint that another member cosigned",
        )


def member_of(trust: Trust, origin: str) -> str:
    """Whose log `origin` is. Raises CheckFailed RSD-9030 if it is nobody's of this consortium."""
    for name in (trust.operator.name, *(s.name for s in trust.sites)):
        if trust.log_origin(name) == origin:
            return name
    raise CheckFailed(
        "RSD-9030", "this log belongs to no member of the consortium", found=origin, limit=trust.log_origin("<member>"),
        next="give the trust file of the log's consortium",
    )  # fmt: skip


def _found(member: str, log: CheckedLog, shown: _Shown) -> Found:
    final = [name for name, sizes in log.cosigners.items() if sizes[-1] == log.size]
    proved: tuple[str, ...] = (
        f"log {log.origin}: {log.size} entries up to its last checkpoint, {shown.opened} shown in all",
        f"its last checkpoint is cosigned by {len(final)} others ({', '.join(final) or 'nobody'})",
    )
    gone = _gone(log, shown)
    proved += tuple(
        f"{many} entries removed, as the log says: {removal.words()}; leaf proven"
        for removal, many in sorted(gone.items(), key=lambda item: item[0].words())
    )
    asserted = ["that its log records what happened"]
    if gone:
        asserted.append("that the removed entries had expired and were of that class, and what they said")
    if not final:
        asserted.append("that nothing was cut from its end: nobody else cosigned the last checkpoint")
    if shown.later:
        asserted.append(f"the {len(shown.later)} entries after the last checkpoint: no checkpoint covers them")
    return Found(proved, tuple((member, text) for text in asserted))


def _gone(log: CheckedLog, shown: _Shown) -> Mapping[Removal, int]:
    return shown.expired or _grounds(removed_by(log.entries.values(), log.size), log.expired)


def _too_deep() -> CheckFailed:
    return CheckFailed("RSD-9030", "the evidence is nested too deeply to be read", rule="RFC 8259 section 9")

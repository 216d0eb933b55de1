"""Check the evidence of one log alone, and against checkpoints that peers hold."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from compliance.canonical import Json, parse_json
from compliance.clock import parse_time, rfc3339
from compliance.errors import CheckFailed, ResidencyError
from compliance.log import checkpoint, cosign, note
from compliance.log.evidence import CheckedLog, LogEvidence, compare_checkpoint
from compliance.release.report import Found, Report, Step, StepResult, step_error
from compliance.release.verify_logs import check_log, log_key, witness_keys
from compliance.trust.root import Anchor, Trust
from compliance.validation import load_model

_OWN = Step(1, "RSD-9030", "log", "signed by its member's key; its hashes lead to every checkpoint that it shows")
_HELD = Step(2, "RSD-9031", "peers", "it continues the checkpoints that peers hold")


def verify_evidence(data: bytes, against: Sequence[tuple[str, str]], anchor: Anchor, at: datetime) -> Report:
    """The log in `data`, then `against` (name of the file, text of the note). Errors are in the report, exit code 1."""
    results: list[StepResult] = []
    facts: dict[str, Json] = {"mode": "evidence", "at": rfc3339(at), "trust": anchor.digest}
    try:
        if at > parse_time(anchor.trust.expires):
            raise CheckFailed("RSD-9030", "the trust file has expired", found=rfc3339(at), limit=anchor.trust.expires,
                              next="give --at, or a newer trust file")  # fmt: skip
        evidence = load_model(LogEvidence, parse_json(data, "the evidence"), "RSD-9041", "the evidence")
        member = _member(anchor.trust, evidence.origin)
        checked = check_log(anchor.trust, member, evidence, at, at_least=0)
    except (ResidencyError, RecursionError) as e:
        error = step_error(_OWN, e if isinstance(e, ResidencyError) else _too_deep())
        return Report((StepResult(_OWN, "FAIL", error=error), StepResult(_HELD, "not run")), facts, error)
    results.append(StepResult(_OWN, "ok", _found(member, checked)))
    facts |= {"origin": evidence.origin, "size": checked.size, "cosigners": checked.cosigners}
    results.append(_against(evidence, member, against, anchor.trust, at))
    return Report(tuple(results), facts, results[-1].error)


def _against(
    evidence: LogEvidence, member: str, against: Sequence[tuple[str, str]], trust: Trust, at: datetime
) -> StepResult:
    if not against:
        return StepResult(_HELD, "not judged")
    keys, key = witness_keys(trust, member, at), log_key(trust, member, evidence)
    try:
        for name, text in against:
            _cosigned_by_a_member(name, text, keys)
        held = compare_checkpoint(
            evidence, *(t for _, t in against), origin=evidence.origin, log_key=key, witness_keys=keys
        )
    except ResidencyError as e:
        return StepResult(_HELD, "FAIL", error=step_error(_HELD, e))
    sizes = ", ".join(str(c.size) for c in held)
    return StepResult(_HELD, "ok", Found((f"the log continues the held checkpoints of {sizes} entries",)))


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


def _member(trust: Trust, origin: str) -> str:
    for name in (trust.operator.name, *(s.name for s in trust.sites)):
        if trust.log_origin(name) == origin:
            return name
    raise CheckFailed(
        "RSD-9030", "this log belongs to no member of the consortium", found=origin, limit=trust.log_origin("<member>"),
        next="give the trust file of the log's consortium",
    )  # fmt: skip


def _found(member: str, log: CheckedLog) -> Found:
    final = [name for name, sizes in log.cosigners.items() if sizes[-1] == log.size]
    proved = (
        f"log {log.origin}: {log.size} entries, {len(log.entries)} of them shown",
        f"its last checkpoint is cosigned by {len(final)} others ({', '.join(final) or 'nobody'})",
    )
    asserted = ["that its log records what happened"]
    if not final:
        asserted.append("that nothing was cut from its end: nobody else cosigned the last checkpoint")
    return Found(proved, tuple((member, text) for text in asserted))


def _too_deep() -> CheckFailed:
    return CheckFailed("RSD-9030", "the evidence is nested too deeply to be read", rule="RFC 8259 section 9")

"""An entry as one row of plain cells: what tables and audit systems of others can take of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from compliance.canonical import Json
from compliance.log.entry import Entry
from compliance.log.kinds import record_class


def _ranked(*names: str) -> dict[str, int]:
    return {name: place for place, name in enumerate(names)}


# Where the one digest stands that an entry is about, first found first taken.
_DIGESTS: Final = _ranked(
    *("sha256", "update_sha256", "model_sha256", "digest", "manifest", "law_set", "policy", "study", "trust"),
    *("draft", "request", "invitation", "commitment", "named", "root", "head", "leaves_sha256"),
)
_WHO: Final = _ranked("recipient", "site", "peer", "to")
_FAILED: Final = {"refusal": "refused", "failure": "failed", "alarm": "alarm"}


@dataclass(frozen=True, slots=True)
class Flat:
    """One entry; texts are printable. Empty or None: it says nothing of that. `digest`: of what the entry is about.

    outcome: allow or deny of a decision, refused, failed, alarm, else done.
    """

    index: int
    at: str
    kind: str
    record_class: str
    study: str
    outcome: str
    artifact: str
    recipient: str
    jurisdiction: str
    purpose: str
    rule: str
    law: str
    code: str
    round: int | None
    attempt: int | None
    decision: int | None
    digest: str
    leaf: str


def flat(entry: Entry, leaf: str) -> Flat:
    """The row of `entry`. Bodies are read as they are: whatever is no text or number is left out."""
    body = entry.body
    transfer = body.get("transfer") if entry.kind == "decision" else None
    sent: dict[str, Json] = transfer if isinstance(transfer, dict) else {}
    party = sent.get("recipient")
    to: dict[str, Json] = party if isinstance(party, dict) else {}
    effect = _text(body.get("effect")) if entry.kind == "decision" else ""
    return Flat(
        index=entry.index,
        at=entry.at,
        kind=entry.kind,
        record_class=record_class(entry.kind),
        study=entry.study or _text(sent.get("study")),
        outcome=effect or _FAILED.get(entry.kind, "done"),
        artifact=_text(sent.get("artifact")) or _text(body.get("artifact")),
        recipient=_text(to.get("name")) or _first(body, _WHO),
        jurisdiction=_text(to.get("jurisdiction")) or _text(body.get("jurisdiction")),
        purpose=_text(sent.get("purpose")),
        rule=_text(body.get("rule")),
        law="; ".join(map(_text, law)) if isinstance(law := body.get("law"), list | tuple) else "",
        code=_text(body.get("code")),
        round=_number(body.get("round")),
        attempt=_number(body.get("attempt")),
        decision=_number(body.get("decision")),
        digest=_first(body, _DIGESTS),
        leaf=leaf,
    )


def _first(body: dict[str, Json], names: dict[str, int]) -> str:
    for name in sorted(names.keys() & body.keys(), key=names.__getitem__):
        if text := _text(body[name]):
            return text
    return ""


def _text(value: Json) -> str:
    """A text on one line: control and direction characters would make it look like another one."""
    if not value or not isinstance(value, str):
        return ""
    return value if value.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in value)


def _number(value: Json) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None

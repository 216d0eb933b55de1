"""FHIR R4 AuditEvent: a Bundle (type collection) with one event an entry, by the profile in fhir-profile.json.

Organisations and machines only, by identifier; no Patient, no Practitioner, no reference to a resource elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from compliance.canonical import Json, canonical, parse_canonical, rewritten
from compliance.errors import ResidencyError
from compliance.export.flat import Flat, flat
from compliance.export.rows import Format, Row, malformed
from compliance.log.entry import Entry

PROFILE: Final = "urn:residency:fhir:log-entry:1"
_NAMES: Final = "urn:residency"
_DCM: Final = "http://dicom.nema.org/resources/ontology/DCM"
_LIFECYCLE: Final = "http://terminology.hl7.org/CodeSystem/iso-21089-lifecycle"
_REASON: Final = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
_ENTITY: Final = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
_ROLE: Final = "http://terminology.hl7.org/CodeSystem/object-role"
_SOURCE: Final = "http://terminology.hl7.org/CodeSystem/security-source-type"

Coding = tuple[str, str, str]  # system, code, display
_ACTIVITY: Final = (_DCM, "110100", "Application Activity")
_EXPORT: Final = (_DCM, "110106", "Export")
_IMPORT: Final = (_DCM, "110107", "Import")
_ALERT: Final = (_DCM, "110113", "Security Alert")
_FROM: Final = (_DCM, "110153", "Source Role ID")
_TO: Final = (_DCM, "110152", "Destination Role ID")
_OUTCOMES: Final = {"allow": "0", "done": "0", "deny": "4", "refused": "4", "failed": "8", "alarm": "8"}
_PURPOSES: Final = {
    "scientific_research": ("HRESCH", "healthcare research"),
    "publication": ("HRESCH", "healthcare research"),
    "public_health": ("PUBHLTH", "public health"),
    "quality_improvement": ("HQUALIMP", "health quality improvement"),
    "study_administration": ("HSYSADMIN", "health system administration"),
    "audit": ("HCOMPL", "health compliance"),
}


@dataclass(frozen=True)
class _Event:
    """How a kind of entry is coded: its type, what it did (FHIR action), and a nearer subtype if there is one."""

    type: Coding = _ACTIVITY
    action: str = "E"
    nearer: Coding | None = None


_EVENTS: Final = {
    "transfer": _Event(_EXPORT, "R", (_LIFECYCLE, "transmit", "Transmit Record Lifecycle Event")),
    "export": _Event(_EXPORT, "R", (_LIFECYCLE, "extract", "Extract Record Lifecycle Event")),
    "dataset": _Event(_IMPORT, "C"),
    "consortium": _Event(_ALERT, "U", (_DCM, "110136", "Security Roles Changed")),
    "policy": _Event(_ALERT, "U", (_DCM, "110129", "Security Configuration")),
    "law": _Event(_ALERT, "U", (_DCM, "110129", "Security Configuration")),
    "refusal": _Event(_ALERT, "E", (_DCM, "110132", "Use of Restricted Function")),
    "alarm": _Event(_ALERT, "E"),
    "compaction": _Event(_ACTIVITY, "D", (_LIFECYCLE, "destroy", "Destroy/Delete Record Lifecycle Event")),
    "release": _Event(_ACTIVITY, "C", (_LIFECYCLE, "originate", "Originate/Retain Record Lifecycle Event")),
}
_OTHER: Final = _Event()  # recorded work of the agent or the server, told apart by our own subtype


@lru_cache(maxsize=4096)
def _constant(
    kind: str, outcome: str, described: str, purpose: str, recipient: str, origin: str
) -> tuple[bytes, bytes, bytes]:
    """The members of an event that many have alike, as canonical JSON: before `entity`, before `recorded`, after it."""
    event, member = _EVENTS.get(kind, _OTHER), origin.rpartition("/")[2]
    agents = [_agent(member, _FROM, requestor=True)]
    if recipient and recipient != member:
        agents.append(_agent(recipient, _TO, requestor=False))
    code = _OUTCOMES.get(outcome, "8")
    middle: dict[str, Json] = {"meta": {"profile": [PROFILE]}, "outcome": code}
    if code != "0":
        middle["outcomeDesc"] = described
    if purpose in _PURPOSES:
        middle["purposeOfEvent"] = [{"coding": [_coding((_REASON, *_PURPOSES[purpose]))]}]
    own = (f"{_NAMES}:entry-kind", kind, kind)
    last = {
        "resourceType": "AuditEvent",
        "source": {
            "site": member,
            "observer": {"type": "Device", "identifier": {"system": f"{_NAMES}:log", "value": origin}},
            "type": [_coding((_SOURCE, "4", "Application Server"))],
        },
        "subtype": [_coding(c) for c in (own, event.nearer) if c],
        "type": _coding(event.type),
    }
    first, between, after = (
        canonical(part)[1:-1] for part in ({"action": event.action, "agent": agents}, middle, last)
    )
    return first, between, after


def _coding(coding: Coding) -> dict[str, str]:
    return dict(zip(("system", "code", "display"), coding, strict=True))


def _agent(name: str, role: Coding, *, requestor: bool) -> dict[str, Json]:
    who = {"type": "Organization", "identifier": {"system": f"{_NAMES}:member", "value": name}}
    return {"type": {"coding": [_coding(role)]}, "who": who, "requestor": requestor}


def _entities(row: Flat, origin: str) -> bytes:
    """The entry itself with what it says, the artifact by its digest, the study by its digest."""
    said = {
        "leaf_sha256": row.leaf,
        "record_class": row.record_class,
        "artifact": row.artifact,
        "jurisdiction": row.jurisdiction,
        "rule": row.rule,
        "law": row.law,
        "code": row.code,
        "round": row.round,
        "attempt": row.attempt,
        "decision": row.decision,
    }
    detail = b",".join(
        b'{"type":"%b","valueString":%b}' % (name.encode(), rewritten(str(v)))
        for name, v in said.items()
        if v not in {"", None}
    )
    found = _entity("log-entry", f"{origin}#{row.index}", _RESOURCE, "log entry", b'"detail":[%b],' % detail)
    if row.digest:
        found += b"," + _entity("sha256", row.digest, _DOMAIN, row.artifact or row.kind)
    if row.study:
        found += b"," + _entity("study", row.study, _JOB, "study")
    return found


def _entity(system: str, value: str, role: bytes, name: str, detail: bytes = b"") -> bytes:
    return b'{%b"name":%b,"role":%b,"type":%b,"what":{"identifier":{"system":"%b:%b","value":%b}}}' % (
        detail, rewritten(name), role, _OBJECT, _NAMES.encode(), system.encode(), rewritten(value),
    )  # fmt: skip


_OBJECT: Final = canonical(_coding((_ENTITY, "2", "System Object")))
_RESOURCE: Final = canonical(_coding((_ROLE, "13", "Security Resource")))
_DOMAIN: Final = canonical(_coding((_ROLE, "4", "Domain Resource")))
_JOB: Final = canonical(_coding((_ROLE, "20", "Job")))


def _write(entry: Entry, leaf: str, origin: str) -> bytes:
    """Canonical JSON, put together from its parts: every name of a member stands in its order."""
    row = flat(entry, leaf)
    described = " ".join(filter(None, (row.outcome, row.code, row.rule)))
    parts = _constant(row.kind, row.outcome, described, row.purpose, row.recipient, origin)
    # The UUID is of version 8 (RFC 9562): made of the leaf hash.
    variant = "89ab"[int(leaf[16], 16) & 3]
    name = f"{leaf[:8]}-{leaf[8:12]}-8{leaf[13:16]}-{variant}{leaf[17:20]}-{leaf[20:32]}"
    return (
        b'{"fullUrl":"urn:uuid:%b","resource":{%b,"entity":[%b],"id":"%b",%b,"recorded":"%b",%b}}'
        % (name.encode(), parts[0], _entities(row, origin), leaf.encode(), parts[1], row.at.encode(), parts[2])
    )  # fmt: skip


def _read(line: bytes) -> Row:
    try:
        resource = parse_canonical(line, "a line of the export")["resource"]
        index = resource["entity"][0]["what"]["identifier"]["value"].rpartition("#")[2]
        return Row(int(index), str(resource["id"]), line)
    except (ResidencyError, TypeError, KeyError, IndexError, AttributeError, ValueError) as e:
        raise malformed(f"a line is no AuditEvent of this profile: {e}", line[:80], "an event with its entry") from e


FHIR: Final = Format(
    "audit-events.json", b'{"resourceType":"Bundle","type":"collection","entry":[\n', b",\n", b"\n]}\n", _write, _read,
    empty=b'{"resourceType":"Bundle","type":"collection"}\n',  # FHIR knows no empty list
)  # fmt: skip

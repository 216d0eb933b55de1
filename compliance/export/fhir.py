"""FHIR R4 AuditEvent: a Bundle (type collection) with one event an entry, by the profile in fhir-profile.json.

Organisations and machines only, by identifier; no Patient, no Practitioner, no reference to a resource elsewhere.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Final

from compliance.canonical import Json, canonical, parse_canonical
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


def audit_event(entry: Entry, leaf: str, origin: str) -> dict[str, Json]:
    """The AuditEvent of one entry; `leaf` is its id."""
    row, member = flat(entry, leaf), origin.rpartition("/")[2]
    event = _EVENTS.get(row.kind, _OTHER)
    own = (f"{_NAMES}:entry-kind", row.kind, row.kind)
    found: dict[str, Json] = {
        "resourceType": "AuditEvent",
        "id": leaf,
        "meta": {"profile": [PROFILE]},
        "type": _coding(event.type),
        "subtype": [_coding(c) for c in (own, event.nearer) if c],
        "action": event.action,
        "recorded": row.at,
        "outcome": _OUTCOMES.get(row.outcome, "8"),
        "agent": [_agent(member, _FROM, requestor=True)],
        "source": {
            "site": member,
            "observer": {"type": "Device", "identifier": {"system": f"{_NAMES}:log", "value": origin}},
            "type": [_coding((_SOURCE, "4", "Application Server"))],
        },
        "entity": _entities(row, origin),
    }
    if row.recipient and row.recipient != member:
        found["agent"].append(_agent(row.recipient, _TO, requestor=False))
    if row.purpose in _PURPOSES:
        found["purposeOfEvent"] = [{"coding": [_coding((_REASON, *_PURPOSES[row.purpose]))]}]
    if found["outcome"] != "0":
        found["outcomeDesc"] = " ".join(filter(None, (row.outcome, row.code, row.rule)))
    return found


def _coding(coding: Coding) -> dict[str, str]:
    return dict(zip(("system", "code", "display"), coding, strict=True))


def _agent(name: str, role: Coding, *, requestor: bool) -> dict[str, Json]:
    who = {"type": "Organization", "identifier": {"system": f"{_NAMES}:member", "value": name}}
    return {"type": {"coding": [_coding(role)]}, "who": who, "requestor": requestor}


def _entities(row: Flat, origin: str) -> list[Json]:
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
    detail = [{"type": name, "valueString": str(v)} for name, v in said.items() if v not in {"", None}]
    entry = _entity("log-entry", f"{origin}#{row.index}", ("13", "Security Resource"), "log entry")
    found = [{**entry, "detail": detail}]
    if row.digest:
        found.append(_entity("sha256", row.digest, ("4", "Domain Resource"), row.artifact or row.kind))
    if row.study:
        found.append(_entity("study", row.study, ("20", "Job"), "study"))
    return found


def _entity(system: str, value: str, role: tuple[str, str], name: str) -> dict[str, Json]:
    return {
        "what": {"identifier": {"system": f"{_NAMES}:{system}", "value": value}},
        "type": _coding((_ENTITY, "2", "System Object")),
        "role": _coding((_ROLE, *role)),
        "name": name,
    }


def _write(entry: Entry, leaf: str, origin: str) -> bytes:
    raw = bytearray(bytes.fromhex(leaf)[:16])  # a UUID of version 8 (RFC 9562): made of the leaf hash
    raw[6], raw[8] = raw[6] & 0x0F | 0x80, raw[8] & 0x3F | 0x80
    return canonical(
        {"fullUrl": f"urn:uuid:{uuid.UUID(bytes=bytes(raw))}", "resource": audit_event(entry, leaf, origin)}
    )


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

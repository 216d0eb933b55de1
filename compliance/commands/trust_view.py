"""A trust file as the consortium commands show it."""

from __future__ import annotations

from pathlib import Path

from compliance.cli import table
from compliance.files import quoted
from compliance.identity import Envelope
from compliance.trust.root import Trust, signing_sites
from compliance.trust.witnesses import NOWHERE, outside_party


def trust_fields(trust: Trust, envelope: Envelope) -> dict[str, object]:
    """Its content, and who signed it."""
    signed = sorted(signing_sites(trust, envelope, trust))
    return {
        "digest": envelope.digest,
        "trust": trust.as_json(),
        "signed_by": signed,
        "threshold_met": len(signed) >= trust.threshold,
    }


def sign_line(draft: Path) -> str:
    """For people: what comes after a draft."""
    return f"next       each signatory: residency consortium sign {quoted(draft)} --key signatory.key"


def trust_lines(trust: Trust, envelope: Envelope) -> list[str]:
    """Members, keys and signatures as tables."""
    signed = sorted(signing_sites(trust, envelope, trust))
    members = [("operator", trust.operator), *(("site", s) for s in trust.sites)]
    keys = [
        (k.holder, k.role, k.keyid[:16], k.not_before, k.revoked_at or k.not_after, "revoked" if k.revoked_at else "")
        for k in trust.keys
    ]
    return [
        f"consortium {trust.consortium}, trust version {trust.version}, {trust.issued} to {trust.expires}",
        f"digest     {envelope.digest}",
        *table(["member", "name", "jurisdiction"], [(kind, m.name, m.jurisdiction) for kind, m in members]),
        *table(["holder", "role", "key", "from", "until", ""], keys),
        *_witness_lines(trust),
        f"signed     {len(signed)} of {trust.threshold} needed: {', '.join(signed) or 'nobody'}",
    ]


def _witness_lines(trust: Trust) -> list[str]:
    """Where each outside witness is: a signatory signs that too."""
    rows = []
    for holder in dict.fromkeys(k.holder for k in trust.keys_of("witness")):
        found = outside_party(trust, holder)
        place = "unknown: nothing is shown to it" if found.jurisdiction == NOWHERE else found.jurisdiction
        rows.append((holder, place, ", ".join(found.access), "covered person" if found.covered_person else ""))
    return table(["witness", "jurisdiction", "reachable from", ""], rows) if rows else []

"""A trust file as the consortium commands show it."""

from __future__ import annotations

from compliance.cli import table
from compliance.identity import Envelope
from compliance.trust.root import Trust, signing_sites


def trust_fields(trust: Trust, envelope: Envelope) -> dict[str, object]:
    """Its content, and who signed it."""
    signed = sorted(signing_sites(trust, envelope, trust))
    return {
        "digest": envelope.digest,
        "trust": trust.model_dump(mode="json", by_alias=True),
        "signed_by": signed,
        "threshold_met": len(signed) >= trust.threshold,
    }


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
        f"signed     {len(signed)} of {trust.threshold} needed: {', '.join(signed) or 'nobody'}",
    ]

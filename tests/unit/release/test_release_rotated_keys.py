"""Keys come and go: a cosignature counts if its key could sign at the time that it states, whenever it is checked."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from compliance.canonical import parse_canonical
from compliance.identity import parse_envelope, seal
from compliance.release.case import evidence_bytes
from compliance.release.evidence_check import verify_evidence
from compliance.release.report import Report
from compliance.trust.root import Anchor, open_trust
from compliance.trust.witnesses import keys_until, witness_keys
from tests.world import AT, CONTRIBUTORS, START, World, world

LATER = datetime(2027, 6, 1, tzinfo=UTC)


def rotated(made: World, field: str, text: str) -> Anchor:
    """The trust file in which the keys that cosign the log of site-a ended."""
    raw = parse_canonical(parse_envelope(made.trust.rstrip(b"\n"), "trust").payload, "trust")
    for key in raw["keys"]:
        if key["role"] in ("agent", "operator") and key["holder"] != "site-a":
            key[field] = text
    signatories = (made.keys[s, "signatory"] for s in CONTRIBUTORS)
    return open_trust(seal(raw, *signatories).encode() + b"\n", "trust")


def judged(made: World, anchor: Anchor, at: datetime) -> Report:
    """The log of site-a, held against its own cosigned checkpoint."""
    evidence = made.evidence("site-a")
    return verify_evidence(evidence_bytes(evidence), [("held", evidence.checkpoint)], anchor, at)


@pytest.mark.parametrize("field", ["not_after", "revoked_at"])
def test_what_was_cosigned_while_the_key_held_counts_after_it_ended(field: str) -> None:
    made = world()
    anchor = rotated(made, field, "2026-12-31T00:00:00Z")
    before, after = judged(made, anchor, AT), judged(made, anchor, LATER)
    assert after.error is None
    assert after.facts["cosigners"] == before.facts["cosigners"] == judged(made, made.anchor, AT).facts["cosigners"]
    assert before.facts["cosigners"]


def test_what_was_cosigned_after_the_key_was_revoked_does_not_count() -> None:
    made = world()
    report = judged(made, rotated(made, "revoked_at", "2026-06-01T00:00:00Z"), AT)
    assert report.facts["cosigners"] == {}
    assert report.error is not None
    assert report.error.code == "RSD-9031"


def test_a_release_takes_only_keys_that_held_when_its_last_entry_was_written() -> None:
    trust = rotated(world(), "not_after", "2026-12-31T00:00:00Z").trust
    ended = trust.witness_name("site-b")
    assert ended in witness_keys(trust, "site-a", START)
    assert ended not in witness_keys(trust, "site-a", LATER)
    assert ended in keys_until(trust, "site-a", LATER)
    assert ended not in keys_until(trust, "site-a", START.replace(year=2001))

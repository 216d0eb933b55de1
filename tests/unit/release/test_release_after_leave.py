"""A site left: the trust file of a release still judges it, and the next one keeps the leaver's keys as ended ones."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from compliance.clock import parse_time, rfc3339
from compliance.errors import InputError
from compliance.identity import parse_envelope, seal
from compliance.log import checkpoint, cosign, merkle, note
from compliance.log.checkpoint import Checkpoint
from compliance.release.verify import verify_bundle
from compliance.trust.root import Anchor, check_successor, open_trust, parse_trust
from compliance.trust.witnesses import keys_until, neutral, witness_keys
from tests.world import AT, failed, world

LEAVER = "site-c"


def successor(left_at: str) -> Anchor:
    """The next trust file, without the leaver, whose keys ended at `left_at`."""
    made = world()
    old = json.loads(parse_envelope(made.trust, "trust").payload)
    signers = [made.keys[s, "signatory"] for s in ("site-a", "site-b", "site-d")]
    return open_trust(seal(_without(old, left_at, made.anchor.digest), *signers).encode(), "trust")


def _without(old: dict[str, Any], left_at: str, digest: str) -> dict[str, Any]:
    keys = [{**k, "revoked_at": left_at} if k["holder"] == LEAVER else k for k in old["keys"]]
    sites = [s for s in old["sites"] if s["name"] != LEAVER]
    return {**old, "version": 2, "previous": digest, "issued": rfc3339(AT), "keys": keys, "sites": sites}


def test_a_release_is_judged_by_the_trust_file_of_its_time() -> None:
    made, anchor = world(), successor(rfc3339(AT))
    check_successor(made.anchor, anchor)
    assert LEAVER not in {s.name for s in anchor.trust.sites}
    assert failed(made.verify(made.bundle)) == (0, "")
    step, text = failed(verify_bundle(made.bundle, anchor, AT))
    assert (step, "another trust file" in text) == (2, True)


@pytest.mark.parametrize(("minutes", "counts"), [(-1, True), (0, False), (1, False)])
def test_what_it_cosigned_as_a_member_stays_cosigned(minutes: int, *, counts: bool) -> None:
    made, left = world(), AT - timedelta(minutes=10)
    trust = successor(rfc3339(left)).trust
    name = trust.witness_name(LEAVER)
    assert name not in witness_keys(trust, "site-a", AT)
    root = Checkpoint(made.origin("site-a"), 0, merkle.EMPTY_ROOT)
    signed = note.parse(checkpoint.sign(root, made.log_signer("site-a").private))
    second = int((left + timedelta(minutes=minutes)).timestamp())
    line = cosign.cosign(signed.text, name, made.log_signer(LEAVER).private, second)
    found = cosign.cosigners(note.with_signature(signed, line), keys_until(trust, "site-a", AT))
    assert found == ({name: second} if counts else {})
    assert neutral(trust, "site-a", [name]) == {LEAVER}
    assert name not in keys_until(trust, LEAVER, AT)


def test_keys_of_no_member_must_have_ended() -> None:
    made = world()
    old = json.loads(parse_envelope(made.trust, "trust").payload)
    ended = rfc3339(AT)
    parse_trust(seal(_without(old, ended, made.anchor.digest)).encode(), "trust")
    later = rfc3339(parse_time("2027-10-01T00:00:00Z"))
    for wrong in (later, None):
        with pytest.raises(InputError) as e:
            parse_trust(seal(_without(old, wrong, made.anchor.digest)).encode(), "trust")  # type: ignore[arg-type]
        assert (e.value.code, "may not hold" in e.value.message) == ("RSD-6001", True)
    record = _without(old, ended, made.anchor.digest)
    operator = made.operator
    signatory = {**operator.identity.as_json(), "role": "signatory", "revoked_at": ended}
    keys = [k for k in record["keys"] if k["holder"] != operator.identity.holder]
    with pytest.raises(InputError):
        parse_trust(seal({**record, "keys": [*keys, signatory]}).encode(), "trust")

"""Invitation, request and draft: what is refused before anybody signs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from compliance.canonical import parse_canonical
from compliance.errors import CheckFailed, InputError, Refused, ResidencyError
from compliance.identity import Signer, countersign, seal
from compliance.study import Organisation
from compliance.trust.consortium import Consortium
from compliance.trust.draft import draft_trust
from compliance.trust.enrol import Invitation, check_request, make_invitation, make_request, open_invitation
from compliance.trust.root import check_successor, open_trust, parse_trust
from tests.desk import CONSORTIUM, OPERATOR, consortium, day, node_key, signer

WORLD = consortium()
CONFIG = Consortium(
    schema="residency.consortium/1",
    name=CONSORTIUM,
    operator=Organisation(name=OPERATOR, jurisdiction="IE"),
    threshold=2,
    server="localhost:9092",
    governance="localhost:9093",
    enrolment="localhost:9094",
)


def invitation(site: str = "berlin", jurisdiction: str = "DE") -> Invitation:
    return open_invitation(make_invitation(CONFIG, WORLD.operator, site, jurisdiction, "PEM").encode())


def request(invited: Invitation, agent: Signer | None = None) -> bytes:
    site = invited.site
    keys = (WORLD.signatories[site].identity, WORLD.dpos[site].identity)
    return make_request(invited, agent or WORLD.agents[site], *keys, node_key()).encode()


def altered(data: bytes, by: Signer, **changes: Any) -> bytes:
    from compliance.identity import parse_envelope

    payload = parse_canonical(parse_envelope(data, "x").payload, "x")
    return seal({**payload, **changes}, by).encode()


def test_round_trip() -> None:
    invited = invitation()
    found = check_request(request(invited), invited)
    assert (found.site, found.jurisdiction, found.invitation) == ("berlin", "DE", invited.digest)
    assert found.agent == WORLD.agents["berlin"].identity


def test_two_invitations_differ() -> None:
    first, second = invitation(), invitation()
    assert first.nonce != second.nonce
    with pytest.raises(CheckFailed) as e:
        check_request(request(first), second)
    assert e.value.code == "RSD-6009"
    assert "invitation" in e.value.message


def test_an_invitation_is_intact_or_refused() -> None:
    data = make_invitation(CONFIG, WORLD.operator, "berlin", "DE", "PEM").encode()
    for i in range(0, len(data), 3):
        with pytest.raises(ResidencyError):
            open_invitation(data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :])
    with pytest.raises(CheckFailed) as e:
        open_invitation(altered(data, WORLD.agents["berlin"]))
    assert e.value.code == "RSD-6016"
    for change in ({"site": "B!"}, {"server": "nowhere"}, {"operator_key": WORLD.agents["berlin"].identity.as_json()}):
        with pytest.raises(InputError) as f:
            open_invitation(altered(data, WORLD.operator, **change))
        assert f.value.code == "RSD-6016"


def test_the_agent_key_must_be_possessed() -> None:
    invited = invitation()
    data = altered(request(invited), WORLD.agents["leeds"])
    with pytest.raises(CheckFailed) as e:
        check_request(data, invited)
    assert (e.value.code, e.value.limit) == ("RSD-6009", WORLD.agents["berlin"].identity.keyid[:12])


def _p256() -> str:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"nonce": "00" * 16}, "nonce"),
        ({"jurisdiction": "CN"}, "jurisdiction"),
        ({"site": "leeds"}, "site"),
        ({"node_key": "no key"}, "node_key"),
        ({"node_key": _p256()}, "node_key"),
        ({"at": "2001-01-01"}, "valid"),
        ({"keys": [WORLD.agents["berlin"].identity.as_json(), WORLD.dpos["berlin"].identity.as_json(),
                   WORLD.signatories["berlin"].identity.as_json()]}, "roles"),
        ({"keys": [WORLD.agents["berlin"].identity.as_json(), WORLD.signatories["leeds"].identity.as_json(),
                   WORLD.dpos["berlin"].identity.as_json()]}, "holders"),
        ({"keys": [WORLD.agents["berlin"].identity.as_json(),
                   {**WORLD.agents["berlin"].identity.as_json(), "role": "signatory"},
                   WORLD.dpos["berlin"].identity.as_json()]}, "different keys"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(changes: dict[str, Any], named: str) -> None:
    invited = invitation()
    with pytest.raises(CheckFailed) as e:
        check_request(altered(request(invited), WORLD.agents["berlin"], **changes), invited)
    assert e.value.code == "RSD-6009"
    assert named in e.value.message + e.value.found


def test_unknown_field_or_kind_is_refused() -> None:
    invited = invitation()
    for changes in ({"extra": 1}, {"schema": "residency.other/1"}):
        with pytest.raises(InputError) as e:
            check_request(altered(request(invited), WORLD.agents["berlin"], **changes), invited)
        assert e.value.code == "RSD-6009"


def enrolled(site: str, jurisdiction: str, agent: Signer | None = None) -> Any:
    invited = invitation(site, jurisdiction)
    return check_request(request(invited, agent), invited)


def test_draft_and_its_successor() -> None:
    first = draft_trust(
        CONFIG, WORLD.operator.identity, [enrolled("leeds", "GB"), enrolled("berlin", "DE")], None, day(700)
    )
    trust, envelope = parse_trust(first.encode(), "draft")
    assert not envelope.signatures
    assert [s.name for s in trust.sites] == ["berlin", "leeds"]
    assert len(trust.keys) == 7
    for site in ("berlin", "leeds"):
        first = countersign(first, WORLD.signatories[site])
    old = open_trust(first.encode(), "trust")

    fresh = signer("agent", "leeds")
    second = draft_trust(
        CONFIG, WORLD.operator.identity, [enrolled("osaka", "JP"), enrolled("leeds", "GB", fresh)], old, day(700)
    )
    for site in ("berlin", "leeds"):
        second = countersign(second, WORLD.signatories[site])
    new = open_trust(second.encode(), "trust")
    check_successor(old, new)
    assert [s.name for s in new.trust.sites] == ["berlin", "leeds", "osaka"]
    agents = {k.keyid: k.revoked_at for k in new.trust.keys_of("agent", "leeds")}
    assert agents == {fresh.identity.keyid: None, WORLD.agents["leeds"].identity.keyid: new.trust.issued}


def test_too_few_sites_for_the_threshold() -> None:
    with pytest.raises(Refused) as e:
        draft_trust(CONFIG, WORLD.operator.identity, [enrolled("berlin", "DE")], None, day(700))
    assert (e.value.code, e.value.found, e.value.limit) == ("RSD-6017", "1 sites", "2 sites")


def test_requests_are_made_only_with_fitting_keys() -> None:
    invited = invitation()
    wrong = replace(WORLD.agents["leeds"])
    with pytest.raises(CheckFailed) as e:
        make_request(invited, wrong, WORLD.signatories["berlin"].identity, WORLD.dpos["berlin"].identity, node_key())
    assert e.value.code == "RSD-6009"

"""trust.json: how many sites must sign, whose keys count and when, and which file may follow which."""

from __future__ import annotations

from typing import Any

import pytest

from compliance.clock import now, parse_time
from compliance.errors import CheckFailed, InputError, Refused, ResidencyError
from compliance.identity import Signer, seal
from compliance.trust.root import Anchor, check_successor, open_trust
from tests.desk import OPERATOR, consortium, day, signer

WORLD = consortium()


def with_keys(*signers: Signer, **changes: Any) -> dict[str, Any]:
    return WORLD.trust_record(keys=[s.identity.as_json() for s in signers], **changes)


def refused_as(code: str, record: dict[str, Any], *by: Signer) -> ResidencyError:
    with pytest.raises(ResidencyError) as e:
        open_trust(seal(record, *by).encode(), "trust")
    assert e.value.code == code
    return e.value


def test_threshold_met_and_missed_by_one() -> None:
    assert open_trust(WORLD.trust("berlin", "leeds").encode(), "trust").trust.threshold == 2
    with pytest.raises(CheckFailed) as e:
        open_trust(WORLD.trust("berlin").encode(), "trust")
    assert (e.value.code, e.value.found, e.value.limit) == ("RSD-6002", "1 (berlin)", "2")
    with pytest.raises(CheckFailed, match="not signed by enough"):
        open_trust(WORLD.trust().encode(), "trust")


def test_two_keys_of_one_site_count_once() -> None:
    second = signer("signatory", "berlin")
    keys = [WORLD.operator, WORLD.signatories["berlin"], second, WORLD.signatories["leeds"]]
    error = refused_as("RSD-6002", with_keys(*keys), WORLD.signatories["berlin"], second)
    assert error.found == "1 (berlin)"


@pytest.mark.parametrize("people", ["agents", "dpos"])
def test_other_roles_do_not_count(people: str) -> None:
    others = getattr(WORLD, people)
    refused_as("RSD-6002", WORLD.trust_record(), WORLD.signatories["berlin"], others["leeds"], WORLD.operator)


def test_the_operator_cannot_hold_a_signatory_key() -> None:
    false_friend = signer("signatory", OPERATOR)
    keys = (WORLD.operator, WORLD.signatories["berlin"], WORLD.signatories["leeds"], false_friend)
    error = refused_as("RSD-6001", with_keys(*keys), WORLD.signatories["berlin"], false_friend)
    assert "who may not hold one" in error.message


def test_expired_and_revoked_keys_do_not_count() -> None:
    expired = signer("signatory", "leeds", start=-20, end=-5)
    mine = WORLD.signatories["berlin"]
    refused_as("RSD-6002", with_keys(WORLD.operator, mine, expired), mine, expired)
    leeds = WORLD.signatories["leeds"]
    record = with_keys(WORLD.operator, mine, leeds)
    record["keys"][2]["revoked_at"] = day(-3)
    refused_as("RSD-6002", record, mine, leeds)
    record["keys"][2]["revoked_at"] = day(3)
    assert open_trust(seal(record, mine, leeds).encode(), "trust").trust.version == 1


def test_a_foreign_signature_neither_helps_nor_harms() -> None:
    stranger = signer("signatory", "leeds")
    refused_as("RSD-6002", WORLD.trust_record(), WORLD.signatories["berlin"], stranger)
    good = seal(WORLD.trust_record(), WORLD.signatories["berlin"], WORLD.signatories["leeds"], stranger)
    assert open_trust(good.encode(), "trust").digest == good.digest


def test_every_flipped_byte_is_refused() -> None:
    data = WORLD.trust("berlin", "leeds").encode()
    for i in range(0, len(data), 3):
        with pytest.raises(ResidencyError):
            open_trust(data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :], "trust")


def test_expiry() -> None:
    anchor = WORLD.anchor()
    data = anchor.envelope.encode()
    with pytest.raises(Refused) as e:
        open_trust(data, "trust", parse_time(day(701)))
    assert e.value.code == "RSD-6013"


@pytest.mark.parametrize(
    "change",
    [{"threshold": 4}, {"threshold": 0}, {"expires": day(-2)}, {"issued": "today"}, {"expires": "2026-13-01"},
     {"sites": []}, {"version": 0}, {"unknown": 1}],
)  # fmt: skip
def test_incoherent_trust_files_are_refused(change: dict[str, Any]) -> None:
    refused_as("RSD-6001", WORLD.trust_record(**change), *WORLD.signatories.values())


def test_one_key_cannot_have_two_roles_or_an_unknown_holder() -> None:
    mine = WORLD.signatories["berlin"].identity.as_json()
    refused_as("RSD-6001", WORLD.trust_record(keys=[mine, {**mine, "role": "dpo"}]))
    refused_as("RSD-6001", WORLD.trust_record(keys=[signer("agent", "paris").identity.as_json()]))
    refused_as("RSD-6001", WORLD.trust_record(keys=[signer("operator", "berlin").identity.as_json()]))


def successor(old: Anchor, *by: str, **changes: Any) -> Anchor:
    record = WORLD.trust_record(version=2, previous=old.digest, issued=day(0), **changes)
    return open_trust(seal(record, *(WORLD.signatories[s] for s in by)).encode(), "trust")


def test_a_successor_carries_the_old_threshold() -> None:
    old = WORLD.anchor()
    check_successor(old, successor(old, "leeds", "osaka"))
    low = successor(old, "leeds", threshold=1)
    with pytest.raises(Refused) as e:
        check_successor(old, low)
    assert (e.value.code, e.value.found, e.value.limit) == ("RSD-6014", "1", "2")


@pytest.mark.parametrize(
    ("change", "named"),
    [({"version": 1}, "version"), ({"version": 3}, "version"), ({"previous": "00" * 32}, "previous"),
     ({"consortium": "other"}, "consortium"), ({"issued": day(-9)}, "issued")],
)  # fmt: skip
def test_what_does_not_follow_is_refused(change: dict[str, Any], named: str) -> None:
    old = WORLD.anchor()
    record = WORLD.trust_record(**{"version": 2, "previous": old.digest, "issued": day(0), **change})
    new = open_trust(seal(record, *WORLD.signatories.values()).encode(), "trust")
    with pytest.raises(Refused) as e:
        check_successor(old, new)
    assert e.value.code == "RSD-6014"
    assert named in e.value.message


def test_a_world_rebuilt_with_new_keys_fails_under_the_old_anchor() -> None:
    old, rebuilt = WORLD.anchor(), consortium()
    record = rebuilt.trust_record(version=2, previous=old.digest, issued=day(0))
    forged = open_trust(seal(record, *rebuilt.signatories.values()).encode(), "trust")
    with pytest.raises(Refused) as e:
        check_successor(old, forged)
    assert (e.value.code, e.value.found) == ("RSD-6014", "0")
    statement = seal({"schema": "residency.note/1"}, rebuilt.operator).encode()
    assert forged.statement(statement, "residency.note/1", "x", role="operator", holder=OPERATOR, at=now())
    with pytest.raises(CheckFailed) as f:
        old.statement(statement, "residency.note/1", "x", role="operator", holder=OPERATOR, at=now())
    assert f.value.code == "RSD-6011"


def test_statements_need_role_holder_and_period() -> None:
    anchor = WORLD.anchor()
    data = seal({"schema": "residency.note/1"}, WORLD.dpos["berlin"]).encode()

    def opens(role: Any, holder: str, at: str) -> bool:
        try:
            anchor.statement(data, "residency.note/1", "x", role=role, holder=holder, at=parse_time(at))
        except CheckFailed as e:
            assert e.code == "RSD-6011"  # noqa: PT017
            return False
        return True

    assert opens("dpo", "berlin", day(0))
    assert not opens("signatory", "berlin", day(0))
    assert not opens("dpo", "leeds", day(0))
    assert not opens("dpo", "berlin", day(301))
    assert not opens("dpo", "berlin", day(-11))


def test_unknown_sites_are_named() -> None:
    with pytest.raises(InputError) as e:
        WORLD.anchor().trust.site("paris")
    assert (e.value.code, e.value.found) == ("RSD-6010", "paris")

"""The enrolment door's bound for guesses: strangers cannot use up what honest sites need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from compliance.errors import Refused
from compliance.governance import EnrolRequest
from compliance.log.store import LogStore
from compliance.trust.enrol import Invitation, make_request, open_invitation
from compliance.trust.home import OperatorHome
from server.governance import enrolment
from server.governance.limits import Limits
from tests.desk import CONSORTIUM, OPERATOR, consortium, node_key, ok, signer


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[enrolment.Enrolment]:
    ok("consortium", "init", CONSORTIUM, "--operator", OPERATOR, "--jurisdiction", "IE", "--threshold", 1,
       "--server", "127.0.0.1:9092", "--home", tmp_path / "hub")  # fmt: skip
    ok("consortium", "invite", "berlin", "--jurisdiction", "DE", "--home", tmp_path / "hub", "--out", tmp_path / "kit")
    monkeypatch.setattr(enrolment, "WRONG_TOKEN_S", 0.0)
    place = OperatorHome(tmp_path / "hub")
    origin = f"residency/{CONSORTIUM}/{OPERATOR}"
    with closing(LogStore.open(place.log_file, origin, place.signer().private)) as log:
        yield enrolment.Enrolment(place, Limits(lambda: 0.0), lambda: log)


def _honest(kit: Invitation) -> EnrolRequest:
    world = consortium()
    signatory, dpo = world.signatories["berlin"].identity, world.dpos["berlin"].identity
    request = make_request(kit, signer("agent", "berlin"), signatory, dpo, node_key()).encode().decode()
    return EnrolRequest(token=kit.token, request=request)


def _guess(door: enrolment.Enrolment, count: int) -> str:
    with pytest.raises(Refused) as e:
        door.enrol("ipv4:192.0.2.1", EnrolRequest(token=f"{count:064d}", request="{}"))
    return e.value.code


def test_only_wrong_tokens_are_charged_and_a_right_one_is_served_all_the_same(
    door: enrolment.Enrolment, tmp_path: Path
) -> None:
    honest = _honest(open_invitation((tmp_path / "kit").read_bytes()))
    first = door.enrol("ipv4:192.0.2.7", honest)
    assert all(door.enrol("ipv4:192.0.2.7", honest) == first for _ in range(80))
    assert [_guess(door, i) for i in range(61)] == ["RSD-6212"] * 60 + ["RSD-6303"]
    assert door.enrol("ipv4:192.0.2.7", honest) == first

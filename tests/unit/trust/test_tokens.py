"""One-time tokens: who may hand in a request, once, and what a lost reply costs."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from compliance import files
from compliance.clock import now
from compliance.errors import Refused, ResidencyError
from compliance.trust import tokens
from compliance.trust.enrol import Invitation, make_request, open_invitation
from compliance.trust.home import OperatorHome
from tests.desk import CONSORTIUM, OPERATOR, consortium, node_key, ok, refused, signer

WORLD = consortium()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tokens")
    ok("consortium", "init", CONSORTIUM, "--operator", OPERATOR, "--jurisdiction", "IE", "--threshold", 1,
       "--server", "127.0.0.1:9092", "--home", root / "hub")  # fmt: skip
    ok("consortium", "invite", "berlin", "--jurisdiction", "DE", "--home", root / "hub", "--out", root / "kit.json")
    return root


@pytest.fixture
def place(made: Path, tmp_path: Path) -> OperatorHome:
    shutil.copytree(made / "hub", tmp_path / "hub")
    return OperatorHome(tmp_path / "hub")


@pytest.fixture
def kit(made: Path) -> Invitation:
    return open_invitation((made / "kit.json").read_bytes())


def request(kit: Invitation) -> bytes:
    """A request with fresh keys."""
    signatory, dpo = WORLD.signatories["berlin"].identity, WORLD.dpos["berlin"].identity
    return make_request(kit, signer("agent", "berlin"), signatory, dpo, node_key()).encode()


def test_the_kit_is_private_and_the_operator_keeps_no_token(made: Path, kit: Invitation) -> None:
    assert (made / "kit.json").stat().st_mode & 0o777 == 0o600
    assert len(bytes.fromhex(kit.token)) == 32
    kept = [p for p in (made / "hub").rglob("*") if p.is_file()]
    assert kept
    assert not [p for p in kept if kit.token.encode() in p.read_bytes()]


def test_one_request_and_its_repetition(place: OperatorHome, kit: Invitation) -> None:
    first, second = request(kit), request(kit)
    asked = tokens.redeem(place, kit.token, first)
    assert asked.site == "berlin"
    assert (place.requests / "berlin.json").read_bytes() == first + b"\n"
    with pytest.raises(Refused) as e:
        tokens.redeem(place, kit.token, second)
    assert e.value.code == "RSD-6214"
    assert tokens.redeem(place, kit.token, first) == asked
    assert (place.requests / "berlin.json").read_bytes() == first + b"\n"


def test_a_repetition_does_not_bring_an_old_request_back(place: OperatorHome, kit: Invitation, tmp_path: Path) -> None:
    old = request(kit)
    tokens.redeem(place, kit.token, old)
    ok("consortium", "invite", "berlin", "--jurisdiction", "DE", "--home", place.root, "--out", tmp_path / "new.json")
    again = open_invitation((tmp_path / "new.json").read_bytes())
    new = request(again)
    tokens.redeem(place, again.token, new)
    with pytest.raises(Refused) as e:
        tokens.redeem(place, kit.token, old)
    assert e.value.code == "RSD-6223"
    assert (place.requests / "berlin.json").read_bytes() == new + b"\n"


@pytest.mark.parametrize("by", ["door", "file", "all files"])
def test_a_newer_invitation_retires_a_stolen_kit(place: OperatorHome, kit: Invitation, tmp_path: Path, by: str) -> None:
    ok("consortium", "invite", "leeds", "--jurisdiction", "GB", "--home", place.root, "--out", tmp_path / "leeds.json")
    leeds = open_invitation((tmp_path / "leeds.json").read_bytes())
    thiefs = request(kit)
    (tmp_path / "thief.json").write_bytes(thiefs)
    if by == "all files":  # the thief came first, at the door
        tokens.redeem(place, kit.token, thiefs)
    said = ok("consortium", "invite", "berlin", "--jurisdiction", "DE", "--home", place.root,
              "--out", tmp_path / "new.json")  # fmt: skip
    assert said["retired"] == [kit.digest]
    again = open_invitation((tmp_path / "new.json").read_bytes())
    own = request(again)
    if by != "all files":
        tokens.redeem(place, again.token, own)
    draft = tmp_path / "draft.json"
    if by == "door":
        with pytest.raises(Refused) as e:
            tokens.redeem(place, kit.token, thiefs)
        assert e.value.code == "RSD-6223"
    elif by == "file":
        refused(4, "RSD-6223", "consortium", "admit", tmp_path / "thief.json", "--home", place.root, "--out", draft)
    else:
        refused(4, "RSD-6218", "consortium", "admit", "--home", place.root, "--out", draft)
        tokens.redeem(place, again.token, own)
    assert not draft.exists()
    assert (place.requests / "berlin.json").read_bytes() == own + b"\n"
    assert tokens.redeem(place, again.token, own).site == "berlin"
    tokens.invited_by(place, leeds.token, now())  # another site's holds


def test_after_a_crash_while_a_kit_is_renewed_none_holds(
    place: OperatorHome, kit: Invitation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = files.write_durably

    def dies(path: Path, data: bytes) -> None:
        write(path, data)
        if path.suffix == ".retired":
            os._exit(9)

    monkeypatch.setattr(files, "write_durably", dies)
    if not (child := os.fork()):
        try:
            ok("consortium", "invite", "berlin", "--jurisdiction", "DE", "--home", place.root,
               "--out", tmp_path / "new.json")  # fmt: skip
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    new = open_invitation((tmp_path / "new.json").read_bytes())
    for one, code in ((kit, "RSD-6223"), (new, "RSD-6212")):
        with pytest.raises(Refused) as e:
            tokens.redeem(place, one.token, request(one))
        assert e.value.code == code


@pytest.mark.parametrize("wrong", ["", "0" * 64, "é" * 64, "x" * 1_000_000])
def test_a_guessed_token_is_worth_nothing(place: OperatorHome, kit: Invitation, wrong: str) -> None:
    with pytest.raises(Refused) as e:
        tokens.redeem(place, wrong, request(kit))
    assert e.value.code == "RSD-6212"
    assert not place.requests.exists()
    assert kit.token not in str(e.value)


def test_the_kept_hash_is_no_token(place: OperatorHome, kit: Invitation) -> None:
    kept = place.read_invited(next(place.invitations.glob("*.json")))
    with pytest.raises(Refused):
        tokens.redeem(place, kept.token_sha256, request(kit))


def test_a_token_expires(place: OperatorHome, kit: Invitation, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = request(kit)
    monkeypatch.setattr(tokens, "now", lambda: now() + timedelta(days=15))
    with pytest.raises(Refused) as e:
        tokens.redeem(place, kit.token, asked)
    assert e.value.code == "RSD-6213"


def test_a_token_does_not_serve_another_invitation(place: OperatorHome, kit: Invitation, tmp_path: Path) -> None:
    ok("consortium", "invite", "leeds", "--jurisdiction", "GB", "--home", place.root, "--out", tmp_path / "leeds.json")
    leeds = open_invitation((tmp_path / "leeds.json").read_bytes())
    with pytest.raises(ResidencyError) as e:
        tokens.redeem(place, leeds.token, request(kit))
    assert e.value.code == "RSD-6009"
    assert not place.requests.exists()


def test_of_two_at_the_same_time_one_wins(place: OperatorHome, kit: Invitation) -> None:
    def attempt(data: bytes) -> str:
        try:
            return tokens.redeem(place, kit.token, data).digest
        except Refused as e:
            return e.code

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(attempt, [request(kit) for _ in range(8)]))
    assert sorted(outcomes).count("RSD-6214") == 7
    winner = next(o for o in outcomes if o != "RSD-6214")
    kept = place.invitation_of((place.requests / "berlin.json").read_bytes(), "x")
    from compliance.trust.enrol import check_request

    assert check_request((place.requests / "berlin.json").read_bytes(), kept).digest == winner


def test_a_crash_after_the_request_is_kept_costs_nothing(
    place: OperatorHome, kit: Invitation, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, real = request(kit), tokens.write_durably

    def dies(path: Path, data: bytes) -> None:
        if path.suffix == ".used":
            raise KeyboardInterrupt
        real(path, data)

    monkeypatch.setattr(tokens, "write_durably", dies)
    with pytest.raises(KeyboardInterrupt):
        tokens.redeem(place, kit.token, asked)
    monkeypatch.undo()
    assert tokens.redeem(place, kit.token, asked).site == "berlin"

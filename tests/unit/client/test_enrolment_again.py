"""Enrolling that is cut off, repeated, repeated with other people, or done anew: what the home holds afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from client import enrolment
from client.home import AgentHome
from compliance.errors import InputError, Refused
from compliance.identity import PublicIdentity, new_signer, parse_envelope, seal
from compliance.tls import make_tls
from compliance.trust.consortium import Consortium
from compliance.trust.enrol import make_invitation
from tests.desk import consortium, day
from tests.federation import consortium as federation
from tests.federation import day as moment

WORLD = consortium()
SIGNATORY, DPO = WORLD.signatories["berlin"].identity, WORLD.dpos["berlin"].identity
DOOR = "127.0.0.1:9092"


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kit")
    config = Consortium(
        schema="residency.consortium/1", name="thyroid", operator={"name": "hub", "jurisdiction": "IE"},
        threshold=1, server=DOOR, governance="127.0.0.1:9093", enrolment="127.0.0.1:9094",
    )  # fmt: skip
    ca = make_tls(root / "tls").ca.read_text()
    file = root / "kit.json"
    file.write_bytes(make_invitation(config, WORLD.operator, "berlin", "DE", ca).encode())
    return file


def enrol(home: Path, kit: Path, signatory: PublicIdentity = SIGNATORY, dpo: PublicIdentity = DPO) -> bytes:
    return enrolment.enrol(home, kit, signatory, dpo, day(30))


@pytest.mark.parametrize("step", range(6))
def test_a_crash_at_any_step_leaves_no_home_and_the_repeat_succeeds(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    home, done = tmp_path / "site", []
    if step % 2:
        home.mkdir()

    def cut(name: str) -> None:
        real = getattr(enrolment, name)

        def call(*args: object, **kwargs: object) -> object:
            done.append(name)
            if len(done) > step:
                raise KeyboardInterrupt
            return real(*args, **kwargs)

        monkeypatch.setattr(enrolment, name, call)

    for name in ("save_signer", "new_node_key", "write_durably"):
        cut(name)
    with pytest.raises(KeyboardInterrupt):
        enrol(home, kit)
    assert len(done) == step + 1
    assert not home.exists() or not list(home.iterdir())
    monkeypatch.undo()
    request = enrol(home, kit)
    assert AgentHome(home).config.site == "berlin"
    assert enrol(home, kit) == request
    assert [p.name for p in tmp_path.iterdir()] == ["site"]


@pytest.mark.parametrize("role", ["signatory", "dpo"])
def test_a_repeat_with_another_person_is_refused_and_says_what_to_do(kit: Path, tmp_path: Path, role: str) -> None:
    home = tmp_path / "site"
    request = enrol(home, kit)
    other = new_signer(role, "berlin", day(-1), day(300)).identity  # type: ignore[arg-type]
    with pytest.raises(InputError) as e:
        enrol(home, kit, **{role: other})
    assert (e.value.code, e.value.found, e.value.limit[:4]) == (
        "RSD-1208", other.keyid[:12], (SIGNATORY if role == "signatory" else DPO).keyid[:4],
    )  # fmt: skip
    assert "new invitation" in e.value.next
    assert enrol(home, kit) == request


def test_a_folder_with_something_else_in_it_is_left_alone(kit: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="RSD-2009"):
        enrol(tmp_path, kit)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


# --- the trust file after people have changed -------------------------------------------------------------------------


def _file(tmp_path: Path, role: str, **changes: object) -> tuple[AgentHome, Path]:
    """A home of site a, and a trust file that names one more `role` key, of an earlier enrolment or not."""
    made = federation()
    home = AgentHome(made.copy_home("a", tmp_path))
    (home.path / "trust.json").unlink()
    value = json.loads(parse_envelope(made.trust.read_bytes(), "trust").payload)
    extra = new_signer(role, "a", moment(-3), moment(300)).identity.as_json()  # type: ignore[arg-type]
    data = seal(
        {**value, "keys": [*value["keys"], {**extra, **changes}]}, *(made.signatories[s] for s in ("a", "b", "c"))
    )
    file = tmp_path / "offered.json"
    file.write_bytes(data.encode() + b"\n")
    return home, file


@pytest.mark.parametrize("role", ["signatory", "dpo"])
def test_the_ended_key_of_an_earlier_enrolment_does_not_stop_the_trust_file(tmp_path: Path, role: str) -> None:
    issued = federation().anchor.trust.issued
    home, file = _file(tmp_path / "revoked", role, revoked_at=issued)
    enrolment.install_trust(home, file)
    home, file = _file(tmp_path / "over", role, not_after=moment(-2))
    enrolment.install_trust(home, file)


@pytest.mark.parametrize("role", ["signatory", "dpo"])
def test_a_key_that_ends_or_begins_later_is_another_person(tmp_path: Path, role: str) -> None:
    for name, changes in (("ends", {"revoked_at": moment(100)}), ("begins", {"not_before": moment(100)})):
        home, file = _file(tmp_path / name, role, **changes)
        with pytest.raises(Refused, match="RSD-1209"):
            enrolment.install_trust(home, file)

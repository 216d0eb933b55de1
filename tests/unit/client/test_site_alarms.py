"""What a site notices of the others' logs, and of its own: an alarm in log, status and doctor, once per cause."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from client import witnessing
from client.commands import agent
from client.doctor import Doctor
from client.doctor_stores import Stores
from compliance.errors import CheckFailed, Refused
from compliance.log import checkpoint, cosign, note
from compliance.log.alarms import alarms_of
from compliance.log.store import LogStore
from compliance.log.witness import WitnessStore
from compliance.messages import CheckpointOffer, CosignedLine, WitnessReply, WitnessRequest, decode
from tests.federation import OPERATOR, consortium, joined_home, main_study, open_home


@pytest.fixture
def homes(tmp_path):
    """Sites a and b, and a twin of b with its real key, each joined."""
    return {name: joined_home(name[0], tmp_path / name) for name in ("a", "b", "b-twin")}


def shown(site, old=0) -> CheckpointOffer:
    size = site.log.size
    proofs = {str(old): tuple(h.hex() for h in site.log.consistency_proof(old, size))} if old else {}
    return CheckpointOffer(origin=site.log.origin, note=site.log.checkpoint(), proofs=proofs)


def asked(site, *offers, lines=()) -> WitnessReply:
    message = WitnessRequest(
        schema="residency.witness/1", study=main_study().digest, roster=None, offers=offers, cosigned=lines
    )
    return decode(WitnessReply, witnessing.witness(site, message).body, "reply")


def note_of(site: Any) -> list[tuple[str, str]]:
    return [(x.code, x.about) for x in alarms_of(site.log)]


def grow(site) -> None:
    site.record_refusal(Refused("RSD-3100", "no"), main_study().digest)


def test_a_fork_that_the_operator_relays_is_an_alarm_once(homes, capsys):
    with open_home(homes["a"]) as a, open_home(homes["b"]) as b, open_home(homes["b-twin"]) as twin:
        grow(b)
        grow(twin)
        assert len(asked(a, shown(b)).cosigned) == 1
        for _ in range(3):
            reply = asked(a, shown(twin))
            assert (reply.cosigned, len(reply.refused)) == ((), 1)
        grow(twin)
        assert asked(a, shown(twin, twin.log.size - 1)).cosigned == ()
        assert note_of(a) == [("RSD-5040", b.log.origin), ("RSD-5011", b.log.origin)]
        assert {e.study for e in a.log.entries(kind="alarm")} == {main_study().digest}
    assert capsys.readouterr().err.count("ALARM RSD-5040 fork") == 1


def test_an_older_checkpoint_or_one_without_a_proof_is_refused_and_no_alarm(homes):
    with open_home(homes["a"]) as a, open_home(homes["b"]) as b:
        old = shown(b)
        grow(b)
        asked(a, shown(b))
        assert len(asked(a, old).refused) == 1
        grow(b)
        grow(b)
        assert len(asked(a, shown(b)).refused) == 1
        assert note_of(a) == []


def test_a_log_under_another_key_is_an_alarm(homes, tmp_path):
    with open_home(homes["a"]) as a, open_home(homes["b"]) as b:
        moved = WitnessStore(tmp_path / "w.db", a.witness.name, a.signer.private)
        a.witness.close()
        a.witness = moved
        other = consortium().operator.private
        text = note.sign(note.parse(shown(b).note).text, b.log.origin, other)
        moved.cosign(text, other.public_key(), 0, (), origin=b.log.origin)
        assert asked(a, shown(b)).cosigned == ()
        assert note_of(a) == [("RSD-5042", b.log.origin)]


def test_a_home_older_than_what_others_saw_is_an_alarm_and_refused(homes):
    with open_home(homes["b"]) as b, open_home(homes["b-twin"]) as restored:
        grow(b)
        for _ in range(2):
            with pytest.raises(Refused) as refused:
                restored.check_not_restored(b.log.checkpoint())
            assert refused.value.code == "RSD-1225"
        assert note_of(restored) == [("RSD-1225", b.log.origin)]


def test_a_line_of_another_log_or_by_a_stranger_is_refused_and_one_with_a_wild_clock_an_alarm(homes):
    trust = consortium().anchor.trust
    with open_home(homes["a"]) as a, open_home(homes["b"]) as b:
        text, name = note.parse(a.log.checkpoint()).text, trust.witness_name("b")
        size = a.log.size

        def line(of: str, at: int, key=b.signer.private, witness=name) -> CosignedLine:
            made = cosign.cosign(of, witness, key, at).line()
            return CosignedLine(origin=a.log.origin, size=size, witness=witness, line=made)

        bad = (
            line(note.parse(b.log.checkpoint()).text, 1_800_000_000),
            line(text, 1_800_000_000, key=a.signer.private),
            line(text, 1_800_000_000, witness="stranger"),
        )
        for one in bad:
            with pytest.raises(CheckFailed):
                witnessing.keep(a, one, "")
        assert note_of(a) == []
        witnessing.keep(a, line(text, 3_000_000_000), "")
        assert (note_of(a), a.log.cosigned_sizes()) == ([("RSD-5108", name)], {name: size})


def test_a_line_on_the_operators_log_travels_with_the_checkpoint_that_its_key_signed(homes, tmp_path):
    made = consortium()
    origin = made.anchor.trust.log_origin(OPERATOR)
    with open_home(homes["a"]) as a, LogStore.open(tmp_path / "hub.db", origin, made.operator.private) as log:
        log.append("cancel", {"run": "run-1", "reason": "x"})
        (line,) = asked(a, CheckpointOffer(origin=origin, note=log.checkpoint(), proofs={})).cosigned
        assert checkpoint.open_signed(line.note, log.public_key, origin).checkpoint.size == line.size == 1


def test_status_and_doctor_show_what_stands(homes, capsys):
    with open_home(homes["b"]) as b, open_home(homes["b-twin"]) as restored:
        grow(b)
        with pytest.raises(Refused):
            restored.check_not_restored(b.log.checkpoint())
    told = json.loads(CliRunner().invoke(agent, ["status", "--home", str(homes["b-twin"]), "--json"]).stdout)
    assert [(x["code"], x["title"]) for x in told["alarms"]] == [("RSD-1225", "gap")]
    text = CliRunner().invoke(agent, ["status", "--home", str(homes["b-twin"])]).stdout
    assert "ALARM RSD-1225 gap: residency/tiny/b" in text
    checks = {c.name: c.state for c in Stores(Doctor(homes["b-twin"], lambda _: pytest.fail("asked"))).books()}
    assert (checks["alarms"], checks["log"]) == ("fail", "ok")
    assert {c.name: c.state for c in Stores(Doctor(homes["b"], lambda _: pytest.fail("asked"))).books()}[
        "alarms"
    ] == "ok"

"""What an outside witness is shown: decided for each and logged first, by the operator and by the log's site."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from compliance.counting import Tally
from compliance.errors import Refused, RunFailed
from compliance.law.decide import Engine, builtin_packs
from compliance.law.model import Party
from compliance.law.pack import load_pack
from compliance.law.regions import load_regions
from compliance.log.store import LogStore
from compliance.log.witness_home import WitnessHome
from compliance.messages import CheckpointOffer, JoinReply, LayoutEntry, PeerDecision
from compliance.release.bodies import read_decision
from compliance.release.verify_decisions import again
from compliance.roster import EntryRef
from compliance.study import Study
from compliance.trust.home import OperatorHome
from compliance.trust.root import Trust
from compliance.validation import load_model
from server.doctor_stores import witnesses
from server.gatekeeper import Gatekeeper
from server.law import operator_engine
from server.outside_witnesses import install
from server.quorum import check_possible
from server.witness_gate import WitnessGate, cleared_by, judged
from tests.federation import HEAD_ONLY, JURISDICTIONS, OPERATOR, day, new_signer, study_json
from tests.witnesses import OPERATOR as HUB
from tests.witnesses import WITNESS, small

DIGEST = "cd" * 32
STUDY = load_model(Study, study_json(HEAD_ONLY), "RSD-2007", "study")
KEY = new_signer("witness", WITNESS, day(-1), day(10)).identity
GERMAN = Party(name=WITNESS, jurisdiction="DE")
ADMIT = "consortium admit --witness FILE --jurisdiction CODE"


def trust(*parties: Party) -> Trust:
    """A trust file that names the witness's key, and says where these are."""
    record = {
        "schema": "residency.trust/1", "consortium": "tiny", "version": 1, "issued": day(-1), "expires": day(9),
        "threshold": 1, "operator": {"name": OPERATOR, "jurisdiction": "IE"}, "keys": [KEY.as_json()],
        "sites": [{"name": n, "jurisdiction": j} for n, j in JURISDICTIONS.items()],
        "witnesses": [p.model_dump(mode="json") for p in parties],
    }  # fmt: skip
    return load_model(Trust, record, "RSD-6001", "trust")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LogStore]:
    key = new_signer("operator", OPERATOR, day(-1), day(10)).private
    with LogStore.open(tmp_path / "log.db", f"residency/tiny/{OPERATOR}", key) as opened:
        yield opened


Make = Callable[..., WitnessGate]


@pytest.fixture
def make(log: LogStore, tmp_path: Path) -> Make:
    """The gate of a process that coordinates the run; site a has cleared the witness, as it is in the trust file."""

    def gate(*parties: Party, engine: Engine | None = None, cleared: tuple[Party, ...] | None = None) -> WitnessGate:
        tally = Tally(tmp_path / "counters.db", log)
        keeper = Gatekeeper(STUDY, DIGEST, log, tally, engine or operator_engine(None))
        held = trust(*parties)
        return WitnessGate(lambda: held, STUDY, keeper, lambda: {"a": parties if cleared is None else cleared, "b": ()})

    return gate


def origin(member: str) -> str:
    return f"residency/tiny/{member}"


def decided(log: LogStore) -> list[Any]:
    return [read_decision(e, "the log").decision for e in log.entries(kind="decision")]


@cache
def only_within_the_eea() -> Engine:
    """The operator's law, with a pack by which checkpoints stay in the EEA."""
    text = (Path(load_pack.__code__.co_filename).parent / "packs" / "eu.yaml").read_text("utf-8")
    before, rule, rest = text.partition("- id: eu.administration")
    changed = load_pack((before + rule + rest.replace("to_region: [ANY]", "to_region: [EEA]", 1)).encode())
    packs = {**builtin_packs(), "eu": changed}
    return Engine(packs, {name: pack.digest for name, pack in packs.items()})


def test_the_decision_on_a_witness_is_in_the_log_once_before_anything_is_shown(log: LogStore, make: Make) -> None:
    party = Party(name=WITNESS, jurisdiction="US", access=("DE",))
    gate = make(party)
    for _ in range(3):  # rounds
        for member in (OPERATOR, "a"):
            gate.check(WITNESS, origin(member))
    make(party).check(WITNESS, origin("a"))  # the process was killed, and goes on
    (found,) = decided(log)
    assert (found.allow, found.rule, found.recipient) == (True, "eu.administration", party)
    told = found.transfer
    assert (told.artifact, told.exporter.name, told.study) == ("log_checkpoint", OPERATOR, DIGEST)
    assert [(leg.recipient.jurisdiction, leg.via) for leg in found.legs] == [("US", "recipient"), ("DE", "access")]
    assert again(found, {p.digest: p for p in builtin_packs().values()}, load_regions().raw) == found
    make(party.model_copy(update={"jurisdiction": "FR"})).check(WITNESS, origin("a"))  # it has moved
    assert [d.recipient.jurisdiction for d in decided(log)] == ["US", "FR"]


def test_a_witness_of_an_older_trust_file_is_nowhere_and_is_denied_with_the_way_out(log: LogStore, make: Make) -> None:
    gate = make()
    for member in (OPERATOR, "a", "a"):
        with pytest.raises(Refused) as denied:
            gate.check(WITNESS, origin(member))
    assert (denied.value.code, ADMIT in denied.value.next) == ("RSD-3100", True)
    assert "no jurisdiction of patients-union" in denied.value.found
    (found,) = decided(log)
    assert (found.allow, found.rule, found.recipient.jurisdiction) == (False, "engine.unknown-jurisdiction", "ZZ")
    assert again(found, {p.digest: p for p in builtin_packs().values()}, load_regions().raw) == found


@pytest.mark.parametrize(
    ("party", "allow"),
    [
        (GERMAN, True),
        (Party(name=WITNESS, jurisdiction="US"), False),
        (Party(name=WITNESS, jurisdiction="DE", access=("FR",)), True),
        (Party(name=WITNESS, jurisdiction="DE", access=("FR", "US")), False),
    ],
    ids=["inside", "outside", "reached-from-inside", "reached-from-outside"],
)
def test_a_pack_decides_by_where_it_is_and_from_where_it_is_reached(
    log: LogStore, make: Make, party: Party, allow: bool
) -> None:
    gate = make(party, engine=only_within_the_eea())
    if allow:
        gate.check(WITNESS, origin(OPERATOR))
    else:
        with pytest.raises(Refused, match=r"RSD-3100 .*eu\.default-deny"):
            gate.check(WITNESS, origin(OPERATOR))
    assert [d.allow for d in decided(log)] == [allow]


def test_what_a_site_denies_or_was_not_asked_about_is_not_passed_on(log: LogStore, make: Make) -> None:
    gate = make(GERMAN)
    gate.check(WITNESS, origin("a"))
    for member in ("b", "c"):  # b denies it, c did not say
        with pytest.raises(Refused, match=f"RSD-5120 .*no ALLOW of {member}"):
            gate.check(WITNESS, origin(member))
    with pytest.raises(Refused, match="RSD-5120"):
        gate.check(WITNESS, "residency/another/log")
    assert len(decided(log)) == 1


@pytest.mark.parametrize(
    "change",
    [{"jurisdiction": "US"}, {"access": ("US",)}, {"covered_person": True}],
    ids=["moved", "reached-from-elsewhere", "covered"],
)
def test_a_site_s_word_is_about_the_witness_where_it_was_then(
    log: LogStore, make: Make, change: dict[str, object]
) -> None:
    moved = GERMAN.model_copy(update=change)
    gate = make(moved, cleared=(GERMAN,))
    gate.check(WITNESS, origin(OPERATOR))
    with pytest.raises(Refused, match="RSD-5120") as withheld:
        gate.check(WITNESS, origin("a"))
    assert ("in DE" in withheld.value.found, "newest trust file" in withheld.value.next) == (True, True)
    make(moved, cleared=(moved,)).check(WITNESS, origin("a"))


def test_a_trust_file_that_is_replaced_in_a_run_is_the_one_that_counts(log: LogStore, make: Make) -> None:
    made, now_held = make(GERMAN), [trust(GERMAN)]
    gate = replace(made, read=lambda: now_held[0])
    gate.check(WITNESS, origin("a"))
    now_held[0] = trust(Party(name=WITNESS, jurisdiction="US"))
    with pytest.raises(Refused, match="RSD-5120"):
        gate.check(WITNESS, origin("a"))
    assert [d.recipient.jurisdiction for d in decided(log)] == ["DE", "US"]
    ended = now_held[0].keys[0].model_copy(update={"revoked_at": day(-0.5)})
    now_held[0] = now_held[0].model_copy(update={"keys": (ended,)})
    with pytest.raises(Refused, match="RSD-5110"):
        gate.check(WITNESS, origin(OPERATOR))


def test_who_stands_in_no_trust_file_is_not_decided_on(log: LogStore, make: Make) -> None:
    with pytest.raises(Refused, match="RSD-5110 stranger"):
        make(GERMAN).check("stranger", origin(OPERATOR))
    assert decided(log) == []


def test_a_study_that_needs_a_denied_witness_is_refused_before_anything_is_trained(make: Make) -> None:
    known, old = make(GERMAN), make()
    check_possible(known.trust, ["a", "c"], 1, known.refused)
    check_possible(old.trust, ["a", "c"], 1, old.refused)  # each has the other
    check_possible(known.trust, ["a"], 1, known.refused)
    for gate, members, told, advice in (
        (old, ["a"], "no country code", ADMIT),
        (known, ["a", "b"], "the checkpoint of b is not passed on", "ask b"),
    ):
        with pytest.raises(RunFailed, match="RSD-5117") as failed:
            check_possible(gate.trust, members, 2, gate.refused)
        assert (told in failed.value.found, advice in failed.value.next) == (True, True), failed.value


def test_what_the_sites_decided_comes_with_their_answers() -> None:
    entry = EntryRef(origin=origin("a"), index=3, leaf="ab" * 32)

    def told(peer: str, artifact: str, allow: bool, place: str = "DE") -> PeerDecision:
        recipient = Party(name=peer, jurisdiction=place)
        return PeerDecision(
            recipient=recipient, artifact=artifact, allow=allow, rule="x.rule", plain="So.", entry=entry
        )

    decisions = (
        told(WITNESS, "log_checkpoint", True),
        told("second-union", "log_checkpoint", False),
        told("third-union", "aggregate", True),
        *(told("fourth-union", "log_checkpoint", allow, place) for allow, place in ((True, "DE"), (False, "US"))),
        *(told("fifth-union", "log_checkpoint", allow) for allow in (False, True)),
    )
    reply = JoinReply(
        schema="residency.joined/1", site="a", layout=(LayoutEntry(name="w", shape=(2,)),), device="cpu",
        decisions=decisions, adoption="", offer=CheckpointOffer(origin=origin("a"), note="", proofs={}),
    )  # fmt: skip
    assert cleared_by({"a": reply, "b": reply.model_copy(update={"decisions": ()})}) == {"a": (GERMAN,), "b": ()}


def test_status_and_doctor_say_who_is_shown_nothing_and_why(tmp_path: Path) -> None:
    made = small(tmp_path)
    home = OperatorHome(made.home(HUB))
    install(home.root, [f"{WITNESS}=w.org:1"], None)
    shutil.copy(made.trust, home.trust_file)
    with made.log(HUB) as own:
        before = own.size
        (one,) = judged(home)
        assert (one.party, one.addresses, one.refusal) == (GERMAN, ("https://w.org:1",), None)
        assert witnesses([one]).as_json()["state"] == "ok"
        made.write_trust(WitnessHome(made.witness).signer(), place="")
        shutil.copy(made.trust, home.trust_file)
        install(home.root, [f"{WITNESS}=w.org:1", "stranger=w.org:2"], None)
        old, stranger = judged(home)
        assert (old.place, old.refusal is not None and ADMIT in old.refusal.next) == ("unknown", True)
        assert (stranger.refusal is not None and stranger.refusal.code) == "RSD-5110"
        check = witnesses([old, stranger])
        assert (check.state, WITNESS in check.found, "stranger" in check.found) == ("fail", True, True)
        assert ADMIT in check.next
        assert own.size == before  # nothing is sent, so nothing is logged

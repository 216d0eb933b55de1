"""The coordinator and its sites in one process, with sites that are broken or dishonest (tests/local_run.py).

All five sites are in the honest run; in the others b, c or both do wrong beside a, and e is refused.
"""

import json
from contextlib import ExitStack

import numpy as np
import pytest

from compliance.canonical import canonical, parse_canonical, sha256_hex
from compliance.clock import now
from compliance.errors import EnvironmentFault, RunFailed
from compliance.identity import seal
from compliance.law.decide import builtin_packs
from compliance.law.law_adoption import adoption_record, draft_law_set
from compliance.law.law_set import LawSet
from compliance.law.regions import load_regions
from compliance.log.store import LogStore
from compliance.validation import load_model
from server import desk
from strategies.wire import Reply
from tests.federation import REFUSED, TRAINING, consortium
from tests.local_run import World, head_only

SITES = ("a", "b", "c", REFUSED)
TRAINED = SITES[:-1]


@pytest.fixture
def world(tmp_path):
    with ExitStack() as stack:
        yield World(tmp_path, head_only(*SITES), SITES).open(stack)


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """A run of all five sites to its end; tests read it."""
    with ExitStack() as stack:
        world = World(tmp_path_factory.mktemp("honest")).open(stack)
        world.run()
        yield world


def _outcomes(world, number):
    return {name: row["outcome"] for name, row in world.rows(number)[0].items()}


CLEAN = {**dict.fromkeys(TRAINED, "contributed"), REFUSED: "refused"}


def test_an_honest_run_finishes_and_its_release_verifies(honest):
    assert honest.result()["outcome"] == "finished"
    clean = {**dict.fromkeys(TRAINING, "contributed"), REFUSED: "refused"}
    assert [_outcomes(honest, n) for n in (1, 2)] == [clean, clean]
    report = honest.verify()
    assert report.error is None
    assert sorted(p.stem for p in (honest.folder.path / "evidence").glob("*.json")) == [*TRAINING, "hub"]


def test_the_operators_own_law_set_is_fixed_when_the_run_is_handed_over(world):
    made = draft_law_set("hub", "IE", builtin_packs(), load_regions(), {}).as_json()
    declared = [{"id": "us-ca", "reason": "No business in California."}]
    law_set = load_model(LawSet, {**made, "not_binding": declared}, "RSD-3030", "law set")
    record = adoption_record(law_set, now(), "", "The operator has no officer.")
    (world.hub / "law.json").write_bytes(seal(record, consortium().operator).encode() + b"\n")
    world.begin()
    (world.hub / "law.json").unlink()  # what is in the home afterwards is for later runs
    world.go_on()
    report = world.verify()
    assert report.error is None
    assert f"the operator hub adopted law set {law_set.digest[:16]}" in "\n".join(report.fields()["proved"])
    assert any("these packs do not bind it" in text for text in report.asserted()["hub"])
    made = consortium()
    with LogStore.open(world.hub / "log.db", made.anchor.trust.log_origin("hub"), made.operator.private) as log:
        kinds = [e.kind for e in log.entries() if e.kind in {"law", "decision"}]
        assert kinds[0] == "law"
        assert {e.body["law_set"] for e in log.entries(kind="decision")} == {law_set.digest}


def _array(reply, change):
    """The reply with another array and the digest of that: a site that trained badly and hides nothing."""
    flat = reply.array.copy()
    change(flat)
    body = {**parse_canonical(reply.body, "reply"), "update_sha256": sha256_hex(flat.tobytes())}
    return Reply(canonical(body), flat)


def test_a_site_that_sends_nan_is_named_and_the_others_go_on(world):
    def tamper(site, kind, reply):
        if (site, kind) == ("b", "round"):
            return _array(reply, lambda flat: flat.__setitem__(2, np.nan))
        return reply

    world.run(tamper)
    rows, signatures = world.rows(1)
    assert _outcomes(world, 1) == {**CLEAN, "b": "failed"}
    assert rows["b"]["reason"]["code"].startswith("RSD-841")
    assert world.site("b").signer.identity.keyid not in signatures  # its log says that it committed
    assert np.isfinite(np.fromfile(world.folder.path / "snapshots" / "round-002.f32", "<f4")).all()
    report = world.verify()
    assert report.error is None, report.error
    assert any("was rejected on arrival (RSD-841" in line for line in report.lines())


@pytest.mark.parametrize("kind", ["join", "round", "witness", "close"])
def test_a_site_that_answers_garbage_does_not_end_the_run_of_the_others(world, kind):
    def tamper(site, asked, reply):
        return Reply(b'{"schema":"residency.joined/1"}', reply.array) if (site, asked) == ("c", kind) else reply

    world.run(tamper)
    assert world.result()["outcome"] == "finished"
    others = {n: o for n, o in _outcomes(world, 2).items() if n != "c"}
    assert others == {n: o for n, o in CLEAN.items() if n != "c"}
    told = world.events("absent") + world.events("unwitnessed") + world.events("no_evidence")
    assert kind == "round" or any(e["site"] == "c" for e in told)
    if kind == "join":
        assert world.verify().error is None


def _changed(reply, **fields):
    return Reply(canonical({**parse_canonical(reply.body, "reply"), **fields}), reply.array)


def test_a_site_that_speaks_for_another_is_not_heard(world):
    """b offers a log that is not its own, cosigns under c's name, and adds a false signature of c to the roster."""
    c = consortium().anchor.trust.witness_name("c")

    def tamper(site, kind, reply):
        if site != "b" or kind not in {"round", "witness"}:
            return reply
        body = parse_canonical(reply.body, "reply")
        offer = {**body["offer"], "origin": consortium().anchor.trust.log_origin("c")}
        if kind == "round":
            return _changed(reply, offer=offer)
        lines = [{**line, "witness": c} for line in body["cosigned"]]
        roster = body["roster"]
        if roster:
            envelope = json.loads(roster)
            for signature in envelope["signatures"]:
                signature["sig"] = "A" * 86 + "=="
            roster = json.dumps(envelope)
        return _changed(reply, offer=offer, cosigned=lines, roster=roster)

    world.run(tamper)
    rows, _ = world.rows(2)
    assert _outcomes(world, 2) == {**CLEAN, "b": "failed"}
    assert rows["b"]["reason"]["code"] == "RSD-8220"
    codes = {e["error"]["code"] for e in world.events("unwitnessed") if e["site"] == "b" and "error" in e}
    assert "RSD-8220" in codes
    _, signatures = world.rows(2)
    keys = {world.site(n).signer.identity.keyid for n in ("a", "c")}
    assert keys | {consortium().operator.identity.keyid} == signatures


def test_a_site_with_another_layout_is_left_out_with_the_reason(world):
    def tamper(site, kind, reply):
        other = [{"name": "head.weight", "shape": [2, 2], "a_width": None}]
        return _changed(reply, layout=other) if (site, kind) == ("c", "join") else reply

    world.run(tamper)
    rows, _ = world.rows(1)
    assert (rows["c"]["outcome"], rows["c"]["reason"]["code"]) == ("failed", "RSD-8201")


def test_below_quorum_after_a_good_round_and_the_next_run_ends_with_the_same_bytes(world):
    """Invariant 9: what was committed is sent again, uncharged, and round 1 gives the identical model."""
    lost = {"a", "b"}

    def second_round_lost(site, kind, reply):
        started = (world.folder.path / "rosters" / "round-001.json").exists()
        if kind == "round" and started and site in lost:
            raise RunFailed("RSD-4500", "a check failed")
        return reply

    with pytest.raises(RunFailed) as failed:
        world.run(second_round_lost)
    assert (failed.value.code, failed.value.found) == ("RSD-8200", "1")
    assert world.result()["outcome"] == "failed"
    first = world.folder.path
    charges = {n: world.site(n).ledger.charges(world.signed.digest) for n in TRAINED}
    world.run()
    assert world.folder.path != first
    assert world.result()["outcome"] == "finished"
    models = [(p / "snapshots" / "round-001.f32").read_bytes() for p in (first, world.folder.path)]
    assert models[0] == models[1]
    for name in TRAINED:  # round 2 was committed before its answers were lost: nothing is charged again
        assert world.site(name).ledger.charges(world.signed.digest) == charges[name]


# --- members that leave, runs that are cancelled or cut off ----------------------------------------------------------


def _suspend(world, site):
    (world.hub / "suspended").mkdir(exist_ok=True)
    (world.hub / "suspended" / f"{site}.json").write_text("{}")


def test_a_site_suspended_between_rounds_is_out_at_the_next_and_sent_nothing(world):
    """Let in again before the end it hands out its evidence, and there is a release."""
    asked = []

    def tamper(site, kind, reply):
        asked.append((site, kind))
        if kind == "witness" and len(world.events("round")) == 1:
            _suspend(world, "b")
        if kind == "witness" and len(world.events("round")) == 2:
            (world.hub / "suspended" / "b.json").unlink(missing_ok=True)
        return reply

    world.run(tamper)
    assert _outcomes(world, 2) == {**CLEAN, "b": "refused"}
    rows, _ = world.rows(2)
    assert rows["b"]["reason"]["code"] == "RSD-6207"
    assert asked.count(("b", "round")) == 1
    assert [e["site"] for e in world.events("removed")] == ["b"]
    assert world.verify().error is None


def test_a_run_cancelled_while_sites_join_frees_what_they_held(world):
    def tamper(site, kind, reply):
        if (site, kind) == ("b", "join"):
            desk.cancel_run(world.hub, world.folder, "wrong study")
        return reply

    world.run(tamper)
    assert (world.result()["outcome"], world.result()["error"]["code"]) == ("cancelled", "RSD-8302")
    for name in ("a", "b"):
        assert world.site(name).ledger.reservation(f"{name}-clinic", world.signed.digest).released
    assert world.site("c").ledger.reservation("c-clinic", world.signed.digest) is None
    assert not list((world.folder.path / "rosters").glob("*"))


def test_a_wish_to_cancel_that_cannot_be_logged_does_not_act(world, monkeypatch):
    def full(*_):
        raise EnvironmentFault("RSD-5030", "no space")

    world.begin()
    monkeypatch.setattr(LogStore, "append", full)
    with pytest.raises(EnvironmentFault):
        desk.cancel_run(world.hub, world.folder, "wrong study")
    assert world.folder.cancel() is None


def test_trouble_of_the_machine_leaves_the_run_to_be_gone_on_with(world):
    def full(site, kind, reply):
        if kind == "round" and world.folder.state().round == 2:
            raise OSError("no space")
        return reply

    with pytest.raises(OSError, match="no space"):
        world.run(full)
    assert world.result() is None
    assert world.folder.state().phase == "sent"
    world.go_on()
    assert world.result()["outcome"] == "finished"
    assert [_outcomes(world, n) for n in (1, 2)] == [CLEAN, CLEAN]
    for name in TRAINED:
        found = world.site(name).ledger.charges(world.signed.digest)
        assert [(c.round, c.attempt) for c in found] == [(1, 1), (2, 1)]
    assert world.verify().error is None


def test_a_run_that_has_ended_is_not_gone_on_with(honest):
    before = (honest.folder.path / "result.json").stat().st_mtime_ns
    honest.go_on(lambda *_: pytest.fail("a site was asked"))
    assert (honest.folder.path / "result.json").stat().st_mtime_ns == before

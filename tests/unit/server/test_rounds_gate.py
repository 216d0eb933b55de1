"""A round at the server: what is rejected, by name, and that a rejected update leaves no trace in the model."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from compliance.canonical import sha256_hex
from compliance.errors import CheckFailed, PeerUnreachable, Refused, RunFailed
from compliance.identity import new_signer, parse_envelope, seal
from compliance.messages import CheckpointOffer, LayoutEntry, RoundReply, encode
from compliance.roster import EntryRef
from compliance.study import Aggregation, Study
from compliance.validation import load_model
from server import coordinator
from server.rounds import Rounds, merge_signatures, server_rule
from server.run_folder import RunFolder
from server.run_state import Cause, new_state
from strategies.fedadam import FedAdam
from strategies.fedavg import FedAvg
from strategies.wire import Reply
from tests.federation import HEAD_ONLY as MODEL
from tests.federation import OPERATOR, TRAINING, consortium, day, study_json

D = 8
LAYOUT = (LayoutEntry(name="head.weight", shape=(2, 3)), LayoutEntry(name="head.bias", shape=(2,)))


def _ref(index):
    return EntryRef(origin="log", index=index, leaf="ab" * 32)


def update(site):
    """The update of a site: different at each, with parts that floating-point sums would round."""
    rng = np.random.default_rng(ord(site))
    return (rng.normal(size=D) * 10.0 ** rng.integers(-6, 6, D)).astype("<f4")


def reply(name, array=None, **changes):
    """The honest reply of a site, or one with other fields."""
    flat = update(name) if array is None else array
    offer = CheckpointOffer(origin=f"log/{name}", note="", proofs={})
    fields = {
        "schema": "residency.contribution/1",
        "site": name,
        "attempt": 1,
        "update_sha256": sha256_hex(flat.tobytes()),
        "offer": offer,
        **{k: _ref(i) for i, k in enumerate(("charge", "commit", "decision", "transfer"))},
    }
    return Reply(encode(RoundReply(**{**fields, **changes})), flat)


class Grid:
    """Answers in a given order."""

    def __init__(self, answers):
        self.answers = answers

    def ask(self, requests, timeout_s, patience_s, stop, names):
        assert timeout_s == 60.0  # the study's own deadline
        assert stop() is None
        assert set(names) == set(requests)  # errors name sites, never node numbers
        self.requests, self.patience = requests, patience_s
        yield from ((node, answer) for node, answer in self.answers if node in requests)


class Run(coordinator.Run):
    """What `Rounds` uses of a run; its folder and its signature are real."""

    def __init__(self, root, answers, signer, members=TRAINING, **changes):
        state = {k: changes.pop(k) for k in ("left_out", "absent") if k in changes}
        self.study = load_model(Study, study_json(MODEL, **changes), "RSD-2007", "study")
        self.digest = "cd" * 32
        self.folder = RunFolder(root)
        root.mkdir(parents=True, exist_ok=True)
        self.folder.write_layout(LAYOUT)
        self.nodes = {s.name: i + 1 for i, s in enumerate(self.study.sites)}
        self.grid = Grid([(self.nodes[site], answer) for site, answer in answers])
        self.signer = signer
        self.desk = SimpleNamespace(show=lambda *_: None)
        self.out = {}
        self.standing = SimpleNamespace(removed=self.out.get)
        self.recorded = []
        self.state = new_state(self.digest)
        self.move("joined", members=members, allowed={m: _ref(1) for m in members}, **state)

    def record(self, kind, *bodies):
        self.recorded += [(kind, body) for body in bodies]


def one_round(run):
    """One round as the coordinator plays it; its roster."""
    rounds = Rounds(run)
    rounds.begin()
    rounds.play()
    rounds.check_quorum()
    return run.folder.roster(run.state.round)[0]


@pytest.fixture(scope="module")
def signer():
    return new_signer("operator", OPERATOR, day(-1), day(10))


def play(root, answers, signer, **changes):
    """One round; (roster, the next global model, run)."""
    run = Run(root, answers, signer, **changes)
    return one_round(run), (root / "snapshots" / "round-001.f32").read_bytes(), run


HONEST = {site: reply(site) for site in TRAINING}


def test_the_order_of_arrival_does_not_change_the_model(tmp_path, signer):
    models = set()
    for i, order in enumerate(itertools.permutations(TRAINING)):
        roster, model, _ = play(tmp_path / str(i), [(s, HONEST[s]) for s in order], signer)
        models.add(model)
        assert roster.result_sha256 == sha256_hex(model)
    assert len(models) == 1


def _bad():
    spoilt = update("b").copy()
    spoilt[3] = np.nan
    infinite = update("b").copy()
    infinite[0] = -np.inf
    huge = np.full(D, 1e30, dtype="<f4")
    return {
        "nan": (reply("b", spoilt), "RSD-841"),
        "infinity": (reply("b", infinite), "RSD-841"),
        "huge": (reply("b", huge), "RSD-8413"),
        "too short": (reply("b", update("b")[:-1]), "RSD-841"),
        "too long": (reply("b", np.zeros(D + 1, dtype="<f4")), "RSD-841"),
        "empty": (reply("b", np.zeros(0, dtype="<f4")), "RSD-841"),
        "matrix": (reply("b", update("b").reshape(2, 4)), "RSD-841"),
        "float64": (reply("b", update("b").astype("<f8")), "RSD-841"),
        "integers": (reply("b", np.arange(D, dtype="<i4")), "RSD-841"),
        "damaged bytes": (reply("b", update_sha256="00" * 32), "RSD-8203"),
        "no array": (Reply(HONEST["b"].body), "RSD-8202"),
        "another name": (reply("b", update("a"), site="a"), "RSD-8202"),
        "no json": (Reply(b"not json", update("b")), "RSD-2"),
        "another body": (Reply(b'{"schema":"residency.contribution/2"}', update("b")), "RSD-1210"),
        "error: refused": (Refused("RSD-3100", "denied", rule="eu.no-basis"), "RSD-3100"),
        "error: failed": (RunFailed("RSD-4500", "a check failed"), "RSD-4500"),
        "error: late": (PeerUnreachable("RSD-6102", "late"), "RSD-6102"),
    }


OUTCOMES = {"error: refused": "refused", "error: late": "late"}


@pytest.mark.parametrize("name", list(_bad()))
def test_a_bad_update_is_rejected_by_name_and_leaves_no_trace(tmp_path, signer, name):
    answer, code = _bad()[name]
    others = [(s, HONEST[s]) for s in ("c", "a", "d")]
    roster, model, _ = play(tmp_path / "with", [others[0], ("b", answer), *others[1:]], signer)
    without, clean, _ = play(tmp_path / "without", others, signer)
    row = roster.row("b")
    assert row.outcome == OUTCOMES.get(name, "failed")
    assert row.reason.code.startswith(code), row.reason
    assert row.update_sha256 is None
    assert model == clean
    assert [r.outcome for r in roster.rows if r.site in "acd"] == ["contributed"] * 3
    assert without.row("b").outcome == "late"


def test_a_second_answer_of_a_site_counts_once(tmp_path, signer):
    answers = [(s, HONEST[s]) for s in TRAINING]
    _, model, _ = play(tmp_path / "once", answers, signer)
    roster, again, _ = play(tmp_path / "twice", [*answers, ("b", reply("b", update("b") * 2))], signer)
    assert again == model or roster.row("b").outcome == "failed"


def test_every_site_of_the_study_has_a_row(tmp_path, signer):
    basis = Refused("RSD-3100", "no basis", rule="eu.no-basis")
    run = Run(
        tmp_path / "run",
        [(s, HONEST[s]) for s in ("a", "b")],
        signer,
        members=("a", "b"),
        left_out={"e": Cause.of(basis, (_ref(9),))},
        absent={"d": Cause.of(Refused("RSD-2207", "not approved"))},
    )
    roster = one_round(run)
    found = {r.site: (r.outcome, r.reason.code if r.reason else "") for r in roster.rows}
    assert found == {
        "a": ("contributed", ""),
        "b": ("contributed", ""),
        "c": ("late", "RSD-6105"),
        "d": ("refused", "RSD-2207"),
        "e": ("refused", "RSD-3100"),
    }
    assert roster.row("e").denied_by == (_ref(9),)
    transfers = [b for kind, b in run.recorded if kind == "transfer"]
    assert [b["recipient"] for b in transfers] == ["a", "b"]
    assert {run.nodes["a"], run.nodes["b"]} == set(run.grid.requests)


def test_below_quorum_the_round_fails_with_each_reason_and_its_roster_stays(tmp_path, signer):
    answers = [("a", HONEST["a"]), ("b", _bad()["nan"][0]), ("c", _bad()["error: refused"][0])]
    with pytest.raises(RunFailed) as failed:
        play(tmp_path / "run", answers, signer)
    assert (failed.value.code, failed.value.exit_code) == ("RSD-8200", 8)
    assert (failed.value.found, failed.value.limit) == ("1", "2")
    for part in ("b: RSD-841", "c: RSD-3100", "d: RSD-6105"):
        assert part in failed.value.message
    assert (tmp_path / "run" / "rosters" / "round-001.json").exists()


def test_the_study_chooses_the_rule_of_the_server(tmp_path, signer):
    assert isinstance(server_rule(Aggregation(rule="fedavg"), D), FedAvg)
    assert isinstance(server_rule(Aggregation(rule="fedadam"), D), FedAdam)
    answers = [(s, HONEST[s]) for s in TRAINING]
    _, plain, _ = play(tmp_path / "avg", answers, signer)
    adam = {"rule": "fedadam", "server_rate_micro": 100_000}
    _, moved, _ = play(tmp_path / "adam", answers, signer, aggregation=adam)
    step = np.frombuffer(moved, dtype="<f4")
    assert moved != plain
    assert np.abs(step).max() <= 0.11  # Adam's first step is at most the rate, whatever the size of the updates


def test_weights_are_the_public_weights_of_the_study(tmp_path, signer):
    ones = [(s, reply(s, np.full(D, i, dtype="<f4"))) for i, s in enumerate(TRAINING)]
    _, model, _ = play(tmp_path / "run", ones, signer)  # weights 1, 2, 3, 4 for values 0, 1, 2, 3
    assert np.frombuffer(model, dtype="<f4").tolist() == [2.0] * D


# --- countersignatures ----------------------------------------------------------------------------------------------


def _merged(signed):
    made = consortium()
    roster = seal({"schema": "residency.roster/1", "round": 1, "at": day(0)}, made.operator)
    out = parse_envelope(merge_signatures(made.anchor, roster.encode(), signed(roster)), "roster")
    return roster, dict(out.signatures)


def _agent(site):
    from client.home import AgentHome

    return AgentHome(consortium().home(site)).signer()


def test_a_site_adds_its_own_signature():
    from compliance.identity import countersign

    roster, merged = _merged(lambda r: {"a": countersign(r, _agent("a")).encode()})
    assert set(merged) == {*dict(roster.signatures), _agent("a").identity.keyid}


def test_a_site_cannot_spoil_or_add_the_signature_of_another():
    from compliance.identity import Envelope, countersign

    made = consortium()
    operator, other = made.operator.identity.keyid, _agent("b").identity.keyid

    def spoilt(roster):
        signed = countersign(roster, _agent("a"))
        first = dict(signed.signatures)
        bad = {**first, operator: bytes(64), other: bytes(64), "ab" * 32: bytes(64)}
        return {"a": Envelope(signed.payload_type, signed.payload, tuple(sorted(bad.items()))).encode()}

    roster, merged = _merged(spoilt)
    assert merged[operator] == dict(roster.signatures)[operator]
    assert set(merged) == {operator, _agent("a").identity.keyid}


def test_a_roster_that_a_site_changed_is_left_aside():
    made = consortium()
    changed = seal({"schema": "residency.roster/1", "round": 2, "at": day(0)}, made.operator, _agent("a")).encode()
    roster, merged = _merged(lambda _: {"a": changed})
    assert merged == dict(roster.signatures)


# --- members that leave, and rounds that are gone on with ------------------------------------------------------------


def test_a_removed_site_is_out_at_the_next_round_with_its_reason(tmp_path, signer):
    run = Run(tmp_path / "run", [(s, HONEST[s]) for s in TRAINING], signer)
    one_round(run)
    run.out["b"] = Refused("RSD-6207", "the operator has suspended b")
    second = one_round(run)
    assert (second.row("b").outcome, second.row("b").reason.code) == ("refused", "RSD-6207")
    assert second.recipients == ("a", "c", "d")
    assert run.nodes["b"] not in run.grid.requests
    assert [b["recipient"] for kind, b in run.recorded if kind == "transfer" and b["round"] == 2] == ["a", "c", "d"]


def test_a_site_that_was_removed_stays_out(tmp_path, signer):
    run = Run(tmp_path / "run", [(s, HONEST[s]) for s in TRAINING], signer)
    run.out["b"] = Refused("RSD-6207", "the operator has suspended b")
    one_round(run)
    run.out.clear()
    assert "b" not in one_round(run).recipients


def test_below_quorum_after_removals_the_run_fails_with_the_reasons(tmp_path, signer):
    run = Run(tmp_path / "run", [(s, HONEST[s]) for s in TRAINING], signer)
    run.out.update({s: Refused("RSD-6207", "suspended") for s in "bcd"})
    with pytest.raises(RunFailed) as failed:
        Rounds(run).begin()
    assert (failed.value.code, failed.value.found, failed.value.limit) == ("RSD-8200", "1", "2")
    assert "b: RSD-6207 suspended" in failed.value.message


ADAM = {"rule": "fedadam", "server_rate_micro": 100_000}


def test_rounds_that_are_gone_on_with_give_the_model_of_rounds_in_one_go(tmp_path, signer):
    answers = [(s, HONEST[s]) for s in TRAINING]
    whole = Run(tmp_path / "whole", answers, signer, aggregation=ADAM)
    rounds = Rounds(whole)
    for _ in range(2):
        rounds.begin()
        rounds.play()
    cut = Run(tmp_path / "cut", answers, signer, aggregation=ADAM)
    for _ in range(2):
        one_round(cut)  # with new `Rounds` each time, as after a restart
    models = [(tmp_path / n / "snapshots" / "round-002.f32").read_bytes() for n in ("whole", "cut")]
    assert models[0] == models[1]


@pytest.mark.parametrize("name", ["snapshots/round-001.f32", "rule/round-001.momentum.f64"])
def test_rounds_do_not_go_on_from_a_damaged_folder(tmp_path, signer, name):
    run = Run(tmp_path / "run", [(s, HONEST[s]) for s in TRAINING], signer, aggregation=ADAM)
    one_round(run)
    file = tmp_path / "run" / name
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(CheckFailed) as failed:
        Rounds(run)
    assert failed.value.code == "RSD-8306"


def test_a_roster_that_is_in_the_folder_stands(tmp_path, signer):
    run = Run(tmp_path / "run", [(s, HONEST[s]) for s in TRAINING], signer)
    rounds = Rounds(run)
    rounds.begin()
    rounds.play()
    before = run.folder.roster(1)[1].digest
    run.move("sent")  # as if the crash had come before the step was written
    run.grid.answers = [("a", HONEST["a"])]
    Rounds(run).play()
    assert run.folder.roster(1)[1].digest == before

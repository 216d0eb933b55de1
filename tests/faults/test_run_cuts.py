"""The coordinator is killed after each of its durable writes, one after the other, and a new process goes on each time.

After all these cuts the run ends with the model of an undisturbed run, with one roster a round in every log, and with
one charge an attempt; its release verifies.
"""

import hashlib
import json
import sqlite3
from contextlib import ExitStack

import numpy as np
import pytest

from compliance.canonical import parse_canonical, sha256_hex
from compliance.log.store import LogStore
from compliance.log.witness import WitnessStore
from server import run_folder
from tests.federation import OPERATOR, SIZE, StandIn, consortium, die, in_child
from tests.local_run import World

SITES = ("a", "b", "e")  # e may not be sent the model
ROUNDS = 2


class Fixed(StandIn):
    """Updates that follow from site, round and attempt: whoever trains once more gives other bytes."""

    def train(self, case, cache, round_, attempt, base):
        super().train(case, cache, round_, attempt, base)
        seed = hashlib.sha256(f"{case.terms.name} {round_} {attempt}".encode()).digest()
        return np.frombuffer(seed[:SIZE], dtype=np.uint8).astype("<f4") / 64, {"noise": True}


def _study():
    value = consortium().study()
    sites = [s for s in value["sites"] if s["name"] in SITES]
    model = {**consortium().model, "adapters": None}
    adam = {"rule": "fedadam", "server_rate_micro": 100_000}
    return consortium().sign_study(
        model=model,
        sites=sites,
        controllers=list(SITES),
        aggregation=adam,
        training={**value["training"], "rounds": ROUNDS},
        evaluation={"noise_multiplier_micro": 4_000_000, "bins": 10},
    )


def _go_on(world):
    with ExitStack() as stack:
        world.open(stack)
        for site in world.sites.values():
            site.workbench = Fixed()
        world.go_on()


def _name(write, *args):
    """What a durable write of the operator is; "" for one of a site."""
    if write == "file":
        path, data = args[0], args[1]
        if path.name == "state.json":
            state = json.loads(data)
            return f"state {state['phase']} {state['round']}"
        if path.parent.name == "rosters":
            return f"{path.name} with {len(json.loads(data)['signatures'])} signatures"
        return f"{path.parent.name}/{path.name}"
    if write == "log":
        store, drafts = args
        own = store.origin.endswith(f"/{OPERATOR}")
        return (
            " ".join(["log", *(f"{d.kind} {d.body.get('round', '')} {d.body.get('peer', '')}" for d in drafts)])
            if own
            else ""
        )
    store, kwargs = args
    return f"cosign {kwargs['origin']}" if store.name.endswith(OPERATOR) else ""


def _rig(done):
    """Die right after the first durable write that is not yet in the file `done`; note it there before."""
    known = set(done.read_text().splitlines()) if done.exists() else set()

    def cut(name):
        if name and name not in known:
            with done.open("a") as f:
                f.write(name + "\n")
            die()

    def after(owner, attribute, name):
        real = getattr(owner, attribute)

        def wrapped(*args, **kwargs):
            out = real(*args, **kwargs)
            cut(name(args, kwargs))
            return out

        setattr(owner, attribute, wrapped)

    after(run_folder, "write_durably", lambda args, _: _name("file", *args))
    after(LogStore, "append_many", lambda args, _: _name("log", *args))
    after(WitnessStore, "cosign", lambda args, kwargs: _name("witness", args[0], kwargs))


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """(an undisturbed run, a run that was cut at every write, what was written)."""
    worlds = []
    for name in ("whole", "cut"):
        world = World(tmp_path_factory.mktemp(name), _study(), SITES)
        world.begin()
        worlds.append(world)
    whole, again = worlds
    _go_on(whole)  # in this process: what it caches, its children have
    done = tmp_path_factory.mktemp("done") / "writes"

    def child():
        _rig(done)
        _go_on(again)

    for _ in range(200):
        ended = in_child(child)
        if ended == 0:
            break
        assert ended == -9
    else:
        raise AssertionError(done.read_text())
    return whole, again, done.read_text().splitlines()


def test_every_step_was_cut(cut):
    _, again, writes = cut
    for number in range(1, ROUNDS + 1):
        for what in (f"state sent {number}", f"state closed {number}", f"state witnessed {number}"):
            assert what in writes
        assert f"round-{number:03d}.json with 1 signatures" in writes
        assert f"round-{number:03d}.json with 3 signatures" in writes
        assert f"log roster {number} " in writes
        assert f"snapshots/round-{number:03d}.f32" in writes
    assert {"state joined 0", "state closing 2", f"{again.folder.run}/result.json"} <= set(writes)
    evaluated = {"state evaluating 2", f"{again.folder.run}/evaluation.json", "log evaluation  "}
    assert evaluated | {f"histograms/{s}.json" for s in "ab"} <= set(writes)
    assert len(writes) >= 35


def test_the_model_is_that_of_an_undisturbed_run(cut):
    whole, again, _ = cut
    names = [f"round-{n:03d}.f32" for n in range(ROUNDS + 1)]
    models = [[(w.folder.path / "snapshots" / n).read_bytes() for n in names] for w in (whole, again)]
    assert models[0] == models[1]
    assert len(set(models[0])) == ROUNDS + 1
    for number in range(1, ROUNDS + 1):
        roster, _ = again.folder.roster(number)
        assert roster.result_sha256 == sha256_hex(models[1][number])


def _entries(home, kind):
    connection = sqlite3.connect(f"file:{home / 'log.db'}?mode=ro", uri=True)
    try:
        rows = [parse_canonical(row[0], "entry") for row in connection.execute("SELECT data FROM entries ORDER BY idx")]
    finally:
        connection.close()
    return [r["body"] for r in rows if r["kind"] == kind]


def test_there_is_one_roster_a_round_in_every_log(cut):
    _, again, _ = cut
    files = [again.folder.roster(n)[1] for n in range(1, ROUNDS + 1)]
    for home in (again.hub, *again.homes[:2]):
        assert [b["digest"] for b in _entries(home, "roster")] == [e.digest for e in files]
        assert len(_entries(home, "close")) == 1
    assert all(len(e.signatures) == 3 for e in files)


def test_nothing_is_charged_trained_or_sent_twice_by_the_operator(cut):
    _, again, _ = cut
    for home in again.homes[:2]:
        assert [(b["round"], b["attempt"]) for b in _entries(home, "charge")] == [(1, 1), (2, 1), (0, 1)]
        assert len(_entries(home, "evaluation")) == 1
        assert len(_entries(home, "reservation")) == len(_entries(home, "join")) == 1
    sent = [(b["round"], b["recipient"]) for b in _entries(again.hub, "transfer")]
    assert sorted(sent) == sorted({(n, s) for n in range(1, ROUNDS + 2) for s in "ab"})


def test_the_release_verifies(cut):
    _, again, _ = cut
    assert again.result()["outcome"] == "finished"
    assert again.verify().error is None

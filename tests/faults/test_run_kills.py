"""kill -9 of the run's process and of the whole server in mid-round, on a real federation; then a cancelled run.

(The agent and the training worker are killed in tests/integration/test_run_federation.py.) Site b is frozen in its
training while the others have sent their updates; what is killed then is the process that held these updates.
"""

from __future__ import annotations

import json
import os
import signal
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import numpy as np
import pytest

from client.home import AgentHome
from server.run_folder import RunFolder
from strategies.fedavg import Accumulator, FedAvg
from tests.federation import OPERATOR, Live, consortium, logged, residency, scratch, serverapps, workers

SITES = ("a", "b", "c")
ROUNDS = 3
KILLED = (OPERATOR, *SITES)


@pytest.fixture(scope="module")
def live():
    federation = Live(consortium())
    try:
        yield federation.start(SITES)
    finally:
        federation.stop()


def _study(name, rounds):
    """Few sites, and so much noise that two studies fit into one budget."""
    value = consortium().study()
    sites = [{**s, "noise_multiplier_micro": 4_000_000} for s in value["sites"] if s["name"] in SITES]
    training = {**value["training"], "rounds": rounds}
    return consortium().sign_study(
        name=name, sites=sites, controllers=list(SITES), training=training, round_deadline_s=240
    )


@contextmanager
def _frozen(live, site):
    """The training of `site` stands still."""
    pids = workers(live.pid(site))
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _wait(live, site, study, kind, number, limit_s=150):
    live.wait(
        lambda: logged(live.made.home(site), kind, study.digest, round=number), limit_s, f"{kind} {number} of {site}"
    )


def _until_others_sent(live, study, number):
    """b is in its training of the round, and the updates of the others have arrived."""
    _wait(live, "b", study, "charge", number, 240)
    (events,) = (live.made.hub / "runs").glob(f"{study.value['name']}-*/events.jsonl")

    def arrived():
        rows = [json.loads(line) for line in events.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return {e["site"] for e in rows if (e["event"], e.get("round")) == ("arrived", number)} >= {"a", "c"}

    live.wait(arrived, 150, f"the updates of round {number}")


@pytest.fixture(scope="module")
def ran(live):
    study = _study("tiny-kills", ROUNDS)
    process = live.begin_run(*study.write(scratch("kills")))
    _wait(live, "b", study, "transfer", 1)
    with _frozen(live, "b"):
        _until_others_sent(live, study, 2)
        (coordinator,) = serverapps(live.made.hub)
        os.kill(coordinator, signal.SIGKILL)
        live.wait(lambda: {coordinator} != set(serverapps(live.made.hub)) != set(), 60, "another coordinator")
        assert not logged(live.made.hub, "roster", study.digest, round=2)
    _wait(live, "b", study, "transfer", 2)
    with _frozen(live, "b"):
        _until_others_sent(live, study, 3)
        assert not logged(live.made.hub, "roster", study.digest, round=3)
        live.kill(OPERATOR)
    # soon: left to itself it goes on asking for six seconds or more
    live.wait(lambda: not serverapps(live.made.hub), 4, "no coordinator without a server")
    live.start_server()
    done = live.end_run(process)
    return SimpleNamespace(
        done=done, study=study, folder=RunFolder(next((live.made.hub / "runs").glob("tiny-kills-*")))
    )


def test_the_run_goes_on_after_both_kills_and_finishes(ran):
    assert ran.done.code == 0, ran.done.err
    assert (ran.done.json["outcome"], ran.done.json["rounds"]) == ("finished", ROUNDS)
    events = [json.loads(line) for line in (ran.folder.path / "events.jsonl").read_text().splitlines()]
    again = [(e["phase"], e["round"]) for e in events if e["event"] == "resumed"]
    assert again == [("sent", 2), ("sent", 3)]


def test_every_site_contributed_to_every_round_by_its_first_attempt(ran, live):
    for number in range(1, ROUNDS + 1):
        roster, envelope = ran.folder.roster(number)
        assert [(r.site, r.outcome, r.attempt) for r in roster.rows] == [(s, "contributed", 1) for s in SITES]
        keys = {k.keyid: k.holder for k in consortium().anchor.trust.keys}
        assert {keys[k] for k, _ in envelope.signatures} == {OPERATOR, *SITES}
        assert logged(live.made.hub, "roster", ran.study.digest, round=number) == 1
    for site in SITES:
        with AgentHome(live.made.home(site)).ledger() as ledger:
            found = [(c.round, c.attempt) for c in ledger.charges(ran.study.digest)]
        assert found == [(n, 1) for n in range(1, ROUNDS + 1)]
        assert logged(live.made.home(site), "charge", ran.study.digest) == ROUNDS


def test_the_model_is_the_fold_of_the_committed_updates(ran, live):
    size = ran.folder.model_size()
    flat = np.zeros(size, dtype="<f4")
    weights = {s["name"]: s["weight"] for s in ran.study.value["sites"]}
    for number in range(1, ROUNDS + 1):
        total = Accumulator(weights, size)
        for site in reversed(SITES):
            folder = AgentHome(live.made.home(site)).study_folder(ran.study.digest) / "rounds" / f"{number:03d}"
            total.add(site, np.fromfile(folder / "update-1.f32", "<f4"))
        flat = FedAvg().apply(flat, total.mean().delta)
        kept = (ran.folder.path / "snapshots" / f"round-{number:03d}.f32").read_bytes()
        assert flat.astype("<f4").tobytes() == kept
    assert np.abs(flat).max() > 0


def test_the_release_verifies(ran, live):
    out = scratch("kills-bundle") / "bundle"
    key = live.made.hub / "keys" / "operator.key"
    built = residency("release", "build", ran.folder.path, "--key", key, "--out", out)
    assert built.code == 0, built.err
    assert residency("verify", out, "--trust", live.made.trust, "--json").code == 0


# --- cancelled ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cancelled(ran, live):
    """A run that is cancelled while b trains in its second round."""
    study = _study("tiny-cancel", 5)
    file, answers = study.write(scratch("cancel"))
    process = live.begin_run(file, answers)
    _wait(live, "b", study, "transfer", 1)
    with _frozen(live, "b"):
        _until_others_sent(live, study, 2)
        (folder,) = (live.made.hub / "runs").glob("tiny-cancel-*")
        second = residency("run", "start", file, "--home", live.made.hub, "--answers", answers, "--json")
        shown = residency("run", "show", folder.name, "--home", live.made.hub, "--json")
        cancel = residency("run", "cancel", folder.name, "--reason", "wrong study", "--home", live.made.hub, "--json")
        live.wait(lambda: RunFolder(folder).roster(2), 60, "the round closed")
    return SimpleNamespace(
        study=study, done=live.end_run(process), folder=RunFolder(folder), second=second, shown=shown, cancel=cancel
    )


def test_a_run_in_progress_is_shown(cancelled):
    record = cancelled.shown.json
    assert (record["outcome"], record["phase"], record["round"]) == ("running", "sent", 2)
    assert {s["name"]: s["outcome"] for s in record["sites"]} == {"a": "contributed", "b": "asked", "c": "contributed"}


def test_a_second_run_of_a_study_is_refused_while_the_first_goes_on(cancelled):
    assert cancelled.second.code == 4
    assert cancelled.second.json["error"]["code"] == "RSD-8300"


def test_a_cancelled_run_ends_once_with_its_reason(cancelled, live):
    assert cancelled.cancel.code == 0, cancelled.cancel.out
    assert cancelled.done.code == 8
    record = cancelled.done.json
    assert (record["outcome"], record["error"]["code"]) == ("cancelled", "RSD-8302")
    assert "wrong study" in record["error"]["message"]
    assert logged(live.made.hub, "cancel", cancelled.study.digest, reason="wrong study") == 1
    again = residency("run", "cancel", cancelled.folder.run, "--reason", "late", "--home", live.made.hub, "--json")
    assert (again.code, again.json["error"]["code"]) == (4, "RSD-8307")


def test_the_round_that_was_cancelled_has_a_row_for_each_site(cancelled):
    roster, _ = cancelled.folder.roster(2)
    found = {r.site: (r.outcome, r.reason.code if r.reason else "") for r in roster.rows}
    assert found == {"a": ("contributed", ""), "b": ("late", "RSD-8303"), "c": ("contributed", "")}


def test_a_cancelled_study_is_closed_at_the_sites_and_holds_nothing(cancelled, live):
    for site in SITES:
        with AgentHome(live.made.home(site)).ledger() as ledger:
            assert ledger.reservation(f"{site}-clinic", cancelled.study.digest).released
        assert logged(live.made.home(site), "close", cancelled.study.digest) == 1
        assert (cancelled.folder.path / "evidence" / f"{site}.json").exists()


def test_watching_a_run_tells_its_events_and_its_end(cancelled, live):
    said = residency("run", "watch", cancelled.folder.run, "--home", live.made.hub)
    events = [json.loads(line)["event"] for line in said.out.splitlines()]
    assert (said.code, events[0], events[-1]) == (8, "started", "ended")
    assert {"joined", "arrived", "round", "cancelled"} <= set(events)
    assert "RSD-8302" in said.err

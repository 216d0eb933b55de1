"""The coordinator and five sites in one process: everything real but the network and the training process.

`LocalGrid` hands each request to the site's session and the reply, or the error as it would travel, back; a test may
change a reply on its way, as a broken or dishonest site would.
"""

import functools
import json
import shutil
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from client import session
from compliance.canonical import canonical, parse_canonical, sha256_hex
from compliance.clock import now
from compliance.errors import ResidencyError, RunFailed
from compliance.identity import parse_envelope
from compliance.release.build import build_bundle
from compliance.release.bundle_folder import read_folder
from compliance.release.verify import verify_bundle
from compliance.study import open_study
from server import coordinator, desk
from strategies.wire import Reply, decode_error, encode_error
from tests.federation import JURISDICTIONS, REFUSED, TRAINING, consortium, open_home


class LocalGrid:
    """Sites by node number; `tamper(site, kind, reply)` may return another reply or raise what the site would."""

    def __init__(self, sites, tamper=None):
        self._sites = sites
        self.tamper = tamper or (lambda _site, _kind, reply: reply)

    def ask(self, requests, timeout_s):
        assert timeout_s > 0
        for node, request in requests.items():
            site = self._sites[node]
            try:
                yield node, self.tamper(site.name, request.kind, session.answer(site, request))
            except ResidencyError as e:
                yield node, decode_error(encode_error(e))


@functools.cache
def head_only():
    """The main study without adapters: what the stand-in for the training process trains."""
    return consortium().sign_study(model={**consortium().model, "adapters": None})


class World:
    """A hub and the sites, as they are before the first run."""

    def __init__(self, root, stack):
        self.hub = Path(
            shutil.copytree(
                consortium().hub,
                root / "hub",
                ignore=shutil.ignore_patterns("runs", "studies", "log*", "witness*", "flower"),
            )
        )
        self.sites = {}
        for number, name in enumerate(JURISDICTIONS):
            home = consortium().copy_home(name, root / "sites")
            self.sites[number + 1] = stack.enter_context(open_home(home))
        self.study, self.answers = head_only().write(root / "study")

    def site(self, name):
        return next(s for s in self.sites.values() if s.name == name)

    def run(self, tamper=None):
        """One run to its end; its folder. Raises what ends it."""
        data = self.study.read_bytes()
        study, digest = open_study(consortium().anchor, data.rstrip(b"\n"), "study")
        self.folder = desk._new_folder(self.hub, study, digest, data, self.answers)
        self.folder.write_json("nodes.json", {s.name: str(n) for n, s in self.sites.items()})
        coordinator.run(LocalGrid(self.sites, tamper), self.hub, digest)
        return self.folder

    def result(self):
        return self.folder.result()

    def events(self, name):
        lines = (self.folder.path / "events.jsonl").read_text().splitlines()
        return [e for e in map(json.loads, lines) if e["event"] == name]

    def rows(self, number):
        data = (self.folder.path / "rosters" / f"round-{number:03d}.json").read_bytes()
        envelope = parse_envelope(data, "roster")
        rows = parse_canonical(envelope.payload, "roster")["rows"]
        return {r["site"]: r for r in rows}, {k for k, _ in envelope.signatures}

    def verify(self):
        files = build_bundle(read_folder(self.folder.path), consortium().operator, consortium().anchor)
        return verify_bundle(files, consortium().anchor, now())


@pytest.fixture
def world(tmp_path):
    with ExitStack() as stack:
        yield World(tmp_path, stack)


def _outcomes(world, number):
    return {name: row["outcome"] for name, row in world.rows(number)[0].items()}


CLEAN = {**dict.fromkeys(TRAINING, "contributed"), REFUSED: "refused"}


def test_an_honest_run_finishes_and_its_release_verifies(world):
    world.run()
    assert world.result()["outcome"] == "finished"
    assert [_outcomes(world, n) for n in (1, 2)] == [CLEAN, CLEAN]
    report = world.verify()
    assert report.error is None
    assert sorted(p.stem for p in (world.folder.path / "evidence").glob("*.json")) == [*TRAINING, "hub"]


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
    keys = {world.site(n).signer.identity.keyid for n in ("a", "c", "d")}
    assert keys | {consortium().operator.identity.keyid} == signatures


def test_a_site_with_another_layout_is_left_out_with_the_reason(world):
    def tamper(site, kind, reply):
        other = [{"name": "head.weight", "shape": [2, 2], "a_width": None}]
        return _changed(reply, layout=other) if (site, kind) == ("d", "join") else reply

    world.run(tamper)
    rows, _ = world.rows(1)
    assert (rows["d"]["outcome"], rows["d"]["reason"]["code"]) == ("failed", "RSD-8201")


def test_below_quorum_after_a_good_round_and_the_next_run_ends_with_the_same_bytes(world):
    """Invariant 9: what was committed is sent again, uncharged, and round 1 gives the identical model."""
    lost = {"a", "b", "c"}

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
    charges = {n: world.site(n).ledger.charges(head_only().digest) for n in TRAINING}
    world.run()
    assert world.folder.path != first
    assert world.result()["outcome"] == "finished"
    models = [(p / "snapshots" / "round-001.f32").read_bytes() for p in (first, world.folder.path)]
    assert models[0] == models[1]
    for name in TRAINING:  # round 2 was committed before its answers were lost: nothing is charged again
        assert world.site(name).ledger.charges(head_only().digest) == charges[name]

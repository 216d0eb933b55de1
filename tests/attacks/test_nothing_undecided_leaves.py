"""Nothing leaves a site or the server without a logged decision: every way out is listed, and a run is watched."""

import json
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from client.site import Site
from client.standing import Standing
from compliance.law.vocabulary import NEVER_ALLOWED
from compliance.release.bodies import read_decision
from tests import egress, local_run
from tests.egress import WAYS, Sent, Way, decisions_of, found, log_size, unaccounted, undecided
from tests.federation import REFUSED, TRAINING
from tests.local_run import LocalGrid, World
from tests.log_drafts import refusal_body


def test_every_way_out_is_listed_with_its_artifacts_and_its_decision():
    new, gone = found() - WAYS.keys(), WAYS.keys() - found()
    assert not new, f"a sender without an entry in tests/egress.py: {sorted(new)}"
    assert not gone, f"an entry in tests/egress.py without its sender: {sorted(gone)}"


def test_what_goes_out_is_decided_where_the_list_says_and_before():
    assert undecided(WAYS) == []


def test_each_entry_says_what_goes_out_and_nothing_raw_does():
    for place, way in WAYS.items():
        assert bool(way.artifacts) == bool(way.decides) != bool(way.why), place
        assert not NEVER_ALLOWED & set(way.artifacts), place


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("import http.client", "import http.client"),
        ("from urllib.request import urlopen", "import urllib.request"),
        ("def f(s, data):\n    s.sendall(data)", "sendall"),
        ("def f(client):\n    return client.status()", "status"),
        ("import importlib\nx = importlib.import_module('requests')", "import requests"),
        ("class A:\n    def f(self, m):\n        g(self._client.PushMessages, m)", "PushMessages"),
        ("def f(x):\n    return Reply(encode(x))", "Reply"),
    ],
    ids=["http", "urlopen", "socket", "governance", "hidden-import", "stub", "reply"],
)
def test_a_new_sender_is_found_whatever_it_uses(tmp_path, monkeypatch, line, what):
    (tmp_path / "client").mkdir()
    (tmp_path / "client" / "new.py").write_text(line)
    monkeypatch.setattr(egress, "ROOT", tmp_path)
    assert what in {name for _, _, name in found()}


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ("def send(site):\n    site.let_out()\n    return Reply()", False),
        ("def send(site):\n    return Reply()", True),
        ("def send(site):\n    reply = Reply()\n    site.let_out()\n    return reply", True),
    ],
    ids=["decided", "undecided", "too-late"],
)
def test_a_sender_that_asks_nobody_or_too_late_is_found(tmp_path, body, wrong):
    (tmp_path / "client").mkdir()
    (tmp_path / "client" / "new.py").write_text(body)
    ways = {("client/new.py", "send", "Reply"): Way(("dp_update",), "client.new:send")}
    assert bool(undecided(ways, tmp_path)) == wrong


# --- a run, watched --------------------------------------------------------------------------------------------------


class Watch:
    """Notes what each site sends, as it sends it, and what the server sends to whom."""

    def __init__(self, world):
        self.world = world
        self.sent = {name: [] for name in world.names}
        self.asked = []  # (site, kind, decisions of the operator's log about the site that stood there then)

    def reply(self, site, kind, reply):
        del kind
        home = self.world.site(site).home.path
        self.sent[site].append(Sent(json.loads(reply.body)["schema"], log_size(home)))
        return reply

    def request(self, site, kind):
        held = [e.body for e in _operator_log(self.world) if e.kind == "decision" and e.body["peer"] == site]
        self.asked.append((site, kind, {b["transfer"]["artifact"]: b["allow"] for b in held}))

    def wrong(self):
        return [
            f"{name}: {text}"
            for name, sent in self.sent.items()
            for text in unaccounted(sent, decisions_of(self.world.site(name).home.path))
        ]


def _operator_log(world):
    return [SimpleNamespace(kind=e["kind"], body=e["body"]) for _, e in egress._entries(world.hub)]


@pytest.fixture
def watched(tmp_path, monkeypatch):
    with ExitStack() as stack:
        world = World(tmp_path).open(stack)
        watch = Watch(world)

        class Grid(LocalGrid):
            def ask(self, requests, timeout_s, patience_s, stop, names):
                for node, request in requests.items():
                    watch.request(names[node], request.kind)
                yield from super().ask(requests, timeout_s, patience_s, stop, names)

        monkeypatch.setattr(local_run, "LocalGrid", Grid)
        yield watch


NEEDED = {
    "join": {"answer", "roster", "log_checkpoint"},
    "round": {"aggregate"},
    "witness": {"roster", "log_checkpoint"},
    "close": {"roster"},
}


def test_in_a_run_everything_that_leaves_was_decided_and_logged_before(watched):
    watched.world.run(watched.reply)
    assert watched.world.result()["outcome"] == "finished"
    kinds = {one.what.partition("/")[0] for one in watched.sent["a"]}
    assert kinds == {f"residency.{k}" for k in ("joined", "contribution", "witnessed", "closed")}
    assert watched.wrong() == []
    assert {kind for _, kind, _ in watched.asked} == set(NEEDED)
    for site, kind, allowed in watched.asked:
        assert all(allowed.get(artifact) for artifact in NEEDED[kind]), (site, kind, allowed)
    told = {e.body["peer"]: e.body["allow"] for e in _operator_log(watched.world) if _released(e)}
    assert told == {**dict.fromkeys(TRAINING, True), REFUSED: False}
    report = watched.world.verify()
    assert report.error is None, report.error
    assert any("the release is cleared for a, b, c, d; not for e" in line for line in report.lines())


def _released(entry):
    return entry.kind == "decision" and entry.body["transfer"]["artifact"] == "released_model"


def test_a_site_that_sends_without_deciding_is_seen(watched, monkeypatch):
    entry = {}

    def join_only(site, case, artifact, recipient, onward=(), round_=0):
        entry["last"] = site.record("refusal", refusal_body(round_), case.digest)
        return entry["last"]

    monkeypatch.setattr(Site, "let_out", join_only)
    watched.world.run(watched.reply)
    wrong = watched.wrong()
    assert {text.partition(":")[0] for text in wrong} == set(TRAINING)
    assert all("contribution/1: no ALLOW for dp_update" in text for text in wrong)
    assert entry


def test_a_reason_leaves_only_by_the_sites_own_rules(tmp_path, monkeypatch):
    with ExitStack() as stack:
        site = World(tmp_path, names=("a",)).open(stack).site("a")
        standing, told = Standing(site), local_run.ResidencyError("RSD-1206", "secret words", found="more")
        assert standing.tellable(told) is told
        last = site.log.entries(kind="decision")[-1]
        assert (last.body["transfer"]["artifact"], last.body["allow"]) == ("conformance_report", True)
        denial = read_decision(last, "the last").decision.model_copy(update={"allow": False, "effect": "deny"})
        monkeypatch.setattr("client.standing.decided", lambda *_: denial)
        withheld = standing.tellable(told)
        assert withheld.code == "RSD-3061"
        assert "secret" not in json.dumps(withheld.as_json())
        (site.home.path / "policy.json").unlink()
        monkeypatch.undo()
        assert standing.tellable(told).code == "RSD-3061"  # who has no rules tells nothing

"""The keeper over a run's real folder and a real trust file; the server's door and the clock are stand-ins."""

from types import SimpleNamespace

import pytest

from compliance.errors import PeerUnreachable
from server import desk, keeper
from server.control import NodeInfo
from server.members import Members
from tests.federation import JURISDICTIONS
from tests.local_run import World


class Door:
    """What the keeper asks of the server: nodes, and runs by number."""

    def __init__(self, keys):
        self.online, self._keys = dict.fromkeys(JURISDICTIONS, True), keys
        self.started, self.stopped, self.ended, self.away = [], [], set(), False

    def nodes(self):
        if self.away:
            raise PeerUnreachable("RSD-6104", "the private door does not answer")
        return tuple(NodeInfo(100 + i, self._keys[s], self.online[s]) for i, s in enumerate(self._keys))

    def start_run(self, bundle, settings):
        self.started.append((bundle, settings))
        return len(self.started)

    def run_status(self, number):
        return SimpleNamespace(status="finished" if number in self.ended else "running")

    def stop_run(self, number):
        self.stopped.append(number)

    def __exit__(self, *_):
        pass


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A run that was handed over, its keeper, and hands on the door and on the clock."""
    world = World(tmp_path)
    folder = world.begin()
    (folder.path / "nodes.json").unlink()
    door = Door(Members(world.hub).node_keys())
    clock = SimpleNamespace(at=1000.0)
    monkeypatch.setattr(keeper, "open_control", lambda _: door)

    def look(after=0.0):
        clock.at += after
        kept.keeper.look()

    kept = SimpleNamespace(
        world=world,
        folder=folder,
        door=door,
        look=look,
        keeper=keeper.RunKeeper(world.hub, lambda: clock.at),
        clock=clock,
        home=world.hub,
    )
    kept.keeper = keeper.RunKeeper(world.hub, lambda: clock.at)
    return kept


def _events(kept):
    return [e["event"] for e in desk._read_from(kept.folder.path / "events.jsonl", 0)[0]]


def test_a_run_is_started_with_its_bundle_and_study_and_the_numbers_of_its_nodes(kept):
    kept.look()
    assert kept.door.started == [(b"bundle", {"study": kept.world.signed.digest})]
    assert kept.folder.nodes() == {s: 100 + i for i, s in enumerate(Members(kept.home).node_keys())}
    kept.look(1)
    assert len(kept.door.started) == 1
    assert _events(kept) == ["started"]


def test_sites_that_are_away_are_waited_for_a_minute(kept):
    kept.door.online["b"] = False
    kept.look()
    kept.look(59)
    assert not kept.door.started
    kept.look(2)
    assert len(kept.door.started) == 1


def test_a_removed_site_is_not_waited_for(kept):
    kept.door.online["b"] = False
    (kept.home / "suspended").mkdir(exist_ok=True)
    (kept.home / "suspended" / "b.json").write_text("{}")
    kept.look()
    assert len(kept.door.started) == 1


def test_a_process_that_died_is_started_again_and_one_that_works_is_let_alone(kept):
    kept.look()
    with kept.folder.coordinating():
        for _ in range(5):
            kept.look(100)
    assert len(kept.door.started) == 1
    kept.look()  # its lock is free: it died
    kept.look(2)
    assert (len(kept.door.started), kept.door.stopped) == (2, [1])
    assert _events(kept) == ["started", "resumed"]


@pytest.mark.parametrize("how", ["its process ended at once", "it was never taken up"])
def test_a_start_that_comes_to_nothing_is_repeated(kept, how):
    kept.look()
    if how == "its process ended at once":
        kept.door.ended.add(1)
        kept.look(1)
    else:
        kept.look(61)
    kept.look(2)
    assert len(kept.door.started) == 2


def _die(kept, times):
    for _ in range(times):
        kept.look(100)
        kept.door.ended.add(len(kept.door.started))


def test_a_run_that_does_not_get_on_ends_as_failed_and_says_why(kept, capfd):
    _die(kept, 12)
    assert len(kept.door.started) == keeper.STARTS_AT_MOST
    result = kept.folder.result()
    assert (result["outcome"], result["error"]["code"], result["error"]["exit"]) == ("failed", "RSD-8301", "8")
    assert _events(kept)[-2:] == ["failed", "ended"]
    assert "RSD-8301" in capfd.readouterr().err


def test_a_run_that_gets_on_may_be_started_more_often(kept):
    _die(kept, 8)
    kept.folder.write_state(kept.folder.state().moved("sent", round=1))
    _die(kept, 8)
    assert kept.folder.result() is None
    assert len(kept.door.started) > keeper.STARTS_AT_MOST


def test_starts_are_counted_across_restarts_of_the_server(kept):
    for _ in range(12):
        kept.keeper = keeper.RunKeeper(kept.home, lambda: kept.clock.at)
        kept.look(100)
        kept.look(100)
    assert len(kept.door.started) == keeper.STARTS_AT_MOST


def test_a_server_that_does_not_answer_is_no_reason_to_end_a_run(kept, capfd):
    kept.door.away = True
    for _ in range(20):
        kept.look(100)
    kept.door.away = False
    kept.look(100)
    assert len(kept.door.started) == 1
    assert capfd.readouterr().err.count("is waiting") == 1


def test_ended_and_half_written_runs_are_let_alone_and_a_cancelled_one_is_ended_by_its_process(kept):
    (kept.home / "runs" / "half").mkdir()
    desk.cancel_run(kept.home, kept.folder, "wrong study")
    kept.look()
    assert len(kept.door.started) == 1
    kept.folder.finish("cancelled", 0, None)
    kept.look(1000)
    assert len(kept.door.started) == 1

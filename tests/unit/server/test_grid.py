"""FastGrid over a grid of Flower's public interface that answers from memory, with messages as Flower makes them."""

from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from compliance.canonical import canonical
from compliance.clock import now
from compliance.error_reply import encode_error
from compliance.errors import PeerUnreachable, Refused, RunFailed
from server.grid import FastGrid
from strategies.wire import Reply, Request, decode_request, encode_reply

BODY = canonical({"round": 1})


@pytest.fixture(autouse=True)
def task(monkeypatch):
    """The identity that Flower gives to a ServerApp's process."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


class MemoryGrid:
    """Answers a node's message by `answers[node]`: a function of the message, or None for never."""

    def __init__(self, answers, delay=0):
        self.answers, self.delay, self.pending, self.looks, self.sent = answers, delay, {}, 0, []
        self.activated = {}

    def get_node_ids(self):
        return list(self.answers)

    def get_nodes(self):
        return [SimpleNamespace(node_id=n, last_activated_at=at) for n, at in self.activated.items()]

    def push_messages(self, messages):
        (message,) = messages
        message.metadata.__dict__["_message_id"] = f"m{len(self.sent)}"
        self.sent.append(message)
        answer = self.answers[message.metadata.dst_node_id]
        if answer == "lost":
            return [None]
        if answer is not None:
            self.pending[message.metadata.message_id] = answer(message)
        return [message.metadata.message_id]

    def pull_messages(self, ids):
        self.looks += 1
        ready = [i for i in ids if i in self.pending and self.looks > self.delay]
        return [self.pending.pop(i) for i in ready[:1]]


def replying(array):
    return lambda m: Message(encode_reply(Reply(BODY, array)), reply_to=m)


def failing(code, reason):
    return lambda m: Message(Error(code, reason), reply_to=m)


def ask(answers, timeout=5.0, delay=0):
    grid = MemoryGrid(answers, delay)
    found = list(FastGrid(grid).ask({n: Request("round", BODY, np.ones(3, np.float32)) for n in answers}, timeout))
    assert sorted(n for n, _ in found) == sorted(answers)
    return dict(found), grid


def test_answers_come_as_they_arrive():
    found, grid = ask({1: replying(np.full(3, 2, np.float32)), 2: replying(None)}, delay=2)
    assert found[1].array.tolist() == [2, 2, 2]
    assert found[2].array is None
    assert {m.metadata.message_type for m in grid.sent} == {"train"}
    assert decode_request(grid.sent[0].content).array.tolist() == [1, 1, 1]


def test_the_first_answer_is_there_before_the_last():
    grid = MemoryGrid({1: replying(None), 2: None})
    answers = FastGrid(grid).ask({n: Request("hello", BODY) for n in (1, 2)}, 30)
    assert next(answers)[0] == 1
    answers.close()


def test_a_refusal_comes_back_in_its_class():
    refusal = Refused("RSD-1103", "code in the bundle", rule="r", found="f", limit="l", next="n")
    found, _ = ask({1: failing(7, encode_error(refusal))})
    assert isinstance(found[1], Refused)
    assert found[1].as_json() == refusal.as_json()


def test_lost_late_foreign_and_malformed_answers_are_told_apart():
    malformed = RecordDict({"metrics": ConfigRecord({"loss": 1.0})})
    found, _ = ask(
        {
            1: failing(5, "Node Unavailable"),
            2: None,
            3: failing(2, "Traceback ..."),
            4: lambda m: Message(malformed, reply_to=m),
            5: "lost",
        },
        timeout=0.3,
    )
    assert {n: e.code for n, e in found.items()} == {
        1: "RSD-6105",
        2: "RSD-6102",
        3: "RSD-8101",
        4: "RSD-8104",
        5: "RSD-6105",
    }
    assert isinstance(found[2], PeerUnreachable)
    assert isinstance(found[4], RunFailed)


def test_errors_name_the_site_and_never_the_nodes_number():
    number = 8_412_345_678_901
    for answer in (failing(5, "Node Unavailable"), None, "lost", lambda m: Message(RecordDict(), reply_to=m)):
        asked = {number: Request("round", BODY), number + 1: Request("round", BODY)}
        grid = FastGrid(MemoryGrid(dict.fromkeys(asked, answer)))
        found = dict(grid.ask(asked, 0.2, names={number: "berlin"}))
        assert "berlin" in found[number].message
        assert not [e for e in found.values() if "84123456789" in str(e.as_json())]


def test_an_answer_to_another_question_is_dropped():
    def stray(message):
        reply = Message(encode_reply(Reply(BODY)), reply_to=message)
        reply.metadata.__dict__["_reply_to_message_id"] = "another"
        return reply

    found, _ = ask({1: stray}, timeout=0.3)
    assert found[1].code == "RSD-6102"


def test_nodes_are_listed_in_order():
    assert FastGrid(MemoryGrid({3: None, 1: None})).node_ids() == (1, 3)


# --- nodes that go away and come back --------------------------------------------------------------------------------


class ReturningGrid(MemoryGrid):
    """A node that is lost at first and answers when it is asked again; `back` is when it connected again."""

    def __init__(self, first, back=""):
        super().__init__({1: first})
        self.first, self.back = first, back

    def push_messages(self, messages):
        ids = super().push_messages(messages)
        self.answers[1] = replying(None)
        self.activated = {1: self.back or (now() + timedelta(seconds=1)).isoformat()}
        return ids


def _asked(grid, patience, timeout=8.0, stop=lambda: None):
    return list(FastGrid(grid).ask({1: Request("round", BODY, np.ones(3, np.float32))}, timeout, patience, stop))


@pytest.mark.parametrize("first", [failing(5, "Node Unavailable"), "lost", None])
def test_a_node_that_comes_back_is_asked_again(first):
    """Lost while it worked, not there when asked, or back with nothing of what it was sent."""
    grid = ReturningGrid(first)
    ((node, answer),) = _asked(grid, {1: 8.0})
    assert (node, type(answer), len(grid.sent)) == (1, Reply, 2)


def test_without_patience_a_lost_node_is_lost_at_once():
    ((_, answer),) = _asked(ReturningGrid(failing(5, "Node Unavailable")), {})
    assert answer.code == "RSD-6105"


def test_a_node_that_stays_away_is_lost_when_patience_ends():
    grid = ReturningGrid(failing(5, "Node Unavailable"))
    grid.push_messages = lambda messages: MemoryGrid.push_messages(grid, messages)  # it never connects again
    ((_, answer),) = _asked(grid, {1: 1.5})
    assert (answer.code, len(grid.sent)) == ("RSD-6105", 1)


def test_a_node_that_stayed_connected_is_not_asked_twice():
    grid = ReturningGrid(None, back=(now() - timedelta(seconds=60)).isoformat())
    ((_, answer),) = _asked(grid, {1: 8.0}, timeout=2.5)
    assert (answer.code, len(grid.sent)) == ("RSD-6102", 1)


def test_stop_answers_for_all_who_have_not():
    over = PeerUnreachable("RSD-8303", "the run was cancelled")
    ((_, answer),) = _asked(MemoryGrid({1: None}), {}, stop=lambda: over)
    assert answer is over

"""Asks sites and yields their answers as they arrive, so that a sum can be taken as a stream.

Flower's own send_and_receive looks every three seconds and returns when the slowest site has answered. It also takes a
node that went away for lost; here the request is sent again when the node is back, as long as the caller has patience.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from flwr.app import Message
from flwr.serverapp import Grid

from compliance.clock import now
from compliance.error_reply import decode_error
from compliance.errors import PeerUnreachable, ResidencyError, RunFailed
from strategies.wire import Reply, Request, decode_reply, encode_request, message_type

_POLLS_S: Final = (*[0.05] * 4, *[0.1] * 10, 0.25)  # then the last one: each look costs the server some milliseconds
_GRACE_S: Final = 60.0  # a site's clock may differ; Flower counts a message's life on both
_NODE_UNAVAILABLE: Final = frozenset({3, 4, 5})  # Flower's codes: message, reply or node is gone
_NODES_S: Final = 1.0  # how often it is asked which nodes are there
LOST: Final = "RSD-6105"

Answer = Reply | ResidencyError


@dataclass
class _Asking:
    """One question to several nodes: what is on its way, and who is waited for to come back."""

    requests: Mapping[int, Request]
    end: float
    patience: Mapping[int, float]
    names: Mapping[int, str]
    waiting: dict[str, int] = field(default_factory=dict)  # message -> node; a node may have been sent two
    sent: dict[int, datetime] = field(default_factory=dict)
    lost: dict[int, ResidencyError] = field(default_factory=dict)
    looked: float = field(default_factory=time.monotonic)

    def settle(self, node: int) -> None:
        """The node needs no answer any more."""
        self.waiting = {m: n for m, n in self.waiting.items() if n != node}
        self.lost.pop(node, None)

    def name(self, node: int) -> str:
        """What errors call the node: they end in rosters, which every site reads, and a node's number is not theirs."""
        return self.names.get(node, "a node without a name")

    def open(self) -> set[int]:
        """Nodes without an answer."""
        return {*self.waiting.values(), *self.lost}


class FastGrid:
    """Flower's grid, asked often and read as a stream."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def node_ids(self) -> tuple[int, ...]:
        """The numbers of the nodes that are connected now, ascending."""
        return tuple(sorted(self._grid.get_node_ids()))

    def ask(
        self,
        requests: Mapping[int, Request],
        timeout_s: float,
        patience_s: Mapping[int, float] | None = None,
        stop: Callable[[], ResidencyError | None] = lambda: None,
        names: Mapping[int, str] | None = None,
    ) -> Iterator[tuple[int, Answer]]:
        """Send each node its request; yield (node, answer) once per node, in the order of arrival.

        A refusal or failure at the site comes as the error that the site raised (its class, code and texts); a lost
        node as PeerUnreachable RSD-6105; a malformed answer as RunFailed RSD-8104; a node that has not answered after
        `timeout_s` as PeerUnreachable RSD-6102. Nothing is raised for a site's fault, and a late answer is dropped.
        A node with patience is asked again, whenever it is back, for so many seconds from the start (at most
        `timeout_s`): its site may see a request twice, and answers the second as the first. Once `stop` returns an
        error, that is the answer of all who have not answered. Each request's array is encoded only while it is sent.
        Errors name a node as `names` does, never by its number.
        """
        begun = time.monotonic()
        until = {node: begun + min(s, timeout_s) for node, s in (patience_s or {}).items()}
        asking = _Asking(requests, begun + timeout_s, until, names or {})
        for node in requests:
            yield from self._send(asking, node, timeout_s)
        yield from self._collect(asking, timeout_s, stop)

    def _send(self, asking: _Asking, node: int, timeout_s: float) -> Iterator[tuple[int, Answer]]:
        """Send; what cannot be sent now waits for the node, or is its answer."""
        request = asking.requests[node]
        message = Message(encode_request(request), node, message_type(request.kind), ttl=timeout_s + _GRACE_S)
        asking.sent[node] = now()
        ids = list(self._grid.push_messages([message]))
        if ids and ids[0]:
            asking.lost.pop(node, None)
            asking.waiting[ids[0]] = node
        else:
            yield from _gone(asking, node, _lost(asking.name(node), "the server could not hand the message over"))

    def _collect(
        self, asking: _Asking, timeout_s: float, stop: Callable[[], ResidencyError | None]
    ) -> Iterator[tuple[int, Answer]]:
        looks = 0
        while asking.open():
            arrived = list(self._grid.pull_messages(list(asking.waiting))) if asking.waiting else []
            for message in arrived:
                yield from _arrived(asking, message)
            yield from self._again(asking, timeout_s)
            over = stop()
            if over is not None or time.monotonic() >= asking.end:
                break
            looks = 0 if arrived else looks + 1
            if asking.open() and not arrived:
                time.sleep(_POLLS_S[min(looks, len(_POLLS_S)) - 1])
        else:
            return
        for node in sorted(asking.open()):
            yield node, over or asking.lost.get(node) or _late(asking.name(node), timeout_s)

    def _again(self, asking: _Asking, timeout_s: float) -> Iterator[tuple[int, Answer]]:
        """Now and then: ask again who was lost and is back, or left and came back with the question in its hands."""
        at = time.monotonic()
        if at - asking.looked < _NODES_S or not any(n in asking.patience for n in asking.open()):
            return
        asking.looked = at
        activated = self._activated()
        for node in sorted(asking.open()):
            if node in asking.lost and at >= asking.patience[node]:
                error = asking.lost[node]
                asking.settle(node)
                yield node, error
            elif at < asking.patience.get(node, 0.0) and _came(asking, node, activated):
                yield from self._send(asking, node, timeout_s)

    def _activated(self) -> dict[int, datetime]:
        """Connected nodes, and when each connected: a process that came back holds nothing of what it was sent."""
        grid: Any = self._grid  # Flower's HTTP grid tells more than the public class says
        return {n.node_id: datetime.fromisoformat(n.last_activated_at) for n in grid.get_nodes() if n.last_activated_at}


def _came(asking: _Asking, node: int, activated: Mapping[int, datetime]) -> bool:
    return node in activated and (node in asking.lost or activated[node] > asking.sent[node])


def _arrived(asking: _Asking, message: Message) -> Iterator[tuple[int, Answer]]:
    node = asking.waiting.pop(message.metadata.reply_to_message_id, None)
    if node is None:
        return
    answer = read_answer(asking.name(node), message)
    if message.has_error() and message.error.code in _NODE_UNAVAILABLE and isinstance(answer, ResidencyError):
        if node in asking.waiting.values():
            return  # it was asked again meanwhile, and that question stands
        yield from _gone(asking, node, answer)
    else:
        asking.settle(node)
        yield node, answer


def _gone(asking: _Asking, node: int, error: ResidencyError) -> Iterator[tuple[int, Answer]]:
    """A lost node is waited for as long as there is patience with it; otherwise the loss is its answer."""
    if time.monotonic() < asking.patience.get(node, 0.0):
        asking.lost[node] = error
    else:
        asking.settle(node)
        yield node, error


def read_answer(name: str, message: Message) -> Answer:
    """The reply in `message`, or the error that it stands for."""
    if message.has_error():
        if message.error.code in _NODE_UNAVAILABLE:
            return _lost(name, str(message.error.reason)[:200])
        return decode_error(str(message.error.reason))
    try:
        return decode_reply(message.content)
    except ResidencyError as e:
        return RunFailed(
            "RSD-8104",
            f"{name} sent a malformed answer",
            rule=e.rule,
            found=f"{e.code} {e.message}: {e.found}"[:500],
            limit=e.limit,
            next="run the same Residency version on both sides",
        )


def _lost(name: str, found: str) -> PeerUnreachable:
    return PeerUnreachable(
        LOST,
        f"{name} is not reachable",
        rule="a site keeps a connection to the server",
        found=found,
        limit="a connected node",
        next="ask the site engineer whether the agent runs",
    )


def _late(name: str, timeout_s: float) -> PeerUnreachable:
    return PeerUnreachable(
        "RSD-6102",
        f"{name} did not answer in time",
        rule="a round waits for a stated time",
        found="no answer",
        limit=f"{timeout_s:g} s",
        next="ask the site engineer for the agent's log; a longer time stands in the study",
    )

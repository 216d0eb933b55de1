"""Asks sites and yields their answers as they arrive, so that a sum can be taken as a stream.

Flower's own send_and_receive looks every three seconds and returns when the slowest site has answered.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Final

from flwr.app import Message
from flwr.serverapp import Grid

from compliance.errors import PeerUnreachable, ResidencyError, RunFailed
from strategies.wire import Reply, Request, decode_error, decode_reply, encode_request, message_type

_POLLS_S: Final = (*[0.05] * 4, *[0.1] * 10, 0.25)  # then the last one: each look costs the server some milliseconds
_GRACE_S: Final = 60.0  # a site's clock may differ; Flower counts a message's life on both
_NODE_UNAVAILABLE: Final = frozenset({3, 4, 5})  # Flower's codes: message, reply or node is gone


class FastGrid:
    """Flower's grid, asked often and read as a stream."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def node_ids(self) -> tuple[int, ...]:
        """The numbers of the nodes that are connected now, ascending."""
        return tuple(sorted(self._grid.get_node_ids()))

    def ask(self, requests: Mapping[int, Request], timeout_s: float) -> Iterator[tuple[int, Reply | ResidencyError]]:
        """Send each node its request; yield (node, answer) once per node, in the order of arrival.

        A refusal or failure at the site comes as the error that the site raised (its class, code and texts); a lost
        node as PeerUnreachable RSD-6105; a malformed answer as RunFailed RSD-8104; a node that has not answered after
        `timeout_s` as PeerUnreachable RSD-6102. Nothing is raised for a site's fault, and a late answer is dropped.
        Each request's array is encoded only while it is being sent.
        """
        end = time.monotonic() + timeout_s
        waiting: dict[str, int] = {}
        for node_id, request in requests.items():
            message_id = self._send(node_id, request, timeout_s)
            if message_id is None:
                yield node_id, _lost(node_id, "the server could not hand the message over")
            else:
                waiting[message_id] = node_id
        yield from self._collect(waiting, end, timeout_s)

    def _send(self, node_id: int, request: Request, timeout_s: float) -> str | None:
        message = Message(encode_request(request), node_id, message_type(request.kind), ttl=timeout_s + _GRACE_S)
        ids = list(self._grid.push_messages([message]))
        return ids[0] if ids and ids[0] else None

    def _collect(
        self, waiting: dict[str, int], end: float, timeout_s: float
    ) -> Iterator[tuple[int, Reply | ResidencyError]]:
        looks = 0
        while waiting:
            arrived = list(self._grid.pull_messages(list(waiting)))
            for message in arrived:
                node_id = waiting.pop(message.metadata.reply_to_message_id, None)
                if node_id is not None:
                    yield node_id, read_answer(node_id, message)
            if time.monotonic() >= end:
                break
            looks = 0 if arrived else looks + 1
            if waiting and not arrived:
                time.sleep(_POLLS_S[min(looks, len(_POLLS_S)) - 1])
        for node_id in waiting.values():
            yield node_id, _late(node_id, timeout_s)


def read_answer(node_id: int, message: Message) -> Reply | ResidencyError:
    """The reply in `message`, or the error that it stands for."""
    if message.has_error():
        if message.error.code in _NODE_UNAVAILABLE:
            return _lost(node_id, str(message.error.reason)[:200])
        return decode_error(str(message.error.reason))
    try:
        return decode_reply(message.content)
    except ResidencyError as e:
        return RunFailed(
            "RSD-8104",
            f"node {node_id} sent a malformed answer",
            rule=e.rule,
            found=f"{e.code} {e.message}: {e.found}"[:500],
            limit=e.limit,
            next="run the same Residency version on both sides",
        )


def _lost(node_id: int, found: str) -> PeerUnreachable:
    return PeerUnreachable(
        "RSD-6105",
        f"node {node_id} is not reachable",
        rule="a site keeps a connection to the server",
        found=found,
        limit="a connected node",
        next="ask the site engineer whether the agent runs",
    )


def _late(node_id: int, timeout_s: float) -> PeerUnreachable:
    return PeerUnreachable(
        "RSD-6102",
        f"node {node_id} did not answer in time",
        rule="a round waits for a stated time",
        found="no answer",
        limit=f"{timeout_s:g} s",
        next="ask the site engineer for the agent's log; a longer time stands in the study",
    )

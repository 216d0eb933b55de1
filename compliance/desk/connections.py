"""Connections at the desk's door: how long one may ask for nothing, and how many come from one address."""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from collections.abc import Callable
from typing import Final

from uvicorn.protocols.http.auto import AutoHTTPProtocol

HEAD_S: Final = 10.0  # a connection that has not sent the whole head of a request after this time is closed
MOST_OF_ONE: Final = 16  # connections of one address; a browser opens six


class Shares:
    """How many connections each address holds. This machine's own are not counted. For one event loop."""

    def __init__(self, most: int = MOST_OF_ONE) -> None:
        self._most = most
        self._held: Counter[str] = Counter()

    def enter(self, address: str) -> Callable[[], None] | None:
        """Take a place for `address`, or None if it has `most`. What it returns gives the place back; call it once."""
        who = _network(address)
        if self._held[who] >= self._most:
            return None
        self._held[who] += who != ""

        def leave() -> None:
            self._held[who] -= who != ""
            self._held += Counter()  # forgets addresses without a connection

        return leave


def _network(address: str) -> str:
    """Who is behind an address: of IPv6 its /64, which one machine has whole; "" for this machine."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is None:
            return "" if found.is_loopback else str(ipaddress.ip_network((found, 64), strict=False))
        found = found.ipv4_mapped
    return "" if found.is_loopback else str(found)


class DoorProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's HTTP protocol, which waits for a request's head without end, with an end. `door` makes it whole."""

    shares: Shares
    head_s: float
    _leave: Callable[[], None] | None = None
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Called once, over TLS when the handshake is done."""
        super().connection_made(transport)
        peer = transport.get_extra_info("peername") or ("::",)  # one that has already gone has none
        self._leave = self.shares.enter(peer[0])
        if self._leave is None:
            transport.abort()  # to close in good form would wait for the peer
        else:
            self._wait()

    def data_received(self, data: bytes) -> None:
        """Called for each piece that arrives: a piece of a head buys no time."""
        super().data_received(data)
        waiting = self.cycle is None or self.cycle.response_complete
        if self._patience is not None and not waiting:
            self._patience.cancel()
            self._patience = None
        elif self._patience is None and waiting:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called once."""
        if self._patience is not None:
            self._patience.cancel()
        if self._leave is not None:
            self._leave()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._patience = self.loop.call_later(self.head_s, self.transport.abort)


def door(head_s: float = HEAD_S, most_of_one: int = MOST_OF_ONE) -> type[DoorProtocol]:
    """The protocol for one server: its connections are counted together."""
    return type("DoorProtocol", (DoorProtocol,), {"shares": Shares(most_of_one), "head_s": head_s})

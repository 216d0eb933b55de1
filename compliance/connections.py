"""Connections at a door: who holds how many, and how long one may ask for nothing.

uvicorn is an extra: this module is for those who serve with it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from uvicorn.protocols.http.auto import AutoHTTPProtocol

K = TypeVar("K", bound=Hashable)
Leave = Callable[[], None]


class Shares(Generic[K]):
    """How many connections each holder has. For one event loop, not for threads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: Counter[K] = Counter()

    def enter(self, who: K) -> Leave | None:
        """Take a place for `who`, or None if it has `most`. The function that it returns gives the place back, once."""
        if self._held[who] >= self._most:
            return None
        self._held[who] += 1
        place = [who]

        def leave() -> None:
            while place:
                self._held[place.pop()] -= 1
                self._held += Counter()  # forgets holders without a connection

        return leave


class BoundedProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's HTTP protocol, which waits for a request's head without end, with an end: `head_s`, per request."""

    head_s: float
    _leave: Leave | None = None
    _patience: asyncio.TimerHandle | None = None

    def arrives(self, transport: asyncio.Transport) -> Leave | None:
        """Take in a new connection; what to call when it ends. None: it is cut."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Called once, over TLS when the handshake is done."""
        super().connection_made(transport)
        self._leave = self.arrives(transport)
        if self._leave is None:
            transport.abort()  # to close in good form would wait for the peer
        else:
            self._wait()

    def data_received(self, data: bytes) -> None:
        """Called for each piece that arrives: a piece of a head buys no time; a request that is served is not timed."""
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

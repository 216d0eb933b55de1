"""Connections at the server's doors: who holds how many, and how long one may ask for nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from uvicorn.protocols.http.auto import AutoHTTPProtocol

MAX_CONNECTIONS: Final = 512  # at one door
MOST_OF_ONE: Final = 16  # connections of one certified key; an agent holds up to five
HANDSHAKE_S: Final = 5.0  # until TLS is done, and until it is over
HEAD_S: Final = 30.0  # a connection that has not sent the whole head of a request after this time is closed
PEER: Final = "residency.peer"  # where the peer's certificate (DER) stands in the scope's state


class Shares:
    """How many connections each key holds. For one event loop, not for threads."""

    def __init__(self, most: int = MOST_OF_ONE) -> None:
        self._most = most
        self._held: Counter[bytes] = Counter()

    def enter(self, key: bytes) -> Callable[[], None] | None:
        """Take a place for `key`, or None if it has `most`. The function that it returns gives the place back, once."""
        if self._held[key] >= self._most:
            return None
        self._held[key] += 1
        place = [key]

        def leave() -> None:
            while place:
                self._held[place.pop()] -= 1
                self._held += Counter()  # forgets keys without a connection

        return leave


class PeerProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's HTTP protocol; puts the peer's certificate into the scope, and closes what asks for nothing.

    The application that uvicorn was given is a Door: its `arrives` may cut the connection.
    """

    app_state: dict[str, Any]
    _leave: Callable[[], None] | None = None
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Called once the TLS handshake is done."""
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        peer = tls.getpeercert(binary_form=True) if tls else None
        self.app_state = {**self.app_state, PEER: peer}
        self._leave = self.config.app.arrives(peer or b"")
        if self._leave is None:
            transport.abort()  # to close in good form would wait for the peer
        else:
            self._patience = self.loop.call_later(HEAD_S, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Called for each piece that arrives: while a request is served, the door looks after its time."""
        super().data_received(data)
        waiting = self.cycle is None or self.cycle.response_complete
        if self._patience is not None and not waiting:
            self._patience.cancel()
            self._patience = None
        elif self._patience is None and waiting:
            self._patience = self.loop.call_later(HEAD_S, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called once."""
        if self._patience is not None:
            self._patience.cancel()
        if self._leave is not None:
            self._leave()
        super().connection_lost(exc)

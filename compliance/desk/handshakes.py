"""TLS handshakes at the desk's door: how many may be going on at a time."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

MOST_HANDSHAKES: Final = 64  # that are not over; of more, the oldest is closed at once
_LOG: Final = logging.getLogger("residency.desk")


class Handshakes:
    """The connections at one door whose TLS handshake is not over.

    Where there are too many the oldest is closed, not the newest refused: a reader's handshake is over in a moment, and
    whoever holds places for long keeps nobody out.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, socket.socket] = {}
        self._said = False

    def listen(self, door: socket.socket) -> socket.socket:
        """The listening socket once more; what it accepts is counted here."""
        return _Listening(self, door)

    def tell(self, make: Callable[[], Any]) -> Callable[[], Any]:
        """A maker of protocols that tell here when a handshake is over."""

        def made() -> Any:
            protocol = make()
            protocol.shaken = self.over
            return protocol

        return made

    def began(self, accepted: socket.socket) -> None:
        """A connection was accepted."""
        if len(self._waiting) >= MOST_HANDSHAKES:
            self._close_oldest()
        self._waiting[accepted.fileno()] = accepted

    def over(self, number: int) -> None:
        """The handshake on this descriptor is done, or the connection is closed."""
        self._waiting.pop(number, None)

    def _close_oldest(self) -> None:
        oldest = self._waiting.pop(next(iter(self._waiting)))
        with suppress(OSError):  # it had ended by itself
            oldest.shutdown(socket.SHUT_RDWR)  # the loop, which owns it, finds its end
        if not self._said:
            self._said = True
            _LOG.error("more than %d TLS handshakes at a time: the oldest are closed", MOST_HANDSHAKES)


class _Listening(socket.socket):
    def __init__(self, handshakes: Handshakes, door: socket.socket) -> None:
        super().__init__(door.family, door.type, door.proto, fileno=os.dup(door.fileno()))
        self._handshakes = handshakes

    def accept(self) -> tuple[socket.socket, Any]:
        plain, address = super().accept()
        accepted = _Accepted(self._handshakes, plain)
        self._handshakes.began(accepted)
        return accepted, address


class _Accepted(socket.socket):
    def __init__(self, handshakes: Handshakes, plain: socket.socket) -> None:
        super().__init__(plain.family, plain.type, plain.proto, fileno=plain.detach())
        self._handshakes = handshakes

    def close(self) -> None:
        self._handshakes.over(self.fileno())
        super().close()

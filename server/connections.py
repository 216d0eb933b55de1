"""Connections at the server's doors: what they show of themselves, and their bounds."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from compliance.connections import BoundedProtocol, Leave

MAX_CONNECTIONS: Final = 512  # at one door
MOST_OF_ONE: Final = 16  # connections of one certified key; an agent holds up to five
HANDSHAKE_S: Final = 5.0  # until TLS is done, and until it is over
HEAD_S: Final = 30.0  # a connection that has not sent the whole head of a request after this time is closed
PEER: Final = "residency.peer"  # where the peer's certificate (DER) stands in the scope's state


class PeerProtocol(BoundedProtocol):
    """Puts the peer's certificate into the scope; the application is a Door, whose `arrives` may cut the connection."""

    app_state: dict[str, Any]
    head_s = HEAD_S

    def arrives(self, transport: asyncio.Transport) -> Leave | None:
        """The TLS handshake is done."""
        tls = transport.get_extra_info("ssl_object")
        peer = tls.getpeercert(binary_form=True) if tls else None
        self.app_state = {**self.app_state, PEER: peer}
        leave: Leave | None = self.config.app.arrives(peer or b"")
        return leave

"""Connections at the desk's door: how many come from one address."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable
from typing import Final

from compliance import connections
from compliance.connections import BoundedProtocol, Leave

HEAD_S: Final = 10.0  # a connection that has not sent the whole head of a request after this time is closed
MOST_OF_ONE: Final = 16  # connections of one address; a browser opens six


class Shares(connections.Shares[str]):
    """How many connections each address holds. This machine's own are not counted. For one event loop."""

    def __init__(self, most: int = MOST_OF_ONE) -> None:
        super().__init__(most)

    def enter(self, who: str) -> Leave | None:
        """Take a place for the address `who`, or None if its network has `most`."""
        network = _network(who)
        return super().enter(network) if network else _nothing


def _network(address: str) -> str:
    """Who is behind an address: of IPv6 its /64, which one machine has whole; "" for this machine."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is None:
            return "" if found.is_loopback else str(ipaddress.ip_network((found, 64), strict=False))
        found = found.ipv4_mapped
    return "" if found.is_loopback else str(found)


def _nothing() -> None:
    """Nothing to do."""


class DoorProtocol(BoundedProtocol):
    """What the desk's connections speak. `door` makes it whole."""

    shares: Shares
    shaken: Callable[[int], None] | None = None

    def arrives(self, transport: asyncio.Transport) -> Leave | None:
        """A place for the address, if it has one left."""
        if self.shaken is not None:
            self.shaken(transport.get_extra_info("socket").fileno())
        peer = transport.get_extra_info("peername") or ("::",)  # one that has already gone has none
        return self.shares.enter(peer[0])


def door(head_s: float = HEAD_S, most_of_one: int = MOST_OF_ONE) -> type[DoorProtocol]:
    """The protocol for one server: its connections are counted together."""
    return type("DoorProtocol", (DoorProtocol,), {"shares": Shares(most_of_one), "head_s": head_s})

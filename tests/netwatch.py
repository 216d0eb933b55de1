"""Runs a command in a network namespace of its own and tells every packet that tried to leave the machine.

`python tests/netwatch.py REPORT COMMAND...` needs root and `unshare -n` (see `possible`). The namespace has the
loopback and one more interface with a default route that leads nowhere: what is sent to any other address, a DNS
question included, is seen on it whole, none is lost between two looks. The sockets of the namespace are looked at as
well: each must listen on, and be connected to, the loopback alone.
"""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

ETHERTYPE_ALL = 3
IPV4, IPV6, ARP = 0x0800, 0x86DD, 0x0806
CONTROL = ("198.51.100.7", 9)  # RFC 5737: documentation only
_LOOK_S = 0.25


def possible() -> bool:
    """Whether this machine lets a test make a network namespace with a second interface."""
    if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("unshare") is None:
        return False
    setup = "ip link set lo up && ip link add w0 type veth peer name w1"
    return subprocess.run(["unshare", "-n", "sh", "-c", setup], capture_output=True, check=False).returncode == 0


def make_interfaces() -> None:
    """The loopback, and an interface with the default route to a neighbour that does not exist."""
    for words in (
        "link set lo up",
        "link add w0 type veth peer name w1",
        "link set w1 up",
        "addr add 192.0.2.1/24 dev w0",
        "link set w0 up",
        "neigh add 192.0.2.2 lladdr 02:00:00:00:00:01 dev w0",
        "route add default via 192.0.2.2",
    ):
        subprocess.run(["ip", *words.split()], check=True)
    for name in ("w0", "w1"):
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")


class Watch:
    """Counts packets by destination, and sockets by address, until it is stopped."""

    def __init__(self) -> None:
        self.packets: dict[str, int] = {}
        self.sockets: set[str] = set()
        self.looks = 0
        self._stop = threading.Event()
        self._raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE_ALL))
        self._raw.bind(("w0", 0))
        self._raw.settimeout(0.2)
        self._threads = [threading.Thread(target=t) for t in (self._listen, self._look)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Look a last time and end."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._raw.close()

    def _listen(self) -> None:
        while True:
            try:
                frame = self._raw.recv(65536)
            except TimeoutError:
                if self._stop.is_set():
                    return
                continue
            if to := destination(frame):
                self.packets[to] = self.packets.get(to, 0) + 1

    def _look(self) -> None:
        while not self._stop.is_set():
            self.sockets.update(a for a in addresses() if not is_loopback(a))
            self.looks += 1
            time.sleep(_LOOK_S)


def destination(frame: bytes) -> str:
    """Where a frame wants to go; empty for what the kernel says by itself (ARP and the like)."""
    kind = int.from_bytes(frame[12:14], "big")
    if kind == IPV4:
        return str(ipaddress.ip_address(frame[30:34]))
    return str(ipaddress.ip_address(frame[38:54])) if kind == IPV6 else ""


def addresses() -> Iterator[str]:
    """Local and remote addresses of all TCP and UDP sockets of this namespace."""
    for name in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/self/net/{name}").read_text().splitlines()[1:]:
            local, remote = line.split()[1:3]
            yield from (decode(local), decode(remote))


@lru_cache(maxsize=1 << 14)
def decode(text: str) -> str:
    """An address of /proc/net as text; empty for a remote end that is not there."""
    host, port = text.split(":")
    raw = bytes.fromhex(host)
    words = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
    unset = not any(words) and int(port, 16) == 0
    return "" if unset else str(ipaddress.ip_address(words))


@lru_cache(maxsize=1 << 10)
def is_loopback(address: str) -> bool:
    """Whether it is no address, or one of this machine itself, also as IPv4 inside IPv6 (RFC 4291, 2.5.5.2)."""
    if not address:
        return True
    ip = ipaddress.ip_address(address)
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback


def main(report: Path, command: list[str]) -> int:
    """Run `command` under watch; its exit status. `report` gets what was seen, after a packet of our own proves it."""
    make_interfaces()
    watch = Watch()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.sendto(b"control", CONTROL)
    try:
        status = subprocess.run(command, check=False).returncode
    finally:
        watch.stop()
        control = watch.packets.pop(CONTROL[0], 0)
        seen = {"control": control, "packets": watch.packets, "sockets": sorted(watch.sockets), "looks": watch.looks}
        report.write_text(json.dumps(seen))
    return status


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))

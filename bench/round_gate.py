"""Holds both deployments of `residency bench round` at one point of their round, so that their rounds can alternate.

Each party (Flower's ServerApp on one side, the sites' training stand-ins on the other) comes to the gate once a round
and waits there. All parties of a side go on together, and the time until they are all back is one whole round,
wherever in the round the gate stands.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final

GATE: Final = "RESIDENCY_BENCH_GATE"  # only processes of the bench read it
_LOOK_S: Final = 0.5
_LINE: Final = 65_536


class Gate:
    """The bench's end. Not thread-safe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen(16)
        self._listening.settimeout(_LOOK_S)
        self._waiting: dict[str, socket.socket] = {}

    def close(self) -> None:
        """Let go of everyone who waits: they end."""
        for waiting in self._waiting.values():
            waiting.close()
        self._listening.close()

    def arrived(self, parties: Collection[str], check: Callable[[], None]) -> tuple[float, dict[str, Any]]:
        """Wait until all `parties` are here; the moment of the last arrival (monotonic s) and what each party said.

        `check` is called about twice a second and raises when there is nothing left to wait for.
        """
        said: dict[str, Any] = {}
        last = 0.0
        while not set(parties) <= set(said):
            try:
                connection, _ = self._listening.accept()
            except TimeoutError:
                check()
                continue
            last = time.monotonic()
            line = json.loads(connection.recv(_LINE))
            said[line["who"]] = line
            self._waiting[line["who"]] = connection
        return last, said

    def open(self, parties: Collection[str], **told: Any) -> float:
        """Let the waiting `parties` go on with `told`; the moment of it (monotonic s)."""
        at = time.monotonic()
        for party in parties:
            with self._waiting.pop(party) as connection:
                connection.sendall(json.dumps(told).encode())
        return at


def wait_at_gate(who: str, **said: Any) -> dict[str, Any] | None:
    """A party's end: wait to be let through; what it is told, or None when the bench has ended."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ[GATE])
        connection.sendall(json.dumps({"who": who, **said}).encode())
        line = connection.recv(_LINE)
    return dict(json.loads(line)) if line else None

"""How the node waits for an absent server, and how it leaves with a message at hand."""

from __future__ import annotations

import math
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from client import fleet, node
from client.home import new_node_key
from client.node import NodeConfig, NodeState, run_node
from compliance.errors import PeerUnreachable
from compliance.pki import issue_site_certificate, make_csr
from compliance.tls import make_tls


@pytest.fixture
def config(tmp_path: Path) -> NodeConfig:
    """A node whose server is not there: the port is taken and nobody listens."""
    files = make_tls(tmp_path / "tls")
    new_node_key(tmp_path / "node.key")
    key: Any = load_pem_private_key((tmp_path / "node.key").read_bytes(), None)
    (tmp_path / "site.crt").write_bytes(
        issue_site_certificate(tmp_path / "tls", make_csr(key, "a", "tiny"), "a", "tiny", 30)
    )
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    return NodeConfig(
        f"127.0.0.1:{port}", files.ca, tmp_path / "site.crt", tmp_path / "node.key", tmp_path, frozenset,
        lambda error: error, poll_fast_s=0.01, poll_active_s=0.01, poll_idle_s=0.01, leave_within_s=0.3,
    )  # fmt: skip


def test_hundreds_of_failed_connections_leave_nothing_behind(config: NodeConfig, monkeypatch: Any) -> None:
    monkeypatch.setattr(fleet, "_RETRY_WAITS_S", (0.0, 0.0))
    monkeypatch.setattr(node, "_BACKOFF_S", (0.0,))
    stop, counts = threading.Event(), []

    def report(state: NodeState) -> None:
        if state.state == "away":
            assert isinstance(state.error, PeerUnreachable)
            counts.append((threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))))
            if len(counts) == 120:
                stop.set()

    run_node(config, None, stop, report)  # type: ignore[arg-type]
    early, late = counts[20], counts[-1]
    assert late[0] <= early[0] + 1
    assert late[1] <= early[1] + 4


class OneMessage:
    """In the place of the fleet connection: one message, then none."""

    node_id = 1
    left = False

    def __init__(self, *_: object) -> None:
        self.given = False

    def __enter__(self) -> OneMessage:
        return self

    def __exit__(self, *_: object) -> None:
        OneMessage.left = True

    def receive(self) -> tuple[None, None] | None:
        given, self.given = self.given, True
        return None if given else (None, None)


@pytest.mark.parametrize("takes_s", [0.1, 3600.0])
def test_a_message_at_hand_is_finished_or_abandoned_in_bounded_time(
    config: NodeConfig, monkeypatch: Any, takes_s: float
) -> None:
    """A short one is finished; a long one is ended by `abandon`, and still answered. Then the node deactivates."""
    stop, ended, told = threading.Event(), threading.Event(), []

    def answer(*_: object) -> None:
        stop.set()  # SIGTERM comes while the message is worked on
        told.append("abandoned" if ended.wait(takes_s) else "finished")

    monkeypatch.setattr(node, "Fleet", OneMessage)
    monkeypatch.setattr(node, "answer_message", answer)
    OneMessage.left = False
    states: list[str] = []
    began = time.monotonic()
    live = NodeConfig(**{**vars(config), "abandon": ended.set})
    run_node(live, None, stop, lambda s: states.append(s.state))  # type: ignore[arg-type]
    assert time.monotonic() - began < 5
    assert told == ["finished" if takes_s < 1 else "abandoned"]
    assert states == ["online", "answered", "left"]
    assert OneMessage.left
    assert ended.is_set() == (takes_s > 1)


def test_the_node_asks_fast_after_an_answer_then_slower_and_slower(config: NodeConfig) -> None:
    own = NodeConfig(**{f: v for f, v in vars(config).items() if not f.startswith("poll_")})
    pauses = [node.pause_s(own, quiet) for quiet in (0.0, 1.99, 2.0, 59.9, 60.0, math.inf)]
    assert pauses == [0.06, 0.06, 0.5, 0.5, 1.0, 1.0]

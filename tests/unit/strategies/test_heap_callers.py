"""Who has the heap kept, and when it is given back: the real commands at their start, agent and server at rest."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from client import node
from client.node import NodeConfig, pause_s
from compliance.errors import EnvironmentFault
from server import launcher
from strategies import heap

ROOT = Path(__file__).parents[3]
_OBSERVED = """
import os, sys
from strategies import heap
heap.keep = lambda: print("kept with", len(os.listdir("/proc/self/task")), "thread")
import residency
residency.main()
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
@pytest.mark.parametrize("group", ["agent", "server"])
def test_start_keeps_the_heap_while_there_is_one_thread(group: str, tmp_path: Path) -> None:
    words = [sys.executable, "-c", _OBSERVED, group, "start", "--home", str(tmp_path / "absent")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    assert done.stdout == "kept with 1 thread\n"
    assert "RSD-" in done.stderr  # there is no such home, which is seen after


def test_an_agent_settles_and_gives_its_memory_back_once_after_each_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "_REST_S", 0.05)
    monkeypatch.setattr(node, "answer_message", lambda *_: happened.append("answer"))
    monkeypatch.setattr(heap, "give_back", lambda: happened.append("back"))
    happened: list[str] = []
    stop, began = threading.Event(), time.monotonic()

    def receive() -> tuple[None, None] | None:
        """Nothing for longer than a rest, a message, nothing, and so on: three times."""
        assert time.monotonic() - began < 20
        if time.monotonic() < quiet_until[0]:
            return None
        quiet_until[0] = time.monotonic() + 0.25
        if happened.count("answer") < 2:
            return (None, None)
        stop.set()
        return None

    def at_rest() -> None:
        happened.append("rest")
        raise EnvironmentFault("RSD-2419", "the cache cannot be removed", next="look at the disk")

    told: list[str] = []
    quiet_until = [began + 0.25]
    config = NodeConfig("", Path(), Path(), Path(), Path(), frozenset, lambda e: e, poll_fast_s=0.005, at_rest=at_rest)
    assert pause_s(config, 0.0) == 0.005
    fleet: Any = SimpleNamespace(receive=receive, node_id=1)
    node._serve(
        config, Any, fleet, stop, threading.Event(), lambda state: told.append(getattr(state.error, "code", ""))
    )  # type: ignore[arg-type]
    assert happened == ["answer", "rest", "back"] * 2
    assert told == ["", "RSD-2419"] * 2


def test_a_server_gives_its_memory_back_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "_REST_S", 0.05)
    monkeypatch.setattr(launcher, "_WATCH_S", 0.005)
    given: list[float] = []
    parts: Any = SimpleNamespace(
        child=SimpleNamespace(keep_running=lambda: False),
        calls=SimpleNamespace(trouble=None),
        tls=SimpleNamespace(refresh=lambda: False),
        members=SimpleNamespace(node_keys=dict),
    )

    async def watch() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()

        def give_back() -> None:
            given.append(time.monotonic())
            if len(given) == 2:
                loop.call_soon_threadsafe(stop.set)

        monkeypatch.setattr(heap, "give_back", give_back)
        async with asyncio.timeout(20):
            await launcher._watch(parts, frozenset(), stop, [])

    began = time.monotonic()
    asyncio.run(watch())
    assert given[0] - began >= 0.05
    assert given[1] - given[0] >= 0.05

"""The server, the agents and a run: started, watched and stopped as separate processes."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from demo.cast import SITES, Folders
from demo.crew import Crew, Outcome, Service

RUN_LIMIT_S: Final = 1800.0
POLL_S: Final = 0.2


@dataclass(frozen=True)
class Federation:
    """Everything that stays up between the runs."""

    server: Service
    agents: tuple[Service, ...]

    def wait_ready(self) -> None:
        """Returns when every one has said that it is ready."""
        for service in (self.server, *self.agents):
            service.wait_ready()

    def stop(self) -> None:
        """End the agents, then the server."""
        for agent in self.agents:
            agent.ask_to_stop()
        for service in (*self.agents, self.server):
            service.stop()


def start_server(crew: Crew, folders: Folders) -> Service:
    """Start the server: nobody is admitted before there is a trust file, but sites can enrol."""
    return crew.serve("server", "server", "start", "--home", folders.coordinator, "--host", "127.0.0.1")


def start_agents(crew: Crew, folders: Folders, server: Service) -> Federation:
    """Start one agent a site, all at once; `wait_ready` waits for them."""
    agents = tuple(
        crew.serve(f"agent-{s.name}", "agent", "start", "--home", folders.home(s.name), "--threads", "1") for s in SITES
    )  # five sites share one machine here: a hospital leaves --threads away
    return Federation(server, agents)


def start_run(crew: Crew, folders: Folders, signed: Path, *more: str | Path) -> Outcome:
    """Start a run and wait for its end, whatever it is."""
    return crew.run(*_run(folders, signed), *more, limit_s=RUN_LIMIT_S)


def _run(folders: Folders, signed: Path) -> tuple[str | Path, ...]:
    return ("run", "start", signed, "--home", folders.coordinator, "--json")


def watched_run(
    crew: Crew, folders: Folders, signed: Path, seen: Callable[[dict[str, Any]], None]
) -> tuple[Outcome, float]:
    """Start a run and hand each of its events to `seen` as it comes; the outcome and the seconds that it took."""
    before = set(_run_folders(folders))
    started = time.monotonic()
    process, out, err = crew.start("run", ["-m", "residency"], *_run(folders, signed))
    tail = Tail()
    while process.poll() is None and time.monotonic() - started < RUN_LIMIT_S:
        time.sleep(POLL_S)
        _hand_over(folders, before, tail, seen)
    if process.poll() is None:
        process.kill()
        process.wait()
    _hand_over(folders, before, tail, seen)
    seconds = time.monotonic() - started
    said, told = (p.read_text(encoding="utf-8", errors="replace") for p in (out, err))
    return Outcome(tuple(map(str, _run(folders, signed))), _code(process), said, told, seconds), seconds


def _code(process: subprocess.Popen[bytes]) -> int:
    return process.returncode if process.returncode is not None else -1


def _run_folders(folders: Folders) -> list[Path]:
    return sorted((folders.coordinator / "runs").glob("*"))


def _hand_over(folders: Folders, before: set[Path], tail: Tail, seen: Callable[[dict[str, Any]], None]) -> None:
    for folder in _run_folders(folders):
        if folder not in before:
            for event in tail.new(folder / "events.jsonl"):
                seen(event)


class Tail:
    """Reads a growing file of JSON lines; a line that is not whole yet is left for later."""

    def __init__(self) -> None:
        self._read = 0

    def new(self, path: Path) -> Iterator[dict[str, Any]]:
        """The lines that were added since the last call."""
        if not path.exists():
            return
        data = path.read_bytes()[self._read :]
        whole = data.rfind(b"\n") + 1
        self._read += whole
        for line in data[:whole].splitlines():
            event = json.loads(line)
            if isinstance(event, dict):
                yield event

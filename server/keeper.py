"""Keeps every run going that has not ended: the server is disposable, the run's folder is the truth.

`run start` and `run cancel` only write files; this starts the process that works on a run, and starts it again when it
died, with the server or alone. So there is one way in which a run gets started, the first time and every other time.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from compliance.canonical import canonical, parse_canonical
from compliance.errors import ResidencyError, RunFailed
from compliance.files import read_bytes, write_durably
from compliance.training_spec import Frozen
from compliance.validation import load_model
from server.control import Control, NodeInfo
from server.members import Members
from server.private_door import open_control
from server.run_folder import RunFolder, open_runs
from server.run_state import end_of

CONNECT_S: Final = 60.0  # for the study's sites to connect; the run then starts with those who are there
START_S: Final = 60.0  # for a started process to take up the run
STARTS_AT_MOST: Final = 5  # without getting one step further
_PAUSES_S: Final = (0.0, 1.0, 5.0, 15.0, 30.0)


class Starts(Frozen):
    """starts.json: how often the run was started at the step `at` ("phase round")."""

    at: str
    count: int


@dataclass
class _Watched:
    """What this server knows of a run: Flower's number of it, and since when something is waited for."""

    since: float
    number: int | None = None
    taken_up: bool = False
    started: float = 0.0
    trouble: str = ""


class RunKeeper:
    """Looks at the runs of one home; `look` is called about twice a second from the server's launcher.

    It never raises for a run's own trouble: that stands in the run's events and on stderr.
    """

    def __init__(self, home: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._home, self._clock = home, clock
        self._members = Members(home)
        self._watched: dict[str, _Watched] = {}
        self._control: Control | None = None

    def look(self) -> None:
        """Start again what has died, wait for what starts, and end what does not get on."""
        folders = open_runs(self._home)
        self._watched = {f.run: self._watched.get(f.run) or _Watched(self._clock()) for f in folders}
        for folder in folders:
            watched = self._watched[folder.run]
            try:
                self._tend(folder, watched)
                watched.trouble = ""
            except (ResidencyError, OSError) as e:
                self._drop_control()
                if str(e) != watched.trouble:
                    watched.trouble = str(e)
                    _say(f"run {folder.run} is waiting: {e}")

    def close(self) -> None:
        """Let go of the connection to the private door."""
        self._drop_control()

    def _tend(self, folder: RunFolder, watched: _Watched) -> None:
        if folder.held:
            watched.taken_up = True
            return
        if folder.ended or (watched.number is not None and self._starting(watched)):
            return
        starts = starts_of(folder)
        if starts.count >= STARTS_AT_MOST:
            _end(folder, starts)
            return
        nodes = self._nodes()
        here = all(s in nodes and nodes[s].online for s in self._wanted(folder))
        waited = self._clock() - watched.since
        if waited < (_PAUSES_S[starts.count] if here else CONNECT_S):
            return
        self._start(folder, watched, starts, nodes)

    def _starting(self, watched: _Watched) -> bool:
        """Whether the process that was started may still take the run up; if it will not, the wait begins anew."""
        status = self._door().run_status(watched.number).status if watched.number is not None else "finished"
        if not watched.taken_up and status != "finished" and self._clock() - watched.started < START_S:
            return True
        if watched.number is not None and status != "finished":
            self._door().stop_run(watched.number)  # its process is gone; sites then drop what they hold of it
        watched.number, watched.taken_up, watched.since = None, False, self._clock()
        return False

    def _wanted(self, folder: RunFolder) -> tuple[str, ...]:
        """The sites that the run needs next: its members, or all sites that may still join."""
        state = folder.state()
        names = state.members or tuple(name for name, _ in folder.sites())
        return tuple(n for n in names if self._members.removed(n) is None)

    def _nodes(self) -> dict[str, NodeInfo]:
        """Site -> its node, of every member."""
        by_key = {n.public_key: n for n in self._door().nodes()}
        return {site: by_key[key] for site, key in self._members.node_keys().items() if key in by_key}

    def _start(self, folder: RunFolder, watched: _Watched, starts: Starts, nodes: dict[str, NodeInfo]) -> None:
        state = folder.state()
        # As text: a node's number has 64 bits, more than an integer in canonical JSON may have.
        folder.write_json("nodes.json", {site: str(node.node_id) for site, node in nodes.items()})
        counted = starts.model_copy(update={"count": starts.count + 1})
        write_durably(folder.path / "starts.json", canonical(counted.model_dump(mode="json")))
        watched.number = self._door().start_run(folder.bundle(), {"study": state.study})
        watched.started, watched.taken_up = self._clock(), False
        again = (folder.path / "lock").exists()
        folder.event("resumed" if again else "started", phase=state.phase, round=state.round, start=counted.count)

    def _door(self) -> Control:
        if self._control is None:
            self._control = open_control(self._home)
        return self._control

    def _drop_control(self) -> None:
        if self._control is not None:
            self._control.__exit__(None, None, None)
            self._control = None


def starts_of(folder: RunFolder) -> Starts:
    """How often the run was started where it stands now; a step further counts anew."""
    state = folder.state()
    at = f"{state.phase} {state.round}"
    file = folder.path / "starts.json"
    if file.exists():
        found = load_model(Starts, parse_canonical(read_bytes(file, "starts"), str(file)), "RSD-8213", str(file))
        if found.at == at:
            return found
    return Starts(at=at, count=0)


def _end(folder: RunFolder, starts: Starts) -> None:
    """The run does not get on: it ends as failed, and says so."""
    error = RunFailed(
        "RSD-8301",
        f"the run was started {starts.count} times at step {starts.at} and did not get on",
        rule="a run is started again as long as it gets on",
        found=f"{starts.count} starts",
        limit=f"{STARTS_AT_MOST} starts a step",
        next=f"read the server's log and {folder.path / 'events.jsonl'}, then start the study's run again",
    )
    with folder.coordinating():
        folder.event("failed", error=error.as_json())
        folder.finish("failed", folder.state().last_closed, end_of(error))
    _say(f"run {folder.run} ended: {error}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201

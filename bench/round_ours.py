"""Residency's side of `residency bench round`: the server, two agents and a run for each size, on loopback.

What is measured: `server start`, `run start` and two agents over mutual TLS with everything that a run has: site log
and operator's log, ledger charge, commit, decisions, transfer entries, rosters, countersigning, cosigning. Only the
training itself is a stand-in (`bench.round_agent`), and it is there that a round waits for its turn.
"""

from __future__ import annotations

import sys
from pathlib import Path

import psutil

from bench.round_gate import GATE, Gate
from bench.round_processes import Processes
from bench.round_world import SITES, World, answered_study

WHO = tuple(SITES)
_RUN_LIMIT_S = 120.0
_ARENAS = {"MALLOC_ARENA_MAX": "1"}  # `agent start` says so itself before it imports numpy; the stand-in comes too late


class Ours:
    """The running deployment. `server` and `sites` are the processes of the server and of each site.

    `sizes` maps the name of each study to its number of parameters; each study has `rounds` rounds.
    """

    def __init__(self, processes: Processes, world: World, gate: Gate, sizes: dict[str, int], rounds: int) -> None:
        self._processes, self.world, self.gate, self._sizes = processes, world, gate, sizes
        self._rounds = rounds
        self.sites: list[psutil.Process] = []
        self.server: list[psutil.Process] = []

    def start(self) -> None:
        """Have the studies answered, and start the server and the agents."""
        for name in self._sizes:
            answered_study(self.world, name, self._rounds)
        self.server = [self._residency("server", "server", "start", "--home", self.world.hub, "--host", "127.0.0.1")]
        self._processes.wait(lambda: '"ready": true' in self._processes.said("server"), "the server", 60)
        sizes = [f"{name}={size}" for name, size in self._sizes.items()]
        for site in SITES:
            command = [sys.executable, "-m", "bench.round_agent", str(self.world.home(site)), *sizes]
            self.sites.append(self._processes.start(site, command, **{GATE: str(self.gate.path), **_ARENAS}))
        self._processes.wait(lambda: all("online" in self._processes.said(s) for s in SITES), "the agents", 120)

    def begin(self, name: str) -> None:
        """Start the run of the study `name`; its first round waits at the gate."""
        answers = self.world.answers(name)
        self._residency(
            f"run-{name}", "run", "start", self.world.study(name), "--home", self.world.hub, "--answers", answers
        )

    def end(self, name: str) -> None:
        """Let the last round through and wait for the end of the run."""
        self.gate.open(WHO)
        self._processes.let_go(f"run-{name}", _RUN_LIMIT_S)

    def stop_all_sites_but_one(self) -> None:
        """End the other agents: what memory an agent takes alone shows only then."""
        self._processes.stop(*WHO[1:])
        del self.sites[1:]

    def _residency(self, name: str, *args: str | Path) -> psutil.Process:
        return self._processes.start(name, (sys.executable, "-m", "residency", *args))

"""`residency bench round`: seconds a round, Flower as it comes and Residency, both up at once, a round of each in turn.

Two sites on loopback with TLS; random arrays that differ in every message (Flower stores equal ones once); no training.
Stock: `bench.round_stock`, a round of FedAvg without evaluation, from `Strategy.start` to its return. Ours:
`bench.round_ours`, a whole round with the exchange of rosters, cosignatures and checkpoints and everything that is
written to disk. While one side runs, the other waits in mid-round and its processes poll as they always do.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

from bench import round_ours, round_stock
from bench.round_figures import SIDES, Idle, Lap, figures
from bench.round_gate import Gate
from bench.round_ours import Ours
from bench.round_processes import Processes, cpu_s, memory_mib
from bench.round_stock import Stock
from bench.round_world import SITES, build_world
from compliance.canonical import Json
from compliance.errors import RunFailed
from compliance.tls import tls_files

SIZES: Final = {"0.1M": 100_000, "10M": 10_000_000}
PACKAGES: Final = ("residency", "flwr", "torch", "transformers", "opacus")
_QUIET_S: Final = 62.0  # an agent asks often for a minute after its last message
Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to measure: sizes by name, timed rounds and rounds before them of each size and side, seconds of idling."""

    sizes: dict[str, int]
    rounds: int
    warm_up: int
    quiet_s: float
    idle_s: float


def full(rounds: int) -> Plan:
    """Both sizes, and the idle figures a minute after the last round."""
    return Plan(SIZES, rounds, 1, _QUIET_S, 20.0)


def short() -> Plan:
    """The small size, one round; the idle figures while the agents still ask often, so a bit too high."""
    return Plan({"0.1M": SIZES["0.1M"]}, 1, 1, 0.0, 3.0)


def measure(plan: Plan, say: Say) -> dict[str, Json]:
    """Run the whole benchmark. Raises RunFailed RSD-8500 to RSD-8504; leaves no process and no file."""
    with tempfile.TemporaryDirectory(prefix="rsd-") as name:
        root = Path(name)
        gates = {side: Gate(root / f"{side}.gate") for side in SIDES}
        try:
            with Processes(root / "logs") as processes:
                return _Bench(plan, processes, root, gates, say).run()
        finally:
            for gate in gates.values():
                gate.close()


class _Bench:
    def __init__(self, plan: Plan, processes: Processes, root: Path, gates: dict[str, Gate], say: Say) -> None:
        self._plan, self._processes, self._say = plan, processes, say
        world = build_world(root / "world")
        (root / "stock").mkdir()
        self._stock = Stock(processes, root / "stock", tls_files(world.hub / "tls"), gates["stock"])
        studies = {_study(size): d for size, d in plan.sizes.items()}
        self._ours = Ours(processes, world, gates["ours"], studies, plan.warm_up + plan.rounds + 1)

    def run(self) -> dict[str, Json]:
        self._say("starting both deployments")
        self._ours.start()
        self._stock.start()
        self._stock.gate.arrived(round_stock.WHO, self._processes.check)
        laps = {size: self._laps(size) for size in self._plan.sizes}
        found = figures(laps, len(SITES), self._idle())
        versions = {package: version(package) for package in PACKAGES}
        return {**found, "versions": {**versions, "python": sys.version.split()[0]}}

    def _laps(self, size: str) -> dict[str, list[Lap]]:
        """The rounds of one size, a stock one and one of ours in turn; the first of each are not counted."""
        plan, processes = self._plan, self._processes
        out: dict[str, list[Lap]] = {side: [] for side in SIDES}
        self._ours.begin(_study(size))
        self._ours.gate.arrived(round_ours.WHO, processes.check)
        for number in range(plan.warm_up + plan.rounds):
            for side, lap in (
                ("stock", self._lap(self._stock, round_stock.WHO, size=plan.sizes[size])),
                ("ours", self._lap(self._ours, round_ours.WHO)),
            ):
                self._say(f"{size} {side}: {lap.seconds:.2f} s")
                out[side] += [lap] * (number >= plan.warm_up)
        self._ours.end(_study(size))
        return out

    def _lap(self, side: Stock | Ours, who: Sequence[str], **told: int) -> Lap:
        """Let one round through: the time until every party of the side is back at its gate."""
        before = cpu_s(side.sites), cpu_s(side.server)
        began = side.gate.open(who, **told)
        ended, said = side.gate.arrived(who, self._processes.check)
        if said.get("stock", {}).get("answered", len(SITES)) != len(SITES):
            raise RunFailed(
                "RSD-8504",
                "a stock round went without a site",
                rule="a round is timed with every site in it",
                found=said["stock"]["answered"],
                limit=len(SITES),
                next="run it again on a machine with less load",
            )
        return Lap(ended - began, cpu_s(side.sites) - before[0], cpu_s(side.server) - before[1])

    def _idle(self) -> Idle:
        """Nothing to do for anybody; the memory is taken when no other site shares pages with the agent."""
        self._say("idling")
        self._stock.stop()
        time.sleep(self._plan.quiet_s)
        everybody = [self._ours.server, *([site] for site in self._ours.sites)]
        before = [cpu_s(roots) for roots in everybody]
        time.sleep(self._plan.idle_s)
        used = [(cpu_s(r) - b) / self._plan.idle_s for r, b in zip(everybody, before, strict=True)]
        self._ours.stop_all_sites_but_one()
        return Idle(max(used[1:]), memory_mib(self._ours.sites[:1]), used[0])


def _study(size: str) -> str:
    """The name of the study of a size: small letters, digits and dashes."""
    return f"size-{size.lower().replace('.', '-')}"

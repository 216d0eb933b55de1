"""What `residency bench round` prints, from the times that it took. Decides nothing and measures nothing."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from compliance.canonical import Json

SIDES: Final = ("stock", "ours")
MESSAGES: Final = {"stock": 1, "ours": 2}  # a site answers so many in a round: training; training and witnessing


@dataclass(frozen=True)
class Lap:
    """One timed round of one side: seconds, and the CPU seconds of all processes of the sites and of the server."""

    seconds: float
    sites_cpu_s: float
    server_cpu_s: float


Laps = Mapping[str, Mapping[str, Sequence[Lap]]]  # size -> side -> laps


@dataclass(frozen=True)
class Idle:
    """Residency's processes between runs: cores of the busiest agent and of the server; PSS of an agent with all that
    it started, in MiB.
    """

    agent_cores: float
    agent_rss_mib: float
    server_cores: float


def figures(laps: Laps, sites: int, idle: Idle) -> dict[str, Json]:
    """Medians by side and size, how many times quicker ours is, and every sample.

    `cpu_s_per_message` is that of the smallest size: CPU seconds of the sites' processes, whatever they started
    included, over the messages that the sites answered in the timed rounds.
    """
    seconds = {side: {size: _median([lap.seconds for lap in by[side]]) for size, by in laps.items()} for side in SIDES}
    first = next(iter(laps.values()))
    return {
        "seconds_per_round_s": seconds,
        "ratio": {size: round(seconds["stock"][size] / seconds["ours"][size], 2) for size in laps},
        "cpu_s_per_message": {side: _cpu(first[side], sites * MESSAGES[side]) for side in SIDES},
        "idle": {
            "agent_cores": round(idle.agent_cores, 4),
            "agent_rss_mib": round(idle.agent_rss_mib, 1),
            "server_cores": round(idle.server_cores, 4),
        },
        "messages_per_site_and_round": dict(MESSAGES),
        "sites": sites,
        "rounds": {size: {side: len(by[side]) for side in SIDES} for size, by in laps.items()},
        "samples": {size: {side: [_sample(lap) for lap in by[side]] for side in SIDES} for size, by in laps.items()},
    }


def lines(found: dict[str, Json]) -> list[str]:
    """The same for people."""
    out = []
    for size, ratio in found["ratio"].items():
        stock, ours = (found["seconds_per_round_s"][side][size] for side in SIDES)
        out.append(f"{size}: stock {stock} s a round, ours {ours} s, {ratio} times quicker")
    cpu, idle = found["cpu_s_per_message"], found["idle"]
    out.append(f"CPU a message at a site: stock {cpu['stock']} s, ours {cpu['ours']} s")
    out.append(
        f"idle: an agent {idle['agent_cores']} cores and {idle['agent_rss_mib']} MiB, "
        f"the server {idle['server_cores']} cores"
    )
    return out


def _median(values: Sequence[float]) -> float:
    return round(statistics.median(values), 3)


def _cpu(laps: Sequence[Lap], messages_a_round: int) -> float:
    return round(sum(lap.sites_cpu_s for lap in laps) / (len(laps) * messages_a_round), 4)


def _sample(lap: Lap) -> dict[str, Json]:
    return {
        "round_s": round(lap.seconds, 3),
        "sites_cpu_s": round(lap.sites_cpu_s, 3),
        "server_cpu_s": round(lap.server_cpu_s, 3),
    }

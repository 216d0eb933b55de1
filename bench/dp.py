"""What private training costs beside ordinary training: `residency bench dp`.

All modes of a case take a step in turn in one process with one thread; a figure is the median of the ratios within a
turn, so that other load on the machine meets all modes alike. Opacus' modes, which nothing is held against, take part
in the first half of the turns. Peak memory is taken in a process of its own a mode (bench/dp_memory.py), two at a time:
other load does not change it. For ours and the twin it is the median of three.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import torch

from bench.dp_cases import Case, Job
from bench.dp_limits import judged, told
from bench.dp_ours import ours
from bench.dp_peers import Step, opacus_ghost, opacus_hooks, peft, twin
from compliance.canonical import Json
from compliance.errors import EnvironmentFault

_WARM: Final = 4  # until the heap has grown to what a turn takes
_WARM_OPACUS: Final = 2
_OPACUS: Final = ("opacus_hooks", "opacus_ghost")
_COMPARED: Final = ("ours", "twin")  # in memory, with each other
_PROCESSES: Final = 3  # where the heap grows differs between processes
_AT_ONCE: Final = 2
_STEPS: Final = 3  # whose memory is taken
_OPACUS_STEPS: Final = 2


def modes(case: Case) -> dict[str, Callable[[], Step]]:
    """How each mode that fits `case` is built. With cached frozen layers there is nothing for the peers to cache."""
    found: dict[str, Callable[[], Step]] = {"peft": lambda: peft(case), "ours": lambda: ours(case)}
    if case.layers:
        found["peft_all_layers"] = lambda: peft(case, train_all_layers=True)
    if not case.cached:
        found |= {"opacus_hooks": lambda: opacus_hooks(case), "opacus_ghost": lambda: opacus_ghost(case)}
        if case.trained != "full":
            found["twin"] = lambda: twin(case)
    return found


def measure(cases: Sequence[Case], turns: int, say: Callable[[str], None], *, memory: bool) -> dict[str, Json]:
    """Every case in turn. `memory`: take the peaks too, in processes of their own."""
    torch.set_num_threads(1)
    figures, seconds = [], dict[str, Json]()
    for case in cases:
        say(case.name)
        start = time.monotonic()
        figures.append(_figures(case, _laps(case, turns)))
        seconds[case.name] = round(time.monotonic() - start, 1)
    start = time.monotonic()
    peaks: Iterable[dict[str, Json]] = _memory(cases, say) if memory else [{"peak_mib": {}}] * len(cases)
    both = [{**fields, **peak} for fields, peak in zip(figures, peaks, strict=True)]
    out: list[Json] = [{**case, "limits": judged(case)} for case in both]
    seconds["memory"] = round(time.monotonic() - start, 1)
    return {
        "cases": out,
        "turns": turns,
        "turns_opacus": _turns_of("opacus_hooks", turns),
        "threads": 1,
        "memory_steps": _STEPS,
        "memory_steps_opacus": _OPACUS_STEPS,
        "memory_processes_compared": _PROCESSES,
        "wall_s": seconds,
        "torch": torch.__version__,
    }


def _turns_of(mode: str, turns: int) -> int:
    """Of how many timed turns a mode takes part, from the first on."""
    return -(-turns // 2) if mode in _OPACUS else turns


def _laps(case: Case, turns: int) -> dict[str, list[float]]:
    steps = {name: build() for name, build in modes(case).items()}
    laps: dict[str, list[float]] = {name: [] for name in steps}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Full backward hook is firing")  # Opacus' hooks below a frozen embedding
        for turn in range(-_WARM, turns):
            taking = [n for n in steps if turn < _turns_of(n, turns) and (turn >= -_WARM_OPACUS or n not in _OPACUS)]
            for name in taking:
                start = time.perf_counter()
                steps[name]()
                if turn >= 0:
                    laps[name].append(time.perf_counter() - start)
    return laps


def _figures(case: Case, laps: dict[str, list[float]]) -> dict[str, Json]:
    def ratio(name: str, to: str) -> float:
        pairs = zip(laps[name], laps[to], strict=False)  # in the turns that both took part in
        return round(statistics.median(a / b for a, b in pairs), 3)

    fields: dict[str, Json] = {
        "model": case.model,
        "adapter": case.trained,
        "tokens": case.tokens,
        "batch": case.batch,
        "trained_layers": case.layers or "all",
        "prefix_cache": case.cached,
        "ratio_to_peft": {name: ratio(name, "peft") for name in laps if not name.startswith("peft")},
        "seconds_per_step_s": {name: round(statistics.median(times), 4) for name, times in laps.items()},
    }
    if "twin" in laps:
        fields["ratio_to_twin"] = ratio("ours", "twin")
    if case.layers:
        fields["times_quicker"] = {
            "than_peft_on_these_layers": round(1 / ratio("ours", "peft"), 2),
            "than_peft_on_all_layers": round(1 / ratio("ours", "peft_all_layers"), 2),
        }
    return fields


def _memory(cases: Sequence[Case], say: Callable[[str], None]) -> list[dict[str, Json]]:
    """MiB that a mode adds to a process that has imported everything, by mode; all of ours and the twin's as well."""
    seen: dict[tuple[str, str], list[float]] = {}

    def take(jobs: Sequence[Job]) -> None:
        for job, peak in zip(jobs, _peaks(jobs), strict=True):
            seen.setdefault((job.case.name, job.mode), []).append(peak)
        say(f"memory of {len(jobs)} modes")

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(take, _memory_jobs(cases)))
    return [_peak_fields({mode: found for (name, mode), found in seen.items() if name == case.name}) for case in cases]


def _memory_jobs(cases: Sequence[Case]) -> list[list[Job]]:
    """The jobs of each process. Those that are compared with each other run in three."""
    jobs = [
        Job(case, mode, _OPACUS_STEPS if mode in _OPACUS else _STEPS)
        for case in cases
        for mode in modes(case)
        if mode != "peft_all_layers"
    ]
    compared = [job for job in jobs if job.mode in _COMPARED and "twin" in modes(job.case)]
    return [[job for job in jobs if job not in compared], *[compared] * _PROCESSES]


def _peak_fields(seen: dict[str, list[float]]) -> dict[str, Json]:
    peaks = {name: statistics.median(found) for name, found in seen.items()}
    fields: dict[str, Json] = {
        "peak_mib": dict(peaks),
        "peaks_mib": {name: list(found) for name, found in seen.items() if name in _COMPARED},
    }
    if "twin" in peaks:
        fields["peak_to_twin"] = round(peaks["ours"] / peaks["twin"], 3)
    return fields


def _peaks(jobs: Sequence[Job]) -> list[float]:
    """By one process, a child of it a job."""
    asked = json.dumps([job.written() for job in jobs])
    ran = subprocess.run(
        [sys.executable, "-m", "bench.dp_memory"], input=asked, capture_output=True, text=True, check=False
    )
    found = [float(line) for line in ran.stdout.splitlines()]
    if ran.returncode or len(found) != len(jobs):
        failed = jobs[len(found)] if len(found) < len(jobs) else jobs[-1]
        raise EnvironmentFault(
            "RSD-8505", "the memory of a mode could not be measured",
            found=f"{failed.case.name}, {failed.mode}, exit {ran.returncode}", limit="exit 0",
            next="run the benchmark on Linux 5.14 or later, on a machine with more free memory",
        )  # fmt: skip
    return found


def lines(found: dict[str, Any]) -> list[str]:
    """A line a case, for people: steps relative to peft's, then MiB."""
    out = []
    for case in found["cases"]:
        part = "" if case["trained_layers"] == "all" else f" last {case['trained_layers']}"
        cached = " cached" if case["prefix_cache"] else ""
        name = f"{case['model']} {case['adapter']}{part}{cached} T{case['tokens']} B{case['batch']}"
        ratios = ", ".join(f"{mode} {value}" for mode, value in case["ratio_to_peft"].items())
        memory = ", ".join(f"{mode} {value:.0f}" for mode, value in case["peak_mib"].items())
        out.append(f"{name}: {ratios}" + (f"; MiB: {memory}" if memory else ""))
        out += [f"  {told(case)}"] if case["limits"] else []
    return out

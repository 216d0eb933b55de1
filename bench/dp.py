"""What private training costs beside ordinary training: `residency bench dp`.

All modes of a case take a step in turn in one process with one thread; a figure is the median of the ratios within a
turn, so that other load on the machine meets all modes alike. Peak memory is taken in a process of its own a mode; for
ours and the twin it is the median of three.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch

from bench.dp_cases import Case
from bench.dp_ours import ours
from bench.dp_peers import Step, opacus_ghost, opacus_hooks, peft, twin
from compliance.canonical import Json
from compliance.errors import EnvironmentFault

_WARM: Final = 2
_PROCESSES: Final = {"ours": 3, "twin": 3}  # where the heap grows differs between processes: these two are compared


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
    """Every case in turn. `memory`: take the peaks too, in a new process each."""
    torch.set_num_threads(1)
    out: list[Json] = []
    for case in cases:
        say(case.name)
        laps = _laps(case, turns)
        out.append({**_figures(case, laps), **(_memory(case) if memory else {"peak_mib": {}})})
    return {"cases": out, "turns": turns, "threads": 1, "torch": torch.__version__}


def _laps(case: Case, turns: int) -> dict[str, list[float]]:
    steps = {name: build() for name, build in modes(case).items()}
    laps: dict[str, list[float]] = {name: [] for name in steps}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Full backward hook is firing")  # Opacus' hooks below a frozen embedding
        for turn in range(_WARM + turns):
            for name, step in steps.items():
                start = time.perf_counter()
                step()
                if turn >= _WARM:
                    laps[name].append(time.perf_counter() - start)
    return laps


def _figures(case: Case, laps: dict[str, list[float]]) -> dict[str, Json]:
    def ratio(name: str, to: str) -> float:
        pairs = zip(laps[name], laps[to], strict=True)
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


def _memory(case: Case) -> dict[str, Json]:
    """MiB that a mode adds to a process that has imported everything, by mode; all of ours and the twin's as well."""
    names = [name for name in modes(case) if name != "peft_all_layers"]
    seen: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(max(_PROCESSES.values())):
        for name in names:
            if turn < _PROCESSES.get(name, 1):
                seen[name].append(_peak(case, name))
    peaks = {name: statistics.median(found) for name, found in seen.items()}
    fields: dict[str, Json] = {
        "peak_mib": dict(peaks),
        "peaks_mib": {n: list(seen[n]) for n in names if n in _PROCESSES},
    }
    if "twin" in peaks:
        fields["peak_to_twin"] = round(peaks["ours"] / peaks["twin"], 3)
    return fields


def _peak(case: Case, mode: str) -> float:
    wanted = json.dumps([case.model, case.trained, case.tokens, case.batch, case.layers, case.cached])
    ran = subprocess.run(
        [sys.executable, "-m", "bench.dp_memory", mode, wanted], capture_output=True, text=True, check=False
    )
    if ran.returncode:
        raise EnvironmentFault(
            "RSD-8505", "the memory of a mode could not be measured", found=f"{mode}, exit {ran.returncode}",
            limit="exit 0", next="run the benchmark on a machine with more free memory",
        )  # fmt: skip
    return float(ran.stdout)


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
    return out

"""`residency bench`: benchmarks as commands. Each prints JSON and measures what it says, nothing else."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from compliance.cli import Result, command


@click.group()
def bench() -> None:
    """Benchmarks that print JSON.

    \b
    Example: residency bench recipe --runs 3 --head-only
    """


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 4), "min": round(min(values), 4), "max": round(max(values), 4)}


def _timed(repeats: int, work: Callable[[], object]) -> list[float]:
    out = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        out.append(time.perf_counter() - start)
    return out


@bench.command()
@click.option("--runs", type=int, default=3, show_default=True, help="How often, each with other noise.")
@click.option("--head-only", is_flag=True, help="Without adapters.")
@click.option("--pooled", is_flag=True, help="All rows in one place.")
@click.option("--set", "changes", default="{}", help="JSON: fields of the setting to change.")
@click.option("--cache", type=click.Path(path_type=Path), help="Where the frozen layers' outputs are kept.")
@command("residency.bench.recipe/1")
def recipe(runs: int, head_only: bool, pooled: bool, changes: str, cache: Path | None) -> Result:
    """Accuracy and AUC of the demo's recipe on its holdout, each run with fresh noise.

    \b
    Example: residency bench recipe --runs 3 --set '{"epsilon": 3.0}'
    """
    from bench.thyroid_recipe import measure  # noqa: PLC0415 - loads torch

    where = cache or Path(tempfile.gettempdir()) / "residency-bench"
    found: list[dict[str, Any]] = []
    for record in measure(runs, json.loads(changes), where, head_only=head_only, pooled=pooled):
        print(json.dumps(record), file=sys.stderr, flush=True)  # noqa: T201 - progress
        found.append(record)
    accuracy, auc = _spread([r["accuracy"] for r in found]), _spread([r["auc"] for r in found])
    lines = [f"accuracy {accuracy}, AUC {auc} over {runs} runs"]
    return Result({"accuracy": accuracy, "auc": auc, "runs": found}, lines)


@bench.command("log")
@click.option(
    "--dir", "folder", type=click.Path(path_type=Path, file_okay=False), help="On which disk (default: temp)."
)
@click.option("--short", is_flag=True, help="A small log and few turns: shows the form, not the figures.")
@command("residency.bench.log/1")
def log_(folder: Path | None, short: bool) -> Result:
    """Durable appends a second beside bare SQLite, the check of a log of a million, a proof from it, a desk page.

    About ten minutes and 1 GB; other load on the machine shows in the samples.

    \b
    Example: residency bench log --json
    """
    from bench.log import FULL, SHORT, lines, measure  # noqa: PLC0415 - loads the log

    with tempfile.TemporaryDirectory(dir=folder) as made:
        found = measure(SHORT if short else FULL, Path(made), lambda text: click.echo(text, err=True))
    return Result(found, lines(found))


@bench.command()
@command("residency.bench.law/1")
def law() -> Result:
    """Time of a decision by both evaluators with all packs loaded, over the reference cases; and time to load them.

    \b
    Example: residency bench law --json
    """
    from compliance.law.cases import load_folder  # noqa: PLC0415
    from compliance.law.cedar_eval import CedarPack  # noqa: PLC0415
    from compliance.law.pack import builtin_packs, load_pack  # noqa: PLC0415
    from compliance.law.timing import decision_seconds  # noqa: PLC0415

    packs = builtin_packs()
    load = _timed(5, lambda: [CedarPack(load_pack(pack.raw)) for pack in packs.values()])
    one = decision_seconds(packs, load_folder())
    fields = {
        "packs": len(packs),
        "load_s": _spread(load),
        "decision_us_p50": round(statistics.median(one) * 1e6),
        "decisions_per_s": _spread([1 / t for t in one]),
    }
    return Result(fields, [f"{name}: {value}" for name, value in fields.items()])


@bench.command("round")
@click.option("--rounds", type=click.IntRange(1, 200), default=10, show_default=True, help="Timed rounds a size.")
@click.option("--short", is_flag=True, help="One round of the small size: shows the form, not the figures.")
@command("residency.bench.round/1")
def round_(rounds: int, short: bool) -> Result:
    """Seconds a round: Flower as it comes and Residency with everything on, a round of each in turn.

    Two sites on loopback with TLS, random arrays, no training. About ten minutes; other load on the machine shows in
    the samples.

    \b
    Example: residency bench round --json
    """
    from bench import round as rounds_  # noqa: PLC0415 - loads Flower
    from bench.round_figures import lines  # noqa: PLC0415

    plan = rounds_.short() if short else rounds_.full(rounds)
    found = rounds_.measure(plan, lambda text: click.echo(text, err=True))
    return Result(found, lines(found))


@bench.command()
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), required=True, help="Holds heart, eicu_demo.")
@click.option("--splits", type=click.IntRange(2, 100), default=10, show_default=True, help="Cuts into train and test.")
@click.option("--seeds", type=click.IntRange(1, 1000), default=20, show_default=True, help="Repetitions of each split.")
@click.option("--short", is_flag=True, help="Two splits, two repetitions, few rounds: the form, not the figures.")
@command("residency.bench.utility/1")
def utility(data: Path, splits: int, seeds: int, short: bool) -> Result:
    """What a private federation's model is worth, on real hospitals' tables: against each site alone and all pooled.

    Without privacy and at eps 8, 3 and 1; on heart also against FLamby's own recipe on the same splits.

    \b
    Example: residency bench utility --data DIR --json
    """
    from bench import utility as utility_  # noqa: PLC0415 - loads torch and pandas
    from bench.utility_figures import lines  # noqa: PLC0415

    plan = utility_.short() if short else utility_.Plan(splits=splits, repetitions=seeds)
    found = utility_.measure(plan, data, lambda text: click.echo(text, err=True))
    return Result(found, lines(found))


@bench.command()
@click.option("--turns", type=click.IntRange(1, 200), default=9, show_default=True, help="Timed steps a mode and case.")
@click.option("--short", is_flag=True, help="Two small cases, one turn, no memory: shows the form, not the figures.")
@command("residency.bench.dp/1")
def dp(turns: int, short: bool) -> Result:
    """A private training step beside an ordinary one: peft, Opacus, a fused non-private twin, and ours.

    One thread, a step of each in turn. About ten minutes.

    \b
    Example: residency bench dp --json
    """
    from bench.dp import lines, measure  # noqa: PLC0415 - loads torch
    from bench.dp_cases import CASES, SHORT  # noqa: PLC0415

    cases = SHORT if short else CASES
    found = measure(cases, 1 if short else turns, lambda text: click.echo(text, err=True), memory=not short)
    return Result(found, lines(found))

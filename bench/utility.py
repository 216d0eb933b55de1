"""`residency bench utility`: how good a private federation's model is, against each site alone and all rows pooled."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from bench import utility_data as data
from bench import utility_flamby as flamby
from bench.utility_arms import Scored, Trial, noise_micro
from bench.utility_figures import CORRECTED, INTERVAL, Runs, compared, mean_of
from bench.utility_settings import EICU, EPSILONS, FIRST_SPLIT_SEED, HEART, MICRO, Setting
from client.tasks.metrics import class_metrics

Say = Callable[[str], None]
_SPLITTERS: Final = {"heart": (data.heart, data.heart_split), "eicu_demo": (data.eicu, data.eicu_split)}


@dataclass(frozen=True)
class Plan:
    """How much is run. `epsilons`: None is without privacy."""

    splits: int
    repetitions: int
    settings: tuple[Setting, ...] = (HEART, EICU)
    epsilons: tuple[float | None, ...] = EPSILONS
    first_seed: int = FIRST_SPLIT_SEED


def short() -> Plan:
    """Two splits, two repetitions, two budgets, fewer rounds: shows the form, not the figures."""
    few = tuple(
        replace(s, private=replace(s.private, rounds=2), plain=replace(s.plain, rounds=2)) for s in (HEART, EICU)
    )
    return Plan(splits=2, repetitions=2, settings=few, epsilons=(None, 8.0))


def measure(plan: Plan, folder: Path, say: Say) -> dict[str, Any]:
    """All data sets of `plan` from `folder`; `say` gets a line a split. Raises InputError RSD-2352."""
    torch.set_num_threads(1)
    start = time.process_time()
    found = [_dataset(plan, setting, folder / setting.name, say) for setting in plan.settings]
    return {
        "datasets": found,
        "interval": INTERVAL,
        "corrected": CORRECTED,
        "randomness": "splits and FLamby's start from public seeds; all noise from the operating system, never a seed",
        "cpu_s": round(time.process_time() - start, 1),
    }


def _dataset(plan: Plan, setting: Setting, folder: Path, say: Say) -> dict[str, Any]:
    load, split = _SPLITTERS[setting.name]
    sites = load(folder)
    noise = {e: None if e is None else noise_micro(setting, e) for e in plan.epsilons}
    found: dict[float | None, list[_Split]] = {e: [] for e in plan.epsilons}
    for seed in range(plan.first_seed, plan.first_seed + plan.splits):
        parts = split(sites, seed)
        trial = Trial(setting, parts)
        for e in plan.epsilons:
            runs = [_once(trial, setting, noise[e]) for _ in range(1 if e is None else plan.repetitions)]
            baseline = _baseline(setting, parts, e, plan.repetitions, seed)
            found[e].append(_Split(runs * (plan.repetitions // len(runs)), baseline))
        told = ", ".join(
            f"{_name(e)} {found[e][-1].arm('federated', setting.primary).mean():.4f}" for e in plan.epsilons
        )
        say(f"{setting.name} split {seed}: federated {setting.primary} at eps {told}")
    return {
        "name": setting.name,
        "primary": setting.primary,
        "splits": plan.splits,
        "first_split_seed": plan.first_seed,
        "repetitions": plan.repetitions,
        "unit": "record" if setting.group_column is None else "patient",
        "records_per_unit": setting.records_per_unit,
        "inverse_delta": setting.inverse_delta,
        "public_counts": {name: site.count for name, site in trial.sites.items()},
        "results": [
            {
                "epsilon": _name(e),
                "noise_multiplier": None if (n := noise[e]) is None else n / MICRO,
                "recipe": asdict(setting.recipe(e)),
                **_compared(setting, e, found[e]),
                **_true_epsilon(setting, parts, e),
            }
            for e in plan.epsilons
        ],
    }


@dataclass(frozen=True)
class _Run:
    """Figures of one repetition: arm -> all figures on the test records of all sites together; and the primary figure
    as the mean over sites of what the arm's model for a site gives on that site's own test records."""

    pooled: dict[str, dict[str, float]]
    own: dict[str, float]


@dataclass(frozen=True)
class _Split:
    """The repetitions of one split, and the baseline's primary figures for as many."""

    runs: list[_Run]
    baseline: dict[str, list[float]]

    def arm(self, name: str, figure: str) -> Runs:
        """(repetitions,): one figure of an arm."""
        return np.array([r.pooled[name][figure] for r in self.runs])


def _once(trial: Trial, setting: Setting, noise: int | None) -> _Run:
    alone = {name: trial.scores(trial.alone(name, noise)) for name in trial.sites}
    federated, pooled = trial.scores(trial.federated(noise)), trial.scores(trial.pooled(noise))
    own = {name: scores[name] for name, scores in alone.items()}
    return _Run(
        pooled={
            "federated": _together(federated),
            "alone": mean_of([_together(s) for s in alone.values()]),
            "pooled": _together(pooled),
        },
        own={
            arm: mean_of([class_metrics(r.labels, s) for r, s in scores.values()])[setting.primary]
            for arm, scores in (("federated", federated), ("alone", own))
        },
    )


def _together(scores: Scored) -> dict[str, float]:
    return class_metrics(
        np.concatenate([r.labels for r, _ in scores.values()]), np.concatenate([s for _, s in scores.values()])
    )


def _baseline(
    setting: Setting, parts: dict[str, data.Part], epsilon: float | None, repetitions: int, seed: int
) -> dict[str, list[float]]:
    if setting.name != HEART.name:
        return {}
    rates = {"flamby": flamby.PUBLISHED_RATE, "flamby, better rate": flamby.BETTER_RATE}
    recipes = {name: flamby.Recipe(rate, epsilon, setting.inverse_delta) for name, rate in rates.items()}
    return {name: flamby.accuracies(parts, r, repetitions, seed).tolist() for name, r in recipes.items()}


def _true_epsilon(setting: Setting, parts: dict[str, data.Part], epsilon: float | None) -> dict[str, float]:
    if setting.name != HEART.name or epsilon is None:
        return {}
    recipe = flamby.Recipe(flamby.PUBLISHED_RATE, epsilon, setting.inverse_delta)
    return {"true_epsilon_of_flamby": flamby.true_epsilon_milli(parts, recipe) / 1000}


def _compared(setting: Setting, epsilon: float | None, splits: list[_Split]) -> dict[str, Any]:
    names = splits[0].runs[0].pooled
    arms = {name: np.stack([s.arm(name, setting.primary) for s in splits]) for name in names}
    arms |= {name: np.array([s.baseline[name] for s in splits]) for name in splits[0].baseline}
    own = {name: np.array([[r.own[name] for r in s.runs] for s in splits]) for name in splits[0].runs[0].own}
    return {
        **compared(arms, setting.published.get(_name(epsilon), {})),
        "own_test": compared(own, {}),
        "figures": {name: mean_of([r.pooled[name] for s in splits for r in s.runs]) for name in names},
    }


def _name(epsilon: float | None) -> str:
    return "inf" if epsilon is None else f"{epsilon:g}"

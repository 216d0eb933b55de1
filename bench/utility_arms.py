"""The three arms of `residency bench utility`: federated, one site alone, all rows in one place.

Every arm runs the same number of the same steps. With privacy it is the product that trains: the Engine, its lattice
noise from `Keystream.fresh()`, noise multipliers by PLD, public counts and public weights, exact averaging.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from bench.utility_data import Part, Rows
from bench.utility_settings import MICRO, Recipe, Setting
from client.data.schema import declared_count
from client.data.units import patient_units
from client.tasks.tabular import TASK, Records, load_records
from client.training.dpsgd import Engine
from client.training.examples import Examples
from client.training.keystream import Keystream
from client.training.top import Flat, Top
from client.work import RoundSpec
from compliance.privacy.accounting import calibrate
from compliance.study_event import TV_ERROR_FEMTO_PER_ROUND
from strategies.fedavg import Accumulator, FedAvg

_ROWS = 4096  # one physical batch: the tables are small
Scored = dict[str, tuple[Records, npt.NDArray[np.float32]]]
"""Each site's test records, and a model's logits for them."""


def noise_micro(setting: Setting, epsilon: float) -> int:
    """The least noise multiplier that keeps all rounds within `epsilon`, by PLD; q is 1 at every site."""
    recipe = setting.private
    return calibrate(
        round(epsilon * 1000), setting.inverse_delta, 1, 1, recipe.rounds, TV_ERROR_FEMTO_PER_ROUND * recipe.rounds
    )


@dataclass(frozen=True)
class Site:
    """Training rows in one place, ready for the engine; `count` is the rounded number of units that it declares."""

    engine: Engine
    count: int
    units: torch.Tensor  # float32 (n,): one over the number of records of the record's unit


class Trial:
    """One split of one data set: its sites, all their rows pooled, and their test records."""

    def __init__(self, setting: Setting, parts: Mapping[str, Part]) -> None:
        self._setting = setting
        self._top = _top(setting)
        self.sites = {name: _site(setting, part.train) for name, part in parts.items()}
        self._pooled = _site(setting, pd.concat([p.train for p in parts.values()], ignore_index=True))
        self._tests = {name: load_records(setting.task, Rows(part.test)) for name, part in parts.items()}

    def federated(self, noise: int | None) -> Flat:
        """The released model of a federation; `noise` in millionths, None without privacy."""
        return self._train(self.sites, noise)

    def alone(self, name: str, noise: int | None) -> Flat:
        """The same steps at one site."""
        return self._train({name: self.sites[name]}, noise)

    def pooled(self, noise: int | None) -> Flat:
        """The same steps over all rows, which nobody could have."""
        return self._train({"pooled": self._pooled}, noise)

    def scores(self, flat: Flat) -> Scored:
        """Each site's test records and the model's logits for them."""
        self._top.set_flat(flat)
        with torch.inference_mode():
            return {n: (r, self._top({"cells": torch.from_numpy(r.cells)}).numpy()) for n, r in self._tests.items()}

    def _train(self, sites: Mapping[str, Site], noise: int | None) -> Flat:
        recipe = self._setting.plain if noise is None else self._setting.private
        weights, rule = {name: site.count for name, site in sites.items()}, FedAvg()
        flat: Flat = np.zeros_like(self._top.get_flat())
        # One place has nothing to average: its steps run in one round.
        rounds, steps = (recipe.rounds, 1) if len(sites) > 1 else (1, recipe.rounds)
        for number in range(1, rounds + 1):
            mean = Accumulator(weights, flat.size)
            for name, site in sites.items():
                if noise is None:
                    mean.add(name, self._without_privacy(site, recipe, steps, flat))
                else:
                    spec = _spec(self._setting, recipe, site, number, steps, noise)
                    mean.add(name, site.engine.train(spec, flat, Keystream.fresh()).delta)
            flat = rule.apply(flat, mean.mean().delta)
        return flat

    def _without_privacy(self, site: Site, recipe: Recipe, steps: int, start: Flat) -> Flat:
        """Gradient steps on the same loss and the same public denominator, without clipping and noise."""
        top, examples = self._top, site.engine.examples
        top.set_flat(start)
        parameters = [p for _, p in top.trained()]
        for _ in range(steps):
            losses = top.record_losses(examples.inputs, examples.targets) * site.units
            gradients = torch.autograd.grad(losses.sum() / site.count, parameters)
            with torch.no_grad():
                for p, g in zip(parameters, gradients, strict=True):
                    p.sub_(g, alpha=recipe.rate)
        return top.get_flat() - start


def _top(setting: Setting) -> Top:
    return TASK.top(setting.model, setting.task, None)


def _site(setting: Setting, frame: pd.DataFrame) -> Site:
    records = load_records(setting.task, Rows(frame))
    units, share = None, torch.ones(len(records))
    count = len(records)
    if setting.group_column is not None:
        units = torch.from_numpy(patient_units(frame[setting.group_column].tolist()))
        sizes = torch.bincount(units)
        count, share = len(sizes), 1.0 / sizes[units].float()
    examples = Examples({"cells": torch.from_numpy(records.cells)}, torch.from_numpy(records.labels), units)
    return Site(Engine(_top(setting), examples), declared_count(count), share)


def _spec(setting: Setting, recipe: Recipe, site: Site, number: int, steps: int, noise: int) -> RoundSpec:
    rate = round(recipe.rate * 1000)
    return RoundSpec(
        round=number,
        attempt=1,
        steps=steps,
        sample_numerator=1,
        sample_denominator=1,
        expected_batch=site.count,
        clip_micro=round((recipe.clip or 0) * MICRO),
        noise_multiplier_micro=noise,
        physical_batch=min(_ROWS, 2 * site.count),
        head_rate_milli=rate,
        adapter_rate_milli=rate,
        unit="record" if setting.group_column is None else "patient",
        records_per_unit=setting.records_per_unit,
        proximal_micro=0,
    )

"""One round of DP-SGD (Abadi et al. 2016, arXiv 1607.00133) with Poisson sampling, from cached inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Literal

import torch

from client.training.conformance import RoundCheck
from client.training.device import autocast, pick_device, send
from client.training.examples import Examples
from client.training.keystream import Stream
from client.training.lattice import Lattice, RoundedGaussian, tv_error_femto
from client.training.opacus_private import LatticeOptimizer, OpacusHooks, StepSeen
from client.training.per_sample.attach import BookKeeping
from client.training.per_sample.probe import records_independent
from client.training.per_sample.summed import SUM_ERROR
from client.training.released import Released
from client.training.sampling import Members, Piece, draw, filled, input_rows, members
from client.training.top import Flat, Top
from client.work import RoundSpec

Method = Literal["book-keeping", "opacus"]
_METHODS: Final[dict[Method, type[BookKeeping | OpacusHooks]]] = {"book-keeping": BookKeeping, "opacus": OpacusHooks}


@lru_cache(maxsize=2)
def _sampler(scale: float) -> RoundedGaussian:
    """Its table takes longer than a step of a small model, and depends on public constants alone."""
    return RoundedGaussian(scale)


def _always() -> None:
    """Nothing speaks against the next batch."""


@dataclass(frozen=True)
class RoundOutcome:
    """`delta` = local - global, float32 (d,). `conformance`: name of each check -> passed (always true: else raised).

    `marks`: fingerprints of what was drawn, by the check that compares them with those of earlier rounds. `non_finite`
    units had no finite gradient in some step. Both stay at the site.
    """

    delta: Flat
    conformance: dict[str, bool]
    marks: dict[str, tuple[str, ...]]
    tv_error_femto: int
    non_finite: int


@dataclass
class Round:
    """A round under way: `step` runs one noisy step on pieces that somebody drew."""

    top: Top
    examples: Examples
    device: torch.device
    source: BookKeeping | OpacusHooks
    optimizer: LatticeOptimizer
    check: RoundCheck
    sampler: RoundedGaussian
    bad: list[torch.Tensor] = field(default_factory=list)

    def step(self, pieces: Sequence[Piece], may_draw: Callable[[], None] = _always) -> None:
        """One noisy step over the physical batches `pieces`, of at most `source.rows` records; also over none.

        Every pass has `source.rows` rows: how many records share it decides nothing, not even at the last bit, where
        libraries choose their kernels by the number of rows.
        """
        optimizer = self.optimizer
        for i, piece in enumerate(pieces):
            may_draw()
            self._backward(piece)
            optimizer.signal_skip_step(i + 1 < len(pieces))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            self.source.begin(0)
        if not pieces:
            optimizer.empty_batch()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.check.released.updated()

    def _backward(self, piece: Piece) -> None:
        """Each unit's gradient of the mean of its records' losses, apart from all others."""
        rows = self.source.rows
        inputs, targets = self.examples.take(filled(piece.records, rows), self.device)
        self.source.begin(rows)
        with autocast(self.device):
            losses = self.top.record_losses(inputs, targets)
        if piece.weights is not None:
            weights = torch.cat([piece.weights, piece.weights.new_zeros(rows - len(piece.weights))])
            losses = losses * send(weights, self.device)
        torch.autograd.backward(losses.sum())
        self.source.finish(None if piece.fold is None else send(piece.fold, self.device), piece.units)


class Engine:
    """The trained top of one study at one site, and the rounds on it."""

    def __init__(
        self,
        top: Top,
        examples: Examples,
        device: torch.device | None = None,
        method: Method = "book-keeping",
    ) -> None:
        """`method`: how per-sample gradients are computed; Opacus' hooks are slower and serve as the oracle."""
        self._top, self.examples = top, examples
        self._device = device or pick_device()
        top.to(self._device)
        self._method = method

    @property
    def device(self) -> str:
        """Where the top is trained: cuda, mps or cpu."""
        return self._device.type

    def train(
        self, spec: RoundSpec, start: Flat, stream: Stream, may_draw: Callable[[], None] = _always
    ) -> RoundOutcome:
        """Run `spec.steps` noisy steps from the global vector `start` and return the difference.

        `may_draw` is called before each batch, before each piece of one that is read, and at the end; what it raises
        ends the round.

        Privacy: every step is a Poisson-subsampled Gaussian with q = sample_numerator / sample_denominator and noise
        multiplier spec.noise_multiplier_micro / 1e6, add/remove one unit; `stream` is the only randomness. The caller
        has charged the ledger. Raises InputError RSD-4501, RSD-4520 to RSD-4529, RunFailed RSD-4500.
        """
        who = members(self.examples, spec.unit)
        with self.opened(spec, start, stream, who) as run:
            for _ in range(spec.steps):
                may_draw()
                mask, pieces = draw(stream, who, spec, run.source.rows)
                run.check.saw_mask(mask)
                run.step(pieces, may_draw)
            may_draw()
            delta = self._top.get_flat() - start
            run.check.released.sent(delta)
            return RoundOutcome(
                delta=delta,
                conformance=run.check.verdict(),
                marks={"fresh_stream": (stream.mark,), **run.check.marks()},
                tv_error_femto=tv_error_femto(run.sampler, start.size, spec.steps),
                non_finite=int(torch.stack(run.bad).sum()),
            )

    @contextmanager
    def opened(self, spec: RoundSpec, start: Flat, stream: Stream, who: Members) -> Iterator[Round]:
        """A round from `start`, with the per-sample rules attached to the top until it is left. Raises as `train`."""
        top = self._top
        top.set_flat(start)
        rows = input_rows(spec, self.examples)
        with _METHODS[self._method](top, top.trained(), rows, spec.records_per_unit) as source:
            lattice, allowance = _lattice(spec, start.size, source)
            independent = records_independent(top, source, self.examples, self._device)
            sampler, bad = _sampler(lattice.scale), list[torch.Tensor]()

            def observe(step: StepSeen) -> None:
                bad.append(step.non_finite)
                check.saw_step(step)

            top.set_flat(start)
            released = Released(spec, top.trained(), lattice)
            check = RoundCheck(spec, who.count, lattice, independent, released, allowance)
            optimizer = LatticeOptimizer(
                self._sgd(spec),
                parameters=top.trained(),
                source=source,
                lattice=lattice,
                noise=lambda count: sampler.sample(stream, count),
                expected_batch=spec.expected_batch,
                observe=observe,
                proximal=spec.proximal_micro / 1e6,
            )
            optimizer.tried = spec.round + spec.attempt
            optimizer.zero_grad(set_to_none=True)
            yield Round(top, self.examples, self._device, source, optimizer, check, sampler, bad)
            optimizer.zero_grad(set_to_none=True)

    def _sgd(self, spec: RoundSpec) -> torch.optim.Optimizer:
        """Plain SGD: the head at one rate, the adapters at another."""
        groups = {True: spec.head_rate_milli / 1000, False: spec.adapter_rate_milli / 1000}
        trained = self._top.trained()
        split = [
            {"params": params, "lr": rate}
            for is_head, rate in groups.items()
            if (params := [p for n, p in trained if n.startswith("head.") == is_head])
        ]
        return torch.optim.SGD(split)


def _lattice(spec: RoundSpec, dimension: int, source: BookKeeping | OpacusHooks) -> tuple[Lattice, float]:
    """The lattice, and how far one summed layer's sum may be from the exact one. Public constants all."""
    clip, layers = spec.clip_micro / 1e6, source.summed
    allowance = clip * SUM_ERROR * max(spec.expected_batch, source.rows) if layers else 0.0
    return Lattice(
        clip, dimension, spec.noise_multiplier_micro / 1e6,
        summed=sum(rows * columns for rows, columns in (layer.shape for layer in layers)),
        sum_error=allowance * math.sqrt(len(layers)),
    ), allowance  # fmt: skip

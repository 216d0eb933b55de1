"""One round of DP-SGD (Abadi et al. 2016, arXiv 1607.00133) with Poisson sampling, from cached inputs."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import torch

from client.training.conformance import RoundCheck
from client.training.device import autocast, pick_device
from client.training.examples import Examples
from client.training.keystream import Stream, poisson_mask
from client.training.lattice import Lattice, RoundedGaussian, tv_error_femto
from client.training.opacus_private import LatticeOptimizer, StepSeen, per_sample
from client.training.top import Flat, Top
from client.work import RoundSpec


def _always() -> None:
    """Nothing speaks against the next batch."""


@dataclass(frozen=True)
class RoundOutcome:
    """`delta` = local - global, float32 (d,). `conformance`: name of each check -> passed (always true: else raised).

    `non_finite` records had no finite gradient in some step; the count stays at the site.
    """

    delta: Flat
    conformance: dict[str, bool]
    tv_error_femto: int
    non_finite: int


class Engine:
    """The trained top of one study at one site, and the rounds on it."""

    def __init__(
        self, top: Top, examples: Examples, device: torch.device | None = None, earlier: Collection[str] = ()
    ) -> None:
        """`earlier`: the marks of streams that served before, in other processes; one of them is never used again."""
        self._top, self.examples = top, examples
        self._device = device or pick_device()
        top.to(self._device)
        self._model = per_sample(top)
        self._marks = set(earlier)

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
        multiplier spec.noise_multiplier_micro / 1e6, add/remove one record; `stream` is the only randomness. The
        caller has charged the ledger. Raises InputError RSD-4501, RunFailed RSD-4500.
        """
        top = self._top
        top.set_flat(start)
        names = [p for _, p in top.trained()]
        lattice = Lattice(spec.clip_micro / 1e6, start.size, spec.noise_multiplier_micro / 1e6)
        sampler = RoundedGaussian(lattice.scale)
        check = RoundCheck(spec, records=len(self.examples), lattice=lattice)
        check.saw_stream(stream.mark, self._marks)
        seen: list[int] = []

        def observe(step: StepSeen) -> None:
            seen.append(step.non_finite)
            check.saw_step(step)

        optimizer = LatticeOptimizer(
            self._sgd(spec),
            parameters=names,
            lattice=lattice,
            noise=lambda count: sampler.sample(stream, count),
            expected_batch=spec.expected_batch,
            observe=observe,
        )
        for _ in range(spec.steps):
            may_draw()
            drawn = poisson_mask(stream, len(self.examples), spec.sample_numerator, spec.sample_denominator)
            self._step(optimizer, torch.from_numpy(np.flatnonzero(drawn)), spec.physical_batch, may_draw)
        may_draw()
        return RoundOutcome(
            delta=top.get_flat() - start,
            conformance=check.verdict(),
            tv_error_femto=tv_error_femto(sampler, start.size, spec.steps),
            non_finite=sum(seen),
        )

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

    def _step(
        self, optimizer: LatticeOptimizer, drawn: torch.Tensor, physical: int, may_draw: Callable[[], None]
    ) -> None:
        """One noisy step over the records at indices `drawn`, in pieces of at most `physical`; also when none is."""
        optimizer.zero_grad(set_to_none=True)
        pieces = list(torch.split(drawn, physical)) if len(drawn) else []
        for i, piece in enumerate(pieces):
            may_draw()
            self._backward(piece)
            optimizer.signal_skip_step(i + 1 < len(pieces))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if not pieces:
            optimizer.empty_batch()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def _backward(self, piece: torch.Tensor) -> None:
        """Per-sample gradients of the loss summed over `piece`, each record's own loss apart from all others."""
        inputs, targets = self.examples.take(piece, self._device)
        with autocast(self._device):
            losses = self._top.record_losses(inputs, targets)
        torch.autograd.backward(losses.sum())

"""The one place that leans on Opacus' inner workings (pinned to 1.6.0, watched by a test).

Opacus computes the per-sample gradients (GradSampleModule) and runs the life of a step (DPOptimizer: accumulate over
physical batches, noise, scale, step, refuse a gradient used twice). Clipping and noise are ours: exact integers on a
lattice, noise from a keystream (client/training/lattice.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from opacus.optimizers.optimizer import _check_processed_flag, _mark_as_processed
from torch import nn

from client.training.lattice import Lattice

Integers = npt.NDArray[np.int64]


class Noise(Protocol):
    """Integer noise in lattice steps. Production passes the sampler of client/training/lattice.py."""

    def __call__(self, count: int) -> Integers:
        """`count` independent samples."""
        ...


@dataclass(frozen=True)
class StepSeen:
    """What one noisy step did, for the conformance checks; stays at the site.

    `clipped` is the exact sum of the clipped gradients and `noisy` what was released, both in lattice steps, (d,).
    `norms`: length of each record's clipped gradient, in lattice steps. `non_finite`: records left out.
    """

    clipped: Integers
    noisy: Integers
    norms: npt.NDArray[np.float64]
    non_finite: int


Observer = Callable[[StepSeen], None]


def per_sample(module: nn.Module) -> Any:
    """Wrap `module` so that a backward pass of a loss SUMMED over records leaves `p.grad_sample`, (n, *p.shape).

    The inputs of trained layers are made to require gradients, which Opacus' backward hooks need on a frozen trunk.
    """
    for layer in module.modules():
        if any(p.requires_grad for p in layer.parameters(recurse=False)):
            if not isinstance(layer, nn.Linear):
                raise TypeError(f"no per-sample rule for a trained {type(layer).__name__}")
            layer.register_forward_pre_hook(_require_input_gradient)
    return GradSampleModule(module, batch_first=True, loss_reduction="sum", strict=True)


def _require_input_gradient(_layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    if torch.is_grad_enabled() and not inputs[0].requires_grad:
        inputs[0].requires_grad_()


class LatticeOptimizer(DPOptimizer):  # type: ignore[misc]
    """DP-SGD whose release is (sum of clipped gradients + noise) on the lattice, over the public expected batch.

    Flat clipping over all parameters in the order given. A record whose gradient is not finite counts as zero. Per
    step: `step()` after each physical batch, `signal_skip_step(True)` before all but the last, `zero_grad()` between;
    `empty_batch()` stands for the backward pass when no record was drawn.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        parameters: Sequence[nn.Parameter],
        lattice: Lattice,
        noise: Noise,
        expected_batch: int,
        observe: Observer,
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=lattice.sigma,
            max_grad_norm=lattice.clip,
            expected_batch_size=expected_batch,
            loss_reduction="sum",
        )
        self._ordered: list[Any] = list(parameters)  # Opacus hangs grad_sample and summed_grad on them
        if {id(p) for p in self.params} != {id(p) for p in self._ordered}:
            raise ValueError("the optimizer must train exactly the parameters that are clipped and noised")
        self._lattice, self._noise, self._observe = lattice, noise, observe
        self._norms: list[npt.NDArray[np.float64]] = []
        self._non_finite = 0

    def empty_batch(self) -> None:
        """Per-sample gradients of zero records."""
        for p in self._ordered:
            p.grad_sample = torch.zeros((0, *p.shape), device=p.device)

    @torch.no_grad()
    def clip_and_accumulate(self) -> None:
        """Clip each record to the clip, round it to the lattice and add it, in int64, to `p.summed_grad`."""
        for p in self._ordered:
            _check_processed_flag(p.grad_sample)
        flat = torch.cat([self._get_flat_grad_sample(p).flatten(1) for p in self._ordered], 1)
        flat = (flat.cpu() if flat.device.type == "mps" else flat).double()  # MPS has no float64
        norms = torch.linalg.vector_norm(flat, dim=1)
        bad = ~torch.isfinite(norms)
        flat[bad] = 0.0
        factor = (self._lattice.clip / norms.clamp_min(self._lattice.clip)).masked_fill(bad, 0.0)
        steps = torch.round(flat * (factor / self._lattice.gamma).unsqueeze(1))
        self._norms.append(torch.linalg.vector_norm(steps, dim=1).cpu().numpy())
        self._non_finite += int(bad.sum())
        for p, part in zip(self._ordered, self._split(steps.sum(0).long()), strict=True):
            p.summed_grad = part if p.summed_grad is None else p.summed_grad + part
            _mark_as_processed(p.grad_sample)

    @torch.no_grad()
    def add_noise(self) -> None:
        """Add integer noise to the integer sum; `p.grad` becomes the float of it."""
        for p in self._ordered:
            _check_processed_flag(p.summed_grad)
        clipped = torch.cat([p.summed_grad.flatten() for p in self._ordered]).cpu().numpy()
        noisy = clipped + self._noise(clipped.size)
        self._observe(StepSeen(clipped, noisy, np.concatenate(self._norms), self._non_finite))
        self._norms, self._non_finite = [], 0
        values = torch.from_numpy(noisy).double() * self._lattice.gamma
        for p, part in zip(self._ordered, self._split(values), strict=True):
            p.grad = part.to(device=p.device, dtype=p.dtype)
            _mark_as_processed(p.summed_grad)

    def scale_grad(self) -> None:
        """Divide by the public expected batch, never by the number of records drawn."""
        for p in self._ordered:
            p.grad /= self.expected_batch_size

    def _split(self, flat: torch.Tensor) -> list[torch.Tensor]:
        sizes = [p.numel() for p in self._ordered]
        return [part.view(p.shape) for part, p in zip(torch.split(flat, sizes), self._ordered, strict=True)]

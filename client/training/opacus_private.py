"""The one place that leans on Opacus' inner workings (pinned to 1.6.0, watched by a test).

Opacus runs the life of a step (DPOptimizer: accumulate over physical batches, noise, scale, step, refuse a gradient
used twice), and its hooks can compute the per-sample gradients: the oracle of our own (client/training/per_sample/).
Clipping and noise are ours: exact integers on a lattice, noise from a keystream (client/training/lattice.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from opacus.optimizers.optimizer import _check_processed_flag, _mark_as_processed
from torch import nn

from client.training.clipping import Factors, clip_rows, factors
from client.training.device import exact, send
from client.training.lattice import Lattice
from client.training.per_sample.summed import SummedLinear, add_up, squared_lengths

Integers = npt.NDArray[np.int64]
Trained = Sequence[tuple[str, nn.Parameter]]
_BLOCK = 1 << 16
_HOOKED = (nn.Linear, nn.LayerNorm, nn.GroupNorm, nn.Conv2d)


class Noise(Protocol):
    """Integer noise in lattice steps. Production passes the sampler of client/training/lattice.py."""

    def __call__(self, count: int) -> Integers:
        """`count` independent samples, free to overwrite."""
        ...


class Source(Protocol):
    """Where the gradients of a pass are: `BookKeeping`, or `OpacusHooks`."""

    @property
    def blocks(self) -> tuple[torch.Tensor, ...]:
        """float32 (units, columns) each, all parameters but the summed ones in the order of the flat vector."""
        ...

    @property
    def summed(self) -> tuple[SummedLinear, ...]:
        """Layers that are summed in two phases."""
        ...

    def begin(self, records: int) -> None:
        """Start a pass."""
        ...

    def squared_norms(self) -> torch.Tensor:
        """float64 (units,), over all parameters."""
        ...


@dataclass(frozen=True)
class StepSeen:
    """What one noisy step did, for the conformance checks; stays at the site, on the device.

    `clipped` is the exact sum of the clipped gradients and `noisy` what was released, both int64 (d,) in lattice steps.
    `norms` float64: length of each unit's clipped gradient, in lattice steps. `non_finite`: units left out.
    `sum_error`: of the summed layer that was tried on public factors in this step, its distance from float64.
    """

    clipped: torch.Tensor
    noisy: torch.Tensor
    norms: torch.Tensor
    non_finite: torch.Tensor
    sum_error: torch.Tensor


Observer = Callable[[StepSeen], None]


class OpacusHooks:
    """Per-sample gradients by Opacus' hooks, with the interface of `BookKeeping`; slower. The tests' oracle.

    The inputs of trained layers are made to require gradients, which Opacus' backward hooks need on a frozen trunk.
    Raises TypeError for a trained layer other than Linear, LayerNorm, GroupNorm, Conv2d.
    """

    summed: tuple[SummedLinear, ...] = ()

    def __init__(self, model: nn.Module, trained: Trained, physical: int, least: int = 1) -> None:
        """As `BookKeeping`."""
        self.rows, self._trained = max(physical, least), trained
        self._model, self._layers, self._handles = model, [], list[Any]()
        for layer in model.modules():
            if any(p.requires_grad for p in layer.parameters(recurse=False)):
                if not isinstance(layer, _HOOKED):
                    raise TypeError(f"no per-sample rule for a trained {type(layer).__name__}")
                self._layers.append(layer)
        self._wrapped: Any = None
        self._rows, self._units = torch.empty(0, 0), 0

    def __enter__(self) -> OpacusHooks:
        """Add the hooks."""
        self._handles = [layer.register_forward_pre_hook(_require_input_gradient) for layer in self._layers]
        self._wrapped = GradSampleModule(self._model, batch_first=True, loss_reduction="sum", strict=True)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Take them away."""
        self._wrapped.to_standard_module()
        for handle in self._handles:
            handle.remove()

    def begin(self, records: int) -> None:
        """Forget the pass before."""
        for _, p in self._trained:
            p.grad_sample = None  # type: ignore[attr-defined]
        self._units = records
        self._rows = torch.zeros(records, sum(p.numel() for _, p in self._trained), device=self._trained[0][1].device)

    def finish(self, fold: torch.Tensor | None = None, units: int | None = None) -> None:
        """Gather the rows, and add up each unit's records; see `BookKeeping.finish`."""
        self._rows = torch.cat([_grad_sample(p).flatten(1) for _, p in self._trained], 1)
        self._units = len(self._rows) if units is None else units
        add_up(self._rows, fold, self._units)

    @property
    def flat(self) -> torch.Tensor:
        """float32 (units, d)."""
        return self._rows[: self._units]

    @property
    def blocks(self) -> tuple[torch.Tensor, ...]:
        """`flat`, as the one block that there is."""
        return (self.flat,)

    def squared_norms(self) -> torch.Tensor:
        """float64 (units,)."""
        return squared_lengths(self._rows)[: self._units]


def _grad_sample(parameter: Any) -> torch.Tensor:
    found: torch.Tensor = parameter.grad_sample
    return found.float()


def _require_input_gradient(_layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    if torch.is_grad_enabled() and not inputs[0].requires_grad:
        inputs[0].requires_grad_()


class LatticeOptimizer(DPOptimizer):  # type: ignore[misc]
    """DP-SGD whose release is (sum of clipped gradients + noise) on the lattice, over the public expected batch.

    Flat clipping over all parameters in the order given. A unit whose gradient is not finite counts as zero. Per step:
    `step()` after each physical batch, `signal_skip_step(True)` before all but the last, `zero_grad()` between;
    `empty_batch()` stands for the backward pass when no unit was drawn. Nothing waits for the device.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        parameters: Trained,
        source: Source,
        lattice: Lattice,
        noise: Noise,
        expected_batch: int,
        observe: Observer,
        proximal: float = 0.0,
    ) -> None:
        """`proximal`: FedProx's mu; the pull is towards the parameters as they are now."""
        super().__init__(
            optimizer,
            noise_multiplier=lattice.sigma,
            max_grad_norm=lattice.clip,
            expected_batch_size=expected_batch,
            loss_reduction="sum",
        )
        self._named = [name for name, _ in parameters]
        self._ordered: list[Any] = [p for _, p in parameters]  # Opacus hangs grad_sample and summed_grad on them
        if {id(p) for p in self.params} != {id(p) for p in self._ordered}:
            raise ValueError("the optimizer must train exactly the parameters that are clipped and noised")
        self._source, self._lattice, self._noise, self._observe = source, lattice, noise, observe
        self._proximal = proximal
        self.tried = 0  # which of the summed layers, counted round, is tried in the first pass
        self._untried = True
        self._start = self._weights().clone() if proximal else None
        self._clear()

    def _clear(self) -> None:
        """Start a logical batch. Its sums take no memory before its first backward pass is over."""
        device = exact(self._ordered[0].detach()).device
        self._total: torch.Tensor | None = None
        self._sums: list[torch.Tensor] = []
        self._norms: list[torch.Tensor] = []
        self._non_finite = torch.zeros((), dtype=torch.int64, device=device)
        self._sum_error = torch.zeros((), dtype=torch.float64, device=device)

    def empty_batch(self) -> None:
        """Per-sample gradients of zero records."""
        self._source.begin(0)
        for p in self._ordered:
            p.grad_sample = torch.zeros((0, *p.shape), device=p.device)

    @torch.no_grad()
    def clip_and_accumulate(self) -> None:
        """Clip each unit to the clip, round it to the lattice and add it, in int64; summed layers in float64."""
        for p in self._ordered:
            _check_processed_flag(p.grad_sample)
        by = factors(self._source.squared_norms(), self._lattice)
        total = self._summed_up()
        squared = self._add_large(by) if len(by.bad) else torch.zeros(0, dtype=torch.float64, device=by.bad.device)
        blocks = self._source.blocks
        for block, into in zip(blocks, torch.split(total, [b.shape[1] for b in blocks]), strict=True):
            out = clip_rows(block, by)
            into.add_(out.total)
            squared += out.lengths * out.lengths
        self._norms.append(squared.sqrt())
        self._non_finite += by.bad.sum()
        for p in self._ordered:
            p.summed_grad = total
            _mark_as_processed(p.grad_sample)

    def _summed_up(self) -> torch.Tensor:
        """int64: what was accumulated of this logical batch, but for the summed layers; zeros at first."""
        if self._total is None:
            device = self._non_finite.device
            sizes = [rows * cols for rows, cols in (s.shape for s in self._source.summed)]
            columns = sum(p.numel() for p in self._ordered) - sum(sizes)
            self._total = torch.zeros(columns, dtype=torch.int64, device=device)
            self._sums = [torch.zeros(size, dtype=torch.float64, device=device) for size in sizes]
        return self._total

    def _add_large(self, by: Factors) -> torch.Tensor:
        """Add the summed layers; float64 (units,): squared length of each unit's clipped gradient in them, in steps."""
        squared = torch.zeros(len(by.bad), dtype=torch.float64, device=by.bad.device)
        for i, (layer, into) in enumerate(zip(self._source.summed, self._sums, strict=True)):
            squared += layer.add_clipped(into, by, self._lattice.gamma)
            if self._untried and i == self.tried % len(self._sums):
                self._sum_error += exact(layer.sum_error(self._lattice.clip))
        self._untried = False
        return squared

    def _clipped(self) -> torch.Tensor:
        """int64 (d,): what was accumulated, in the order of the parameters."""
        total = self._summed_up()
        if not self._sums:
            return total
        large = {layer.name: s for layer, s in zip(self._source.summed, self._sums, strict=True)}
        sizes = [p.numel() for p in self._ordered]
        small = zip(self._named, sizes, strict=True)
        flat = iter(torch.split(total, [size for n, size in small if n not in large]))
        out = torch.empty(sum(sizes), dtype=torch.int64, device=total.device)
        for name, part in zip(self._named, torch.split(out, sizes), strict=True):
            part.copy_(large[name].mul_(1 / self._lattice.gamma).round_() if name in large else next(flat))
        return out

    @torch.no_grad()
    def add_noise(self) -> None:
        """Add integer noise to the integer sum; `p.grad` becomes the float of it."""
        for p in self._ordered:
            _check_processed_flag(p.summed_grad)
        clipped = self._clipped()
        noisy = send(torch.from_numpy(self._noise(clipped.numel())), clipped.device).add_(clipped)
        self._observe(StepSeen(clipped, noisy, torch.cat(self._norms), self._non_finite, self._sum_error))
        self._clear()
        device = self._ordered[0].device
        self._released = _floats(noisy, self._lattice.gamma).to(device, non_blocking=True)
        parts = torch.split(self._released, [p.numel() for p in self._ordered])
        for p, part in zip(self._ordered, parts, strict=True):
            p.grad = part.view(p.shape)
            _mark_as_processed(p.summed_grad)

    @torch.no_grad()
    def scale_grad(self) -> None:
        """Divide by the public expected batch, never by the number of units drawn; then FedProx's pull, if any.

        The pull is a function of released values only, so it costs no privacy.
        """
        self._released.div_(self.expected_batch_size)  # p.grad are views of it
        if self._start is not None:
            self._released.add_(self._weights() - self._start, alpha=self._proximal)
        del self._released

    def _weights(self) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in self._ordered])


def _floats(steps: torch.Tensor, gamma: float) -> torch.Tensor:
    """float32(steps * gamma) of int64 (d,), each product in float64; on a CPU by blocks that stay in its cache."""
    out = torch.empty(len(steps), dtype=torch.float32, device=steps.device)
    width = _BLOCK if steps.device.type == "cpu" else max(1, len(steps))
    for some, part in zip(torch.split(steps, width), torch.split(out, width), strict=True):
        part.copy_(some.double().mul_(gamma))
    return out

"""Does a record's gradient depend on that record only? Tried on public inputs before a round trains."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from client.training.device import autocast, exact
from client.training.examples import Examples, Inputs
from client.training.top import Top

RECORDS = 2
TOKENS = 3  # of a text, at most: the least that leaves each record two
TOLERANCE = 1e-3  # float32 differs by 1e-6 between batch sizes; a mean over the batch's tokens by a factor
TOLERANCE_BF16 = 5e-2


class Source(Protocol):
    """See client.training.per_sample.attach.BookKeeping."""

    def begin(self, records: int) -> None:
        """Start a pass."""
        ...

    def finish(self, fold: torch.Tensor | None = None, units: int | None = None) -> None:
        """End it."""
        ...

    @property
    def flat(self) -> torch.Tensor:
        """(units, columns)."""
        ...

    def squared_norms(self) -> torch.Tensor:
        """(units,)."""
        ...


def records_independent(top: Top, source: Source, examples: Examples, device: torch.device) -> torch.Tensor:
    """Whether the first public record has the same loss and gradient alone and beside another: a bool tensor.

    A loss averaged over the tokens of a batch, BatchNorm, dropout and anything else that mixes records or draws chance
    fails. The inputs have the shapes and types of the site's, texts cut short, and nothing else of them; the parameters
    are a public pattern. Leaves the top's parameters changed.
    """
    top.set_flat(pattern(sum(p.numel() for _, p in top.trained())))
    tokens = examples.inputs["mask"].shape[1] if "mask" in examples.inputs else None
    likes = {name: _short(t, tokens) for name, t in sorted(examples.inputs.items())}
    inputs = {name: _public(name, t, i) for i, (name, t) in enumerate(likes.items())}
    targets = _public("targets", _short(examples.targets, tokens), len(inputs))
    found = [_gradient(top, source, inputs, targets, n, device) for n in (1, RECORDS)]
    tolerance = TOLERANCE_BF16 if device.type == "cuda" else TOLERANCE
    verdict = torch.ones((), dtype=torch.bool, device=exact(found[0][0]).device)
    for alone, beside in zip(*found, strict=True):
        verdict = verdict & _close(alone, beside, tolerance)
    return verdict


def pattern(size: int) -> npt.NDArray[np.float32]:
    """Small waves, made in place."""
    wave = np.arange(size, dtype=np.float64)
    wave *= 1.7
    np.sin(wave, out=wave)
    wave *= 0.1
    return wave.astype(np.float32)


def _short(rows: torch.Tensor, tokens: int | None) -> torch.Tensor:
    """Without the tokens after the first few, where the second dimension is the tokens, or all but the first."""
    missing = None if tokens is None or rows.dim() < 2 else tokens - rows.shape[1]
    return rows[:, : TOKENS - missing] if missing in (0, 1) else rows


def _public(name: str, like: torch.Tensor, phase: int) -> torch.Tensor:
    """Records that anybody can write down: waves; 0 and 1 where numbers name things; masks that grow shorter."""
    shape = (RECORDS, *like.shape[1:])
    if name.endswith("mask"):
        shorter = np.arange(RECORDS).reshape(-1, *[1] * (len(shape) - 1))
        found = np.broadcast_to(np.arange(shape[-1]) < np.maximum(shape[-1] - shorter, 1), shape)
    else:
        wave = np.sin(np.arange(int(np.prod(shape))) * (1.3 + phase) + phase).reshape(shape)
        found = wave if like.is_floating_point() else wave > 0
    return torch.from_numpy(np.array(found)).to(like.dtype)


def _gradient(
    top: Top, source: Source, inputs: Inputs, targets: torch.Tensor, count: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Loss, gradient in the buffer and length of the whole gradient of the first of `count` records."""
    source.begin(count)
    with autocast(device):
        losses = top.record_losses({k: t[:count].to(device) for k, t in inputs.items()}, targets[:count].to(device))
    torch.autograd.backward(losses.sum())
    source.finish()
    return losses.detach()[0].clone(), source.flat[0].clone(), exact(source.squared_norms()[0]).sqrt()


def _close(alone: torch.Tensor, beside: torch.Tensor, tolerance: float) -> torch.Tensor:
    """Relative to the length; false for what is not finite."""
    alone, beside = exact(alone).double().flatten(), exact(beside).double().flatten()
    scale = torch.linalg.vector_norm(alone)
    near: torch.Tensor = torch.linalg.vector_norm(alone - beside) <= tolerance * scale + 1e-12
    return near

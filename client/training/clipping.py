"""Clip every unit's gradient and sum: float32 in, exact integers out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

from client.training.device import exact
from client.training.lattice import Lattice

_BLOCK: Final = 1 << 12  # columns at a time on a CPU: the block stays in the cache
_EXACT_ROWS: Final = 256  # integers of at most 2^16 in size, so many of them, sum exactly in float32


@dataclass(frozen=True)
class Clipped:
    """`total` int64 (d,): the sum over units of the rounded clipped gradients, in lattice steps.

    `lengths` float64 (units,): of each unit's rounded gradient, in lattice steps, measured after the rounding.
    `bad` bool (units,): the gradient was not finite; it counts as zero.
    """

    total: torch.Tensor
    lengths: torch.Tensor
    bad: torch.Tensor


@dataclass(frozen=True)
class Factors:
    """What each unit's gradient is multiplied by. `plain` float32 (units,): at most clip / length. `bad`: see above.

    `steps` float32: the same over gamma. Both are rounded down, so no length exceeds the clip by their doing.
    """

    plain: torch.Tensor
    steps: torch.Tensor
    bad: torch.Tensor


def factors(squared: torch.Tensor, lattice: Lattice) -> Factors:
    """From squared lengths, float64 (units,): min(1, clip / length); 0 where the length is not finite."""
    lengths = squared.sqrt()
    bad = ~torch.isfinite(lengths)
    factor = torch.where(bad, 0.0, lattice.clip / lengths.clamp_min(lattice.clip))
    return Factors(_down(factor), _down(factor / lattice.gamma), bad)


def _down(x: torch.Tensor) -> torch.Tensor:
    """The greatest float32 at or below each non-negative float64."""
    near = x.float()
    return torch.where(near.double() > x, torch.nextafter(near, torch.zeros_like(near)), near)


def clip_rows(flat: torch.Tensor, by: Factors) -> Clipped:
    """Scale, round and sum the rows of `flat`, float32 (units, d), which is overwritten.

    Each product is an integer of at most 2^16 after rounding (its row is no longer than the clip, which is at most 2^16
    lattice steps), so float32 holds it exactly, and sums of up to 256 rows; more are summed in int64.
    """
    flat = exact(flat)
    units, d = flat.shape
    total = torch.zeros(d, dtype=torch.int64, device=flat.device)
    squared = torch.zeros(units, dtype=torch.float64, device=flat.device)
    width = _BLOCK if flat.device.type == "cpu" else max(1, d)
    factor = by.steps.unsqueeze(1)
    for at in range(0, d, width):
        block = flat[:, at : at + width]
        block.mul_(factor).round_().nan_to_num_(0.0)  # only a bad row, whose factor is 0, can hold inf * 0
        length = torch.linalg.vector_norm(block, dim=1, dtype=torch.float64)
        squared += length * length
        for rows in torch.split(block, _EXACT_ROWS):
            total[at : at + width] += rows.sum(0).long()
    return Clipped(total, squared.sqrt(), by.bad)

"""Large trained linear layers in two phases: norms first, then one weighted sum over the records.

A record's gradient of the weight is left^T right, (rows, columns), with left (T, rows) and right (T, columns). Its norm
comes from the two Gram matrices of T x T, or from the gradient itself where that is cheaper; the sum over records with
their clipping factors is one matrix product. No (n, rows, columns) is kept; the gradient itself is made in blocks.
"""

from __future__ import annotations

from typing import Final

import torch

from client.training.device import exact

UNIT = 2.0**-24  # float32's unit roundoff
SUM_ERROR = 2.0**-19  # allowance for one layer's sum over one record, relative to the clip; see `SummedLinear`

_EACH_BYTES: Final = 64 << 20  # of a layer's gradients record by record, at a time


class SummedLinear:
    """The factors of one layer's per-sample gradients during a pass, several if the layer is used more than once.

    Rounding. The norm that is reported is an upper bound, so that no factor is too large: with m = sum over positions
    of |left_t| |right_t|, the Gram sums in float32 are within (rows + columns + 2 T + 8) 2^-24 m^2 of the squared norm
    (Higham, Accuracy and Stability, section 3.1: any order of summation), which is added. The weighted sum over units
    is taken in float32 and NOT rounded unit by unit: its error is allowed for in the sensitivity
    (client/training/lattice.py), 2^-19 of the clip for each unit of the public batch, and the check `sum_error`
    measures it against float64.
    """

    def __init__(self, name: str, shape: tuple[int, int]) -> None:
        self.name, self.shape = name, shape
        self._left: list[torch.Tensor] = []
        self._right: list[torch.Tensor] = []
        self._fold: torch.Tensor | None = None
        self.squared = torch.zeros(0)  # what `squared_norms` returned last

    @property
    def filled(self) -> bool:
        """Whether anything was kept since `begin`."""
        return bool(self._left)

    def begin(self) -> None:
        """Forget the pass before."""
        self._left, self._right, self._fold = [], [], None

    def keep(self, left: torch.Tensor, right: torch.Tensor) -> None:
        """(n, T, rows) and (n, T, columns) of one use of the layer."""
        self._left.append(left.detach().float())
        self._right.append(right.detach().float())

    def squared_norms(self, fold: torch.Tensor | None, units: int) -> torch.Tensor:
        """float64 (units,): upper bounds of the squared norms. `fold`, `units`: see `BookKeeping.finish`."""
        left, right = self._factors()
        self._fold = fold
        if fold is None and gram_is_cheaper(left.shape[1], *self.shape):
            self.squared = _gram_bound(left, right)[:units]
            return self.squared
        total = torch.zeros(len(left), dtype=torch.float64, device=exact(left).device)
        width = max(1, _EACH_BYTES // (4 * len(left) * self.shape[0]))
        for some in torch.split(right, width, 2):
            each = torch.bmm(left.transpose(1, 2), some).flatten(1)
            add_up(each, fold, units)
            total += squared_lengths(each)
        self.squared = total[:units]
        return self.squared

    def weighted_sum(self, factors: torch.Tensor) -> torch.Tensor:
        """float32 (rows * columns,): sum over units of factor * gradient; what is not finite counts as zero."""
        return self._sum(factors.to(self._left[0].device), torch.float32)

    def sum_error(self, factors: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
        """float64 scalar: distance of `found` from the same sum in float64."""
        error: torch.Tensor = torch.linalg.vector_norm(self._sum(exact(factors), torch.float64) - exact(found).double())
        return error

    def _sum(self, factors: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """In `dtype`. Only a unit with factor 0 holds inf or NaN, and 0 * inf is no number: both sides are cleared."""
        left, right = (t.to(factors.device, dtype) for t in self._factors())
        parts = [factors.to(dtype)] if self._fold is None else [factors, factors[self._fold.to(factors.device)]]
        known = torch.cat(parts).to(dtype)
        by_record = torch.cat([known, known.new_zeros(len(left) - len(known))])  # a filler counts for nothing
        scaled = (left * by_record[:, None, None]).nan_to_num_(0.0, 0.0, 0.0).flatten(0, 1)
        return torch.mm(scaled.t(), torch.nan_to_num(right, 0.0, 0.0, 0.0).flatten(0, 1)).flatten()

    def _factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """One pair for all uses of the layer: uses are further positions."""
        if len(self._left) > 1:
            self._left, self._right = [torch.cat(self._left, 1)], [torch.cat(self._right, 1)]
        return self._left[0], self._right[0]


def add_up(rows: torch.Tensor, fold: torch.Tensor | None, units: int) -> None:
    """Add row `units + i` to row fold[i], in place; nothing without a fold."""
    if fold is not None:
        rows[:units].index_add_(0, fold, rows[units : units + len(fold)])


def gram_is_cheaper(positions: int, rows: int, columns: int) -> bool:
    """Whether two Gram matrices cost fewer products, and less memory, than the gradient of a record."""
    return positions * (rows + columns) < rows * columns


def _gram_bound(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    positions, rows, columns = left.shape[1], left.shape[2], right.shape[2]
    grams = torch.bmm(left, left.transpose(1, 2)).mul_(torch.bmm(right, right.transpose(1, 2)))
    mass = (torch.linalg.vector_norm(left, dim=2) * torch.linalg.vector_norm(right, dim=2)).sum(1)
    mass = exact(mass).double()
    slack = 1.01 * (rows + columns + 2 * positions + 8) * UNIT  # 1 %: the rounding of the mass itself
    return exact(grams.sum(2).sum(1)).double().clamp_min(0.0) + slack * mass.square()


def squared_lengths(flat: torch.Tensor, block: int = 1 << 14) -> torch.Tensor:
    """float64 (n,): squared length of each row of float32 (n, d), accumulated in float64 over cache-sized blocks."""
    flat = exact(flat)
    total = torch.zeros(len(flat), dtype=torch.float64, device=flat.device)
    width = block if flat.device.type == "cpu" else max(1, flat.shape[1])
    for at in range(0, flat.shape[1], width):
        total += torch.linalg.vector_norm(flat[:, at : at + width], dim=1, dtype=torch.float64).square()
    return total

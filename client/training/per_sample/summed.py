"""Large trained linear layers in two phases: norms first, then one weighted sum over the records.

A record's gradient of the weight is left^T right, (rows, columns), with left (T, rows) and right (T, columns). Its norm
comes from the two Gram matrices of T x T, or from the gradient itself where that is cheaper; the sum over records with
their clipping factors is one matrix product. No (n, rows, columns) is kept where Gram norms are.
"""

from __future__ import annotations

import torch

from client.training.device import exact

UNIT = 2.0**-24  # float32's unit roundoff
SUM_ERROR = 2.0**-19  # allowance for one layer's sum over one record, relative to the clip; see `SummedLinear`


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
        self._each: torch.Tensor | None = None
        self.squared = torch.zeros(0)  # what `squared_norms` returned last

    @property
    def filled(self) -> bool:
        """Whether anything was kept since `begin`."""
        return bool(self._left) or self._each is not None

    def begin(self) -> None:
        """Forget the pass before."""
        self._left, self._right, self._each = [], [], None

    def keep(self, left: torch.Tensor, right: torch.Tensor) -> None:
        """(n, T, rows) and (n, T, columns) of one use of the layer."""
        self._left.append(left.detach().float())
        self._right.append(right.detach().float())

    def squared_norms(self, fold: torch.Tensor | None) -> torch.Tensor:
        """float64 (units,): upper bounds of the squared norms. `fold`: see `BookKeeping.finish`."""
        left, right = self._factors()
        if fold is None and gram_is_cheaper(left.shape[1], *self.shape):
            self.squared = _gram_bound(left, right)
            return self.squared
        each = torch.bmm(left.transpose(1, 2), right).flatten(1)
        if fold is not None:
            units = len(each) - len(fold)
            each[:units].index_add_(0, fold, each[units:])
            each = each[:units]
        self._each, self._left, self._right = each, [], []
        self.squared = squared_lengths(each)
        return self.squared

    def weighted_sum(self, factors: torch.Tensor) -> torch.Tensor:
        """float32 (rows * columns,): sum over units of factor * gradient; what is not finite counts as zero."""
        return self._sum(factors.to(self._device), torch.float32)

    def sum_error(self, factors: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
        """float64 scalar: distance of `found` from the same sum in float64."""
        error: torch.Tensor = torch.linalg.vector_norm(self._sum(exact(factors), torch.float64) - exact(found).double())
        return error

    def _sum(self, factors: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """In `dtype`. Only a unit with factor 0 holds inf or NaN, and 0 * inf is no number: both sides are cleared."""
        factors = factors.to(dtype)
        if self._each is not None:
            return torch.mv(torch.nan_to_num(self._each.to(factors.device, dtype), 0.0, 0.0, 0.0).t(), factors)
        left, right = (t.to(factors.device, dtype) for t in self._factors())
        scaled = (left * factors[:, None, None]).nan_to_num_(0.0, 0.0, 0.0).flatten(0, 1)
        return torch.mm(scaled.t(), torch.nan_to_num(right, 0.0, 0.0, 0.0).flatten(0, 1)).flatten()

    @property
    def _device(self) -> torch.device:
        return (self._left[0] if self._each is None else self._each).device

    def _factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """One pair for all uses of the layer: uses are further positions."""
        if len(self._left) > 1:
            self._left, self._right = [torch.cat(self._left, 1)], [torch.cat(self._right, 1)]
        return self._left[0], self._right[0]


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

"""Large trained linear layers in two phases: norms first, then one sum over the records.

A record's gradient of the weight is left^T right, (rows, columns), with left (T, rows) and right (T, columns). No
(n, rows, columns) is kept. Where two Gram matrices of T x T cost less than the gradient, and every record is its own
unit, they give the norm, and the sum with the clipping factors is one matrix product. Else the gradients are made in
blocks, once for the norms and once more to be clipped, rounded to the lattice and added as those of small layers are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from torch.nn.functional import pad

from client.training.clipping import Factors, clip_rows
from client.training.device import exact

UNIT = 2.0**-24  # float32's unit roundoff
SUM_ERROR = 2.0**-19  # allowance for one layer's sum over one record, relative to the clip; see `SummedLinear`
FLOOR: Final = 2.0**-4  # of a record's mass, below which its length is not taken to be; see `SummedLinear`

_EACH_BYTES: Final = 64 << 20  # of a layer's gradients record by record, at a time
Grams = dict[tuple[int, tuple[int, ...]], tuple[torch.Tensor, torch.Tensor]]
_LINE: Final = 16  # float32 of 64 bytes: see products.whole_lines


class SummedLinear:
    """The factors of one layer's per-sample gradients during a pass, several if the layer is used more than once.

    Rounding, in blocks: none that counts. Both phases make the same bits; the factor follows from their length, and
    what is added are integers. A sum over units that is taken in float32 would be wrong here: where a unit's positions
    cancel, its gradient is small and its factor 1 however large the products are that are rounded on the way.

    Rounding, by Gram matrices: the length that is reported is an upper bound, so that no factor is too large. With the
    record's mass m = sum over positions of |left_t| |right_t|, the Gram sums in float32 are within
    (rows + columns + 2 T + 8) 2^-24 m^2 of the squared length (Higham, Accuracy and Stability, section 3.1: any order
    of summation), which is added; and no length is taken to be below 2^-4 m. The sum over records is taken in float32
    and NOT rounded record by record. By that floor a record's products, times its factor, have a mass of at most 16
    times the clip, so that rounding one partial sum of them costs at most 16 * 2^-24 of the clip, half the allowance
    that the sensitivity holds for each record of the public batch (client/training/lattice.py). That the T roundings of
    a record stay within the allowance together is measured, not proved: below a sixth of it where positions cancel,
    also where half of them are equal and all records too. Roundings that all conspire would exceed it (any order: up to
    2^-24 of the mass for each product in the sum). `sum_error` measures this machine's product, on public factors that
    cancel down to the floor: what it tells follows no data.
    """

    def __init__(self, name: str, shape: tuple[int, int]) -> None:
        self.name, self.shape = name, shape
        self._left: list[torch.Tensor] = []
        self._right: list[torch.Tensor] = []
        self._fold: torch.Tensor | None = None
        self._positions, self._by_gram = 0, False
        self._squared = torch.zeros(0)  # what `squared_norms` returned last

    @property
    def filled(self) -> bool:
        """Whether anything was kept since `begin`."""
        return bool(self._left)

    def begin(self) -> None:
        """Forget the pass before."""
        self._left, self._right, self._fold, self._positions = [], [], None, 0

    def keep(self, left: torch.Tensor, right: torch.Tensor) -> None:
        """(n, T, rows) and (n, T, columns) of one use of the layer."""
        left, right = (t.detach().float().contiguous() for t in (left, right))
        self._positions += left.shape[1]
        if left.shape[1] * self.shape[0] % _LINE or right.shape[1] * self.shape[1] % _LINE:
            left, right = (pad(t, (0, 0, 0, -t.shape[1] % _LINE)) for t in (left, right))
        self._left.append(left)
        self._right.append(right)

    def squared_norms(self, fold: torch.Tensor | None, units: int, known: Grams | None = None) -> torch.Tensor:
        """float64 (units,): squared lengths, or upper bounds of them. `fold`, `units`: see `BookKeeping.finish`.

        `known`: what was computed of the inputs of other layers in this pass; an input that layers share is there once.
        """
        left, right = self._factors()
        self._fold = fold
        self._by_gram = fold is None and gram_is_cheaper(self._positions, *self.shape)
        if self._by_gram:
            self._squared = _gram_bound(left, right, {} if known is None else known)[:units]
            return self._squared
        total = torch.zeros(units, dtype=torch.float64, device=exact(left).device)
        for each in self._blocks(units):
            total += squared_lengths(each)
        return total

    def add_clipped(self, into: torch.Tensor, by: Factors, gamma: float) -> torch.Tensor:
        """Add the sum of the clipped gradients to `into`, float64 (rows * columns,), after `squared_norms`.

        float64 (units,): squared length of each unit's clipped gradient, in lattice steps of `gamma`.
        """
        if self._by_gram:
            into.add_(exact(self.weighted_sum(by.plain)))
            return (self._squared * by.steps.double().square()).masked_fill(by.bad, 0.0)
        squared, at = torch.zeros(len(by.bad), dtype=torch.float64, device=by.bad.device), 0
        whole = into.view(self.shape)
        for each in self._blocks(len(by.bad)):
            out = clip_rows(each, by)
            columns = out.total.view(self.shape[0], -1)
            whole[:, at : at + columns.shape[1]].add_(columns, alpha=gamma)
            squared += out.lengths * out.lengths
            at += columns.shape[1]
        return squared

    def weighted_sum(self, factors: torch.Tensor) -> torch.Tensor:
        """float32 (rows * columns,): sum over records of factor * gradient; what is not finite counts as zero."""
        return self._sum(factors.to(self._left[0].device), torch.float32)

    def sum_error(self, clip: float) -> torch.Tensor:
        """float64 scalar: how far `weighted_sum` is from float64 on public records of the shape of this pass; 0 if the
        pass takes no such sum. The second half of their positions all but cancels the first."""
        if not self._by_gram:
            return torch.zeros((), dtype=torch.float64, device=exact(self._left[0]).device)
        public = SummedLinear(self.name, self.shape)
        left, right = (_waves(t, phase) for phase, t in enumerate(self._factors()))
        half = left.shape[1] // 2
        left[:, half : 2 * half] = left[:, :half]
        right[:, half : 2 * half].mul_(FLOOR).sub_(right[:, :half])
        public.keep(left, right)
        factors = (clip / public.squared_norms(None, len(left)).sqrt().clamp_min(clip)).float()
        found, true = exact(public.weighted_sum(factors)), public._sum(exact(factors), torch.float64)
        error: torch.Tensor = torch.linalg.vector_norm(true - found.double())
        return error

    def _sum(self, factors: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """In `dtype`. Only a unit with factor 0 holds inf or NaN, and 0 * inf is no number: both sides are cleared."""
        left, right = (t.to(factors.device, dtype) for t in self._factors())
        known = factors.to(dtype)
        by_record = torch.cat([known, known.new_zeros(len(left) - len(known))])  # a filler counts for nothing
        scaled = (left * by_record[:, None, None]).nan_to_num_(0.0, 0.0, 0.0).flatten(0, 1)
        return torch.mm(scaled.t(), torch.nan_to_num(right, 0.0, 0.0, 0.0).flatten(0, 1)).flatten()

    def _blocks(self, units: int) -> Iterator[torch.Tensor]:
        """float32 (units, rows * some columns): each unit's gradient, some columns after the other; the same each time.

        Free to overwrite.
        """
        left, right = self._factors()
        width = max(_LINE, _EACH_BYTES // (4 * len(left) * self.shape[0]) // _LINE * _LINE)
        for some in torch.split(right, width, 2):
            each = torch.bmm(left.transpose(1, 2), some).flatten(1)
            add_up(each, self._fold, units)
            yield each[:units]

    def _factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """One pair for all uses of the layer: uses are further positions."""
        if len(self._left) > 1:
            self._left, self._right = [torch.cat(self._left, 1)], [torch.cat(self._right, 1)]
        return self._left[0], self._right[0]


def _waves(like: torch.Tensor, phase: int) -> torch.Tensor:
    """Numbers that anybody can write down, in the shape of `like` and nothing else of it."""
    at = torch.arange(like.numel(), dtype=torch.float32, device=like.device)
    return torch.sin((at % 8191) * (1.3 + phase)).view(like.shape)


def add_up(rows: torch.Tensor, fold: torch.Tensor | None, units: int) -> None:
    """Add row `units + i` to row fold[i], in place; nothing without a fold."""
    if fold is not None:
        rows[:units].index_add_(0, fold, rows[units : units + len(fold)])


def gram_is_cheaper(positions: int, rows: int, columns: int) -> bool:
    """Whether two Gram matrices cost fewer products, and less memory, than the gradient of a record."""
    return positions * (rows + columns) < rows * columns


def _gram_bound(left: torch.Tensor, right: torch.Tensor, known: Grams) -> torch.Tensor:
    positions, rows, columns = left.shape[1], left.shape[2], right.shape[2]
    key = (right.data_ptr(), tuple(right.shape))  # contiguous, and kept by its layer until the pass is over
    if key not in known:
        known[key] = torch.bmm(right, right.transpose(1, 2)), torch.linalg.vector_norm(right, dim=2)
    gram, lengths = known[key]
    grams = torch.bmm(left, left.transpose(1, 2)).mul_(gram)
    mass = (torch.linalg.vector_norm(left, dim=2) * lengths).sum(1)
    mass = exact(mass).double()
    slack = 1.01 * (rows + columns + 2 * positions + 8) * UNIT  # 1 %: the rounding of the mass itself
    squared = exact(grams.sum(2).sum(1)).double().clamp_min(0.0) + slack * mass.square()
    return torch.maximum(squared, (1.01 * FLOOR * mass).square())


def squared_lengths(flat: torch.Tensor, block: int = 1 << 14) -> torch.Tensor:
    """float64 (n,): squared length of each row of float32 (n, d), accumulated in float64 over cache-sized blocks."""
    flat = exact(flat)
    total = torch.zeros(len(flat), dtype=torch.float64, device=flat.device)
    width = block if flat.device.type == "cpu" else max(1, flat.shape[1])
    for at in range(0, flat.shape[1], width):
        length = torch.linalg.vector_norm(flat[:, at : at + width], dim=1, dtype=torch.float64)
        total += length * length
    return total

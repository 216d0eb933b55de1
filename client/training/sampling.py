"""Which units take part in a step, with which records, cut into physical batches that hold whole units."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import ndtr

from client.training.examples import Examples
from client.training.keystream import Stream, poisson_mask
from client.work import RoundSpec
from compliance.errors import InputError

Indices = npt.NDArray[np.int64]

_TILE: Final = 16  # rows: with fewer, matrix libraries treat a row by its place in the pass
_PASS_NUMBERS: Final = 1 << 16  # a pass costs about what so many input numbers cost on top of those that it holds
_MOST_PASSES: Final = 32


@dataclass(frozen=True)
class Piece:
    """One physical batch: the indices `records`, the first record of each of its `units` first.

    Record `units + i` belongs to the same unit as record fold[i]. `weights` float32: one over the number of records
    of the unit, so that a unit's loss is the mean over its records. Both None where every record is its own unit.
    """

    records: torch.Tensor
    units: int
    fold: torch.Tensor | None = None
    weights: torch.Tensor | None = None


@dataclass(frozen=True)
class Members:
    """The records of each unit: `order[starts[u] : starts[u + 1]]` for unit u."""

    order: Indices
    starts: Indices

    @property
    def count(self) -> int:
        """How many units there are."""
        return len(self.starts) - 1


def members(examples: Examples, unit: str) -> Members:
    """Who is a unit of these examples. Raises InputError RSD-4526: patients are claimed, the records name none."""
    if unit == "record":
        return Members(np.arange(len(examples)), np.arange(len(examples) + 1))
    if examples.units is None:
        raise InputError(
            "RSD-4526", "the study protects patients, and the records name none", rule="privacy unit patient",
            found="no patient column", limit="the patient of each record",
            next="register the dataset with its patient column",
        )  # fmt: skip
    units = examples.units.numpy()
    starts = np.concatenate([[0], np.cumsum(np.bincount(units))])
    return Members(np.argsort(units, kind="stable"), starts.astype(np.int64))


def pass_rows(spec: RoundSpec, numbers: int) -> int:
    """Records that every pass of the round holds, fillers included: public, a function of the study and its inputs.

    `numbers`: how many input numbers a record has. At most `physical_batch`; among the multiples of 16 the one with
    the least expected cost, where the records of a step are normal with the mean and variance that the study's rate
    gives (a patient is taken to bring half of what it may). Whether the guess is good decides speed alone.
    """
    share = (1 + spec.records_per_unit) / 2
    rate = spec.sample_numerator / spec.sample_denominator
    mean, deviation = spec.expected_batch * share, share * np.sqrt(spec.expected_batch * (1 - rate))
    most = spec.physical_batch
    tried = {r for r in (*range(_TILE, most, _TILE), most) if r * _MOST_PASSES >= mean and r >= spec.records_per_unit}
    if deviation == 0.0:
        tried |= {r for r in (int(mean),) if _TILE <= r <= most}
    overhead = _PASS_NUMBERS / max(1, numbers)

    def cost(rows: int) -> float:
        filled_before = np.arange(0, mean + 6 * deviation, rows)  # one more pass if there are more records than these
        passes = float(ndtr((mean - filled_before) / deviation).sum()) if deviation else len(filled_before)
        return passes * (rows + overhead)

    return min(sorted(tried, reverse=True), key=cost, default=most)


def input_rows(spec: RoundSpec, examples: Examples) -> int:
    """`pass_rows` for records like these, of which the shape alone is read."""
    return pass_rows(spec, sum(t.shape[1:].numel() for t in examples.inputs.values()))


def filled(records: torch.Tensor, rows: int) -> torch.Tensor:
    """The indices, and the last of them again until there are `rows`; what the repeated ones yield is dropped."""
    return torch.cat([records, records[-1:].expand(rows - len(records))])


def draw(stream: Stream, who: Members, spec: RoundSpec, rows: int) -> tuple[npt.NDArray[np.bool_], list[Piece]]:
    """The units of a step, as a mask over them, and their records in physical batches of at most `rows` records.

    Poisson over units; a unit with more than `records_per_unit` records contributes so many, chosen uniformly without
    replacement. No unit is split: `rows` is at least `records_per_unit`.
    """
    mask = poisson_mask(stream, who.count, spec.sample_numerator, spec.sample_denominator)
    if spec.unit == "record":
        drawn = torch.from_numpy(np.flatnonzero(mask))
        return mask, [Piece(records, len(records)) for records in torch.split(drawn, rows)] if len(drawn) else []
    chosen = [_some(stream, who.order[who.starts[u] : who.starts[u + 1]], spec) for u in np.flatnonzero(mask)]
    return mask, [_piece(batch) for batch in _packed(chosen, rows)]


def _some(stream: Stream, records: Indices, spec: RoundSpec) -> Indices:
    if records.size <= spec.records_per_unit:
        return records
    return records[np.argsort(stream.words(records.size), kind="stable")[: spec.records_per_unit]]


def _packed(chosen: list[Indices], rows: int) -> Iterator[list[Indices]]:
    """Consecutive units, as many as fit."""
    batch: list[Indices] = []
    filled = 0
    for records in chosen:
        if batch and filled + records.size > rows:
            yield batch
            batch, filled = [], 0
        batch.append(records)
        filled += records.size
    if batch:
        yield batch


def _piece(batch: list[Indices]) -> Piece:
    rest = [records[1:] for records in batch]
    fold = np.repeat(np.arange(len(batch)), [r.size for r in rest])
    sizes = np.array([r.size for r in batch])
    records = np.concatenate([np.array([r[0] for r in batch]), *rest])
    weights = 1.0 / np.concatenate([sizes, sizes[fold]])
    return Piece(
        torch.from_numpy(records), len(batch), torch.from_numpy(fold), torch.from_numpy(weights.astype(np.float32))
    )

"""Which units take part in a step, with which records, cut into physical batches that hold whole units."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from client.training.examples import Examples
from client.training.keystream import Stream, poisson_mask
from client.work import RoundSpec
from compliance.errors import InputError

Indices = npt.NDArray[np.int64]


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

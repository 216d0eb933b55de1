"""Is what a record yields the same at every bit, at every place of a pass and beside any others? Tried at a join.

Matrix libraries choose kernels by shapes, addresses and threads, so it is tried with the passes that training and
evaluation will make, on this machine. Two passes hold one public record at all even places, then at all odd ones, and
other public records between: every place is tried, and each time with other neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import torch

from client.training.device import autocast
from client.training.examples import Examples, Inputs
from client.training.families import blocks_of, kind_of, run
from client.training.fast_products import fast_products
from client.training.per_sample.attach import BookKeeping
from client.training.per_sample.probe import pattern
from client.training.top import Top
from compliance.errors import InputError

Yields = Callable[[Inputs], Sequence[torch.Tensor]]
_NAMED: Final = ("ids", "input_ids", "targets")  # numbers that name something: any model knows 0 and 1


def check_trunk_places(model: Any, layers: int, like: Inputs) -> None:
    """The frozen part in passes of as many rows as `like` has: embeddings and the first block (the others are alike),
    or all blocks of a network of convolutions. Raises InputError RSD-2343."""
    left_out = layers if kind_of(model) == "resnet" else max(layers, len(blocks_of(model)) - 1)
    _same_everywhere("the frozen part's output", like, lambda rows: [run(model, left_out, rows)])


def check_top_places(
    top: Top, examples: Examples, device: torch.device, physical: int, least: int, evaluated: int
) -> None:
    """The gradients, their lengths and the losses in passes of `physical` rows, or of what fits but `least`; the scores
    in passes of `evaluated`. Leaves the top's parameters changed. Raises InputError RSD-2343."""
    top.set_flat(pattern(sum(p.numel() for _, p in top.trained())))
    like = {**examples.inputs, "targets": examples.targets}

    def scores(rows: Inputs) -> Sequence[torch.Tensor]:
        with torch.no_grad(), autocast(device), fast_products(top):
            return [top({name: t for name, t in rows.items() if name != "targets"})]

    with BookKeeping(top, top.trained(), physical, least) as source:

        def gradients(rows: Inputs) -> Sequence[torch.Tensor]:
            source.begin(source.rows)
            with autocast(device):
                losses = top.record_losses({k: t for k, t in rows.items() if k != "targets"}, rows["targets"])
            torch.autograd.backward(losses.sum())
            source.finish()
            return [losses.detach(), *source.blocks, source.squared_norms()]

        _same_everywhere("a gradient", _some(like, source.rows, device), gradients)
    _same_everywhere("a score", _some(like, evaluated, device), scores)


def _some(like: Inputs, rows: int, device: torch.device) -> Inputs:
    """The shapes of `rows` records."""
    return {name: torch.empty((rows, *t.shape[1:]), dtype=t.dtype, device=device) for name, t in like.items()}


def _same_everywhere(what: str, like: Inputs, yields: Yields) -> None:
    """Every part of what one public record yields, (rows, ...), is the same bits in each row that holds it."""
    first: list[torch.Tensor] = []
    for rows, here in _passes(like):
        found = yields(rows)
        first = first or [part[here][0].clone() for part in found]
        if not all(bool((part[here] == one).all()) for part, one in zip(found, first, strict=True)):
            raise InputError(
                "RSD-2343", "what a record yields follows its place on this machine", rule="the same bits at every "
                "place of a pass and beside any other records", found=f"{what} with other bits at another place",
                limit="no bit", next="have the study name a physical_batch that is a multiple of 16, or start the "
                "agent with another number of threads",
            )  # fmt: skip


def _passes(like: Inputs) -> Iterator[tuple[Inputs, torch.Tensor]]:
    """The rows of both passes, and which of them, bool (rows,), hold the record."""
    count = len(next(iter(like.values())))
    for odd in (0, 1):
        here = np.arange(count) % 2 == odd
        if here.any():
            numbers = np.where(here, 0, np.arange(count) + 1 + odd * count)
            yield {name: _public(name, t, numbers) for name, t in sorted(like.items())}, torch.from_numpy(here)


def _public(name: str, like: torch.Tensor, numbers: np.ndarray[Any, np.dtype[np.int64]]) -> torch.Tensor:
    """Records that anybody can write down, one for each number."""
    size = like[0].numel()
    at, row = np.arange(size), numbers[:, None]
    wave = np.sin(at * (0.7 + row % 97 / 61) + row)
    if name.endswith("mask"):
        found = at < np.maximum(size - (size // 3 + row) % size, 1)
    elif like.is_floating_point():
        found = wave
    else:
        found = (wave > 0) & (name in _NAMED)
    return torch.from_numpy(found.reshape(like.shape)).to(like.device, like.dtype)

"""Is what the checks saw what was released? Parameters after each step, recomputed from the noised sum they saw."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from client.training.device import exact
from client.training.lattice import Lattice
from client.training.opacus_private import Trained
from client.work import RoundSpec

if TYPE_CHECKING:
    from client.training.top import Flat

_SHARED: Final = 1024  # coordinates, in proportion to the parameters' sizes
_EACH: Final = 16  # and so many of every parameter at least
_ULP: Final = 2.0**-22  # of the parameter before and after: two roundings, with room
_SLACK: Final = 2.0**-20  # of the change and of its parts: their few roundings, in any order


class Released:
    """Follows some coordinates of every parameter: w - rate * (noised sum / public batch + mu (w - w_start)).

    All numbers but the noised sum are the study's; they lie on `device`. Nothing waits for the device before `as_seen`.
    """

    def __init__(self, spec: RoundSpec, trained: Trained, lattice: Lattice) -> None:
        """Called where the round starts: the parameters are the global ones."""
        parameters = [p.detach().view(-1) for _, p in trained]
        d = sum(p.numel() for p in parameters)
        strides = [max(1, p.numel() // max(_EACH, _SHARED * p.numel() // d)) for p in parameters]
        self._followed = [p[::stride] for p, stride in zip(parameters, strides, strict=True)]  # views: they move along
        offsets = np.cumsum([0, *(p.numel() for p in parameters)])[:-1].tolist()
        self._places = torch.cat(
            [torch.arange(at, at + p.numel(), n) for at, p, n in zip(offsets, parameters, strides, strict=True)]
        )
        self._start = self._before = self._now()
        self.device = device = self._start.device
        rates = (spec.adapter_rate_milli / 1000, spec.head_rate_milli / 1000)
        by = [rates[name.startswith("head.")] for name, _ in trained]
        self._rates = torch.cat([torch.full((len(p),), r) for p, r in zip(self._followed, by, strict=True)]).double()
        self._rates, self._on_device = self._rates.to(device), self._places.to(device)
        self._by_step = self._rates * (lattice.gamma / spec.expected_batch)
        self._mu = spec.proximal_micro / 1e6
        self._seen: torch.Tensor | None = None
        self._excess = torch.zeros((), dtype=torch.float64, device=device)
        self._complete, self._delta = True, False

    def _now(self) -> torch.Tensor:
        return exact(torch.cat(self._followed)).double()

    def noised(self, noisy: torch.Tensor) -> None:
        """What the checks saw as this step's release, int64 (d,) in lattice steps."""
        self._complete &= self._seen is None
        self._seen = noisy.index_select(0, self._on_device)

    def updated(self) -> None:
        """The step's update is made."""
        if self._seen is None:
            self._complete = False
            return
        before, after = self._before, self._now()
        move = self._seen * self._by_step
        room = move.abs() * _SLACK + (before.abs() + after.abs()) * _ULP
        if self._mu:
            pull, most = (before - self._start) * self._mu, (before.abs() + self._start.abs()) * self._mu
            move, room = move + pull * self._rates, room + most * self._rates * _SLACK
        self._excess = torch.maximum(self._excess, ((after - before + move).abs() - room).amax())  # NaN stays
        self._before, self._seen = after, None

    def sent(self, delta: Flat) -> None:
        """What leaves, float32 (d,): where the parameters are less where they were."""
        found = torch.from_numpy(delta[self._places.numpy()]).double()
        start, end = self._start.cpu(), self._before.cpu()
        room = (start.abs() + end.abs()) * _ULP
        self._delta = bool(((found - (end - start)).abs() <= room).all())

    def as_seen(self) -> bool:
        """Whether every step released what was seen, and what leaves is their sum."""
        return self._complete and self._seen is None and self._delta and float(self._excess) <= 0.0

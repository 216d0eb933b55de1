"""What every trained top has in common: its parameters as one flat vector, and a loss for each record."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from client.training.examples import Inputs
from compliance.canonical import canonical, sha256_hex
from compliance.errors import InputError
from compliance.messages import LayoutEntry

Flat = npt.NDArray[np.float32]
Layout = tuple[LayoutEntry, ...]
MOST_VALUE: Final = 1e4  # of a global vector; what is trained stays far below, and rounding errors grow with it


class Top(nn.Module, ABC):
    """The part of a model that a site trains, from the frozen part's output to the loss of each record.

    What a record yields depends on that record only: no BatchNorm, no dropout, no mean over a batch. A subclass says
    what the scores are (`forward`), what a record's loss is, and which parameters are trained under which name.

    The flat vector starts at zero. A parameter that does not start at zero stands in it as its difference from where
    it started (`start_here`).
    """

    def __init__(self) -> None:
        super().__init__()
        self._start: dict[str, torch.Tensor] = {}

    @abstractmethod
    def forward(self, inputs: Inputs) -> torch.Tensor:
        """Scores of the n records in `inputs`, (n, ...)."""

    @abstractmethod
    def record_losses(self, inputs: Inputs, targets: torch.Tensor) -> torch.Tensor:
        """float32 (n,): the loss of each record, a mean within the record (over its tokens, say), never across."""

    @abstractmethod
    def trained_names(self) -> dict[str, str]:
        """Name in the layout -> name of the parameter in this module, in the order of the flat vector."""

    def a_widths(self) -> dict[str, int]:
        """Name in the layout of a LoRA B -> width of its frozen A."""
        return {}

    def trained(self) -> list[tuple[str, nn.Parameter]]:
        """The trained parameters, under their names in the layout, in the order of the flat vector."""
        parameters = dict(self.named_parameters())
        return [(name, parameters[own]) for name, own in self.trained_names().items()]

    def layout(self) -> Layout:
        """Names and shapes of the trained parameters, in the order of the flat vector. Public."""
        widths = self.a_widths()
        return tuple(LayoutEntry(name=n, shape=tuple(p.shape), a_width=widths.get(n)) for n, p in self.trained())

    def start_here(self, names: Iterable[str]) -> None:
        """From now on, zero in the flat vector stands for the present values of the parameters of these names."""
        parameters = dict(self.trained())
        self._start = {n: parameters[n].detach().clone().float().cpu() for n in names}

    def get_flat(self) -> Flat:
        """All trained parameters as one float32 vector, shape (d,)."""
        return torch.cat([self._moved(n, p.detach().float().cpu()).flatten() for n, p in self.trained()]).numpy()

    def _moved(self, name: str, value: torch.Tensor) -> torch.Tensor:
        return value - self._start[name] if name in self._start else value

    def set_flat(self, flat: Flat) -> None:
        """Load a vector in the layout. Raises InputError RSD-4501 (wrong length or type, not finite, above 1e4)."""
        d = sum(p.numel() for _, p in self.trained())
        fits = flat.dtype == np.float32 and flat.shape == (d,)
        if not fits or not (np.abs(flat) <= MOST_VALUE).all():  # NaN is not at most anything
            raise InputError(
                "RSD-4501", "the global model does not fit", rule="a bounded float32 vector in the study's layout",
                found=f"{flat.dtype}{list(flat.shape)}", limit=f"float32[{d}], each value from -1e4 to 1e4",
                next="the operator must start the run with the model that the study pins",
            )  # fmt: skip
        at = 0
        with torch.no_grad():
            for name, p in self.trained():
                value = torch.from_numpy(flat[at : at + p.numel()].copy()).view_as(p)
                p.copy_(value + self._start[name] if name in self._start else value)
                at += p.numel()

    def close_to_batches(self) -> None:
        """Refuse, once built, what would make a record's gradient depend on chance or on other records (ValueError)."""
        for name, module in self.named_modules():
            if (isinstance(module, nn.Dropout) and module.p) or "BatchNorm" in type(module).__name__:
                raise ValueError(f"{name} makes a record's gradient depend on chance or on other records")


def layout_sha256(layout: Layout) -> str:
    """SHA-256 of the canonical JSON of [[name, [shape]], ...]."""
    return sha256_hex(canonical([[e.name, list(e.shape)] for e in layout]))


def top_tensors(top: Top) -> dict[str, torch.Tensor]:
    """All its tensors by name, frozen and trained, on the CPU."""
    return {name: t.detach().cpu().contiguous() for name, t in top.state_dict().items()}

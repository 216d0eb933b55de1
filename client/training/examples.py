"""A site's records as the trained top takes them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

Inputs = dict[str, torch.Tensor]  # by name, each (n, ...): row i of every tensor belongs to record i


@dataclass(frozen=True)
class Examples:
    """n records: the top's `inputs`, and what each is to say, `targets` (n, ...).

    `units`: int64 (n,), the privacy unit (patient) of each record, numbered from 0 without gaps; None: each record is
    a unit of its own.
    """

    inputs: Inputs
    targets: torch.Tensor
    units: torch.Tensor | None = None

    def __post_init__(self) -> None:
        lengths = {len(t) for t in self.inputs.values()} | {len(self.targets)}
        if self.units is not None:
            lengths.add(len(self.units))
        if len(lengths) != 1:
            raise ValueError("every tensor of the examples has one row a record")

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, records: torch.Tensor, device: torch.device) -> tuple[Inputs, torch.Tensor]:
        """Inputs and targets of the records at these indices, on `device`."""
        inputs = {name: t[records].to(device, non_blocking=True) for name, t in self.inputs.items()}
        return inputs, self.targets[records].to(device, non_blocking=True)

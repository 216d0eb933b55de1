"""Where per-sample gradients go: one flat float32 buffer, and a window on it for each parameter."""

from __future__ import annotations

import torch

from compliance.errors import InputError


class Slot:
    """One parameter's columns of the buffer. A second use of the parameter within a pass adds to the first.

    `begin` starts a pass over n records; `filled` says whether anything was written since.
    """

    def __init__(self, name: str, parameter: torch.Tensor, columns: torch.Tensor) -> None:
        """`columns`: (rows, parameter.numel()), a view of the buffer."""
        self.name, self._shape, self._columns = name, tuple(parameter.shape), columns
        self._view = columns[:0].view(0, *self._shape)
        self.filled = False

    def begin(self, records: int) -> None:
        """Make room for `records` gradients; nothing is cleared, the first write overwrites."""
        self._view = self._columns[:records].view(records, *self._shape)
        self.filled = False

    @property
    def gradients(self) -> torch.Tensor:
        """(n, *shape), a view."""
        return self._view

    def add(self, gradients: torch.Tensor) -> None:
        """Each record's gradient, (n, *shape)."""
        into = self._view
        if self.filled:
            into.add_(gradients)
        else:
            into.copy_(gradients)
        self.filled = True

    def add_product(self, left: torch.Tensor, right: torch.Tensor, scale: float = 1.0) -> None:
        """`scale` * left @ right for each record: (n, rows, k) and (n, k, columns), summed over k."""
        into = self._view.view(len(left), left.shape[1], -1)
        if left.dtype != into.dtype:  # bfloat16 under autocast: the product is rounded once, the sums are float32
            self.add(torch.bmm(left, right).to(into.dtype).mul_(scale).view_as(self._view))
        elif into.shape[2] < into.shape[1] and right.shape[1] > 1:
            # A narrow result (LoRA's B) is several times faster computed transposed.
            self.add(torch.bmm(right.transpose(1, 2), left.transpose(1, 2)).mul_(scale).transpose(1, 2))
        else:
            into.baddbmm_(left, right, beta=1.0 if self.filled else 0.0, alpha=scale)
            self.filled = True


class Pass:
    """The records of the pass at hand, for the layers to check their inputs against."""

    def __init__(self) -> None:
        self.records = 0

    def check(self, x: torch.Tensor, layer: str) -> None:
        """Raises InputError RSD-4527 if the first dimension is not the records, while gradients are taken."""
        if torch.is_grad_enabled() and (x.dim() < 2 or x.shape[0] != self.records):
            raise InputError(
                "RSD-4527", "a trained layer is not fed record by record", rule="first dimension: one row a record",
                found=layer, limit="one row for each record of the physical batch",
                next="expand shared inputs (such as position ids) to one row a record, or freeze the layer",
            )  # fmt: skip


def by_record(x: torch.Tensor) -> torch.Tensor:
    """(n, ..., k) as (n, positions, k)."""
    return x.reshape(len(x), -1, x.shape[-1])


def cast(x: torch.Tensor, *weights: torch.Tensor | None) -> list[torch.Tensor]:
    """`x` and the weights in the type that autocast wants on this device; unchanged without autocast."""
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    return [t if t is None or dtype is None else t.to(dtype) for t in (x, *weights)]  # type: ignore[misc]

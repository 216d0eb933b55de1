"""Where per-sample gradients go: float32 blocks of columns, and a window on its block for each parameter."""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from client.training.per_sample.products import ALIGNED, whole_lines
from compliance.errors import InputError


class Block:
    """Some consecutive parameters' columns of the gradients: in memory from its first use in a pass to `begin`.

    A backward pass frees inputs as it makes gradients, so that the gradients lie where the inputs lay.
    """

    def __init__(self, columns: int, device: torch.device) -> None:
        self.columns, self._device = columns, device
        self._records = 0
        self._held: torch.Tensor | None = None

    def begin(self, records: int) -> None:
        """Let go of the pass before; the next one is over `records` records."""
        self._records, self._held = records, None

    @property
    def gradients(self) -> torch.Tensor:
        """float32 (n, columns). Nothing is cleared: the first write overwrites."""
        if self._held is None:
            self._held = torch.empty((self._records, self.columns), dtype=torch.float32, device=self._device)
        return self._held


class Slot:
    """One parameter's columns of a block. A second use of the parameter within a pass adds to the first.

    `begin` starts a pass; `filled` says whether anything was written since.
    """

    def __init__(self, name: str, parameter: torch.Tensor, block: Block, at: int) -> None:
        """`at`: the parameter's first column in its block."""
        self.name, self._shape, self._block = name, tuple(parameter.shape), block
        self._from, self._to = at, at + parameter.numel()
        self.filled = False

    def begin(self) -> None:
        """Start a pass, after its block has."""
        self.filled = False

    @property
    def gradients(self) -> torch.Tensor:
        """(n, *shape), a view."""
        rows = self._block.gradients
        return rows[:, self._from : self._to].view(len(rows), *self._shape)

    def add(self, gradients: torch.Tensor) -> None:
        """Each record's gradient, (n, *shape)."""
        into = self.gradients
        if self.filled:
            into.add_(gradients)
        else:
            into.copy_(gradients)
        self.filled = True

    def add_product(self, left: torch.Tensor, right: torch.Tensor, scale: float = 1.0) -> None:
        """`scale` * left @ right for each record: (n, rows, k) and (n, k, columns), summed over k.

        Each record's matrices, the result's too, start at a 64-byte boundary: see `whole_lines`.
        """
        view = self.gradients
        into = view.view(len(left), left.shape[1], -1)
        rows, columns = into.shape[1:]
        left, right = whole_lines(left.transpose(1, 2)).transpose(1, 2), whole_lines(right)
        if left.shape[1] * right.shape[2] % ALIGNED:  # the results start where they end
            right = pad(right, (0, -right.shape[2] % ALIGNED))
        fits = left.dtype == into.dtype and left.shape[1] == rows and right.shape[2] == columns
        if fits and columns < rows and right.shape[1] > 1:
            # A narrow result (LoRA's B) is several times faster computed transposed.
            self.add(torch.bmm(right.transpose(1, 2), left.transpose(1, 2)).mul_(scale).transpose(1, 2))
        elif fits and self._from % ALIGNED == 0 and self._block.columns % ALIGNED == 0:
            into.baddbmm_(left, right, beta=1.0 if self.filled else 0.0, alpha=scale)
            self.filled = True
        else:
            # bfloat16 under autocast: the product is rounded once, the sums are float32
            product = torch.bmm(left, right)[:, :rows, :columns]
            self.add(product.to(into.dtype).mul_(scale).reshape(view.shape))


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

"""Matrix products with weights, by the faster of the libraries that torch brings."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, pad

_BUILT: Final = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
_ONEDNN: Final[Any] = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if _BUILT else None
ALIGNED: Final = 16
_WORTH: Final = 1 << 27  # multiplications from which what oneDNN keeps of each shape pays


def affine(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x W^T + b for float32 or bfloat16 x (n, in) and W (out, in), which may be a transposed view.

    On a CPU, oneDNN does float32 products a fifth to a third faster than torch's default (MKL), on AMD at least; the
    operation is the one that torch's own compiler emits. Elsewhere, and where it is missing, `linear`.

    Where `in` is no multiple of 16, zeros make it one: for few outputs MKL treats a row by its address, and a record
    would have other last bits at another place of the pass.
    """
    if missing := -x.shape[1] % ALIGNED:
        x, weight = pad(x, (0, missing)), pad(weight, (0, missing))
    if _ONEDNN is None or x.device.type != "cpu" or x.dtype != torch.float32 or x.shape[0] * weight.numel() < _WORTH:
        return linear(x, weight, bias)
    out: torch.Tensor = _ONEDNN(x, weight, bias, "none", [], "")
    return out


def whole_lines(x: torch.Tensor) -> torch.Tensor:
    """(n, positions, width) with zeros behind the width, so that each record's matrix starts at a 64-byte boundary.

    Itself where it does: in a product of many small matrices, MKL treats each by the address at which it starts.
    """
    if x.shape[1] * x.shape[2] % ALIGNED == 0:
        return x
    return pad(x, (0, -x.shape[2] % ALIGNED))


class FrozenSite:
    """A frozen linear layer on the way: no gradient of its own, `affine` for the products."""

    def __init__(self, layer: nn.Linear) -> None:
        self.weight, self.bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Replaces the layer's forward."""
        if torch.is_autocast_enabled(x.device.type):
            return linear(x, self.weight, self.bias)
        out: torch.Tensor = _Frozen.apply(x, self)  # type: ignore[no-untyped-call]
        return out


class _Frozen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, site: FrozenSite) -> torch.Tensor:
        ctx.site = site
        return affine(x.reshape(-1, x.shape[-1]), site.weight, site.bias).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        flat = grad.reshape(-1, grad.shape[-1])
        return affine(flat, ctx.site.weight.t()).view(*grad.shape[:-1], -1), None

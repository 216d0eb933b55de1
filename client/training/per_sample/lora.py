"""LoRA on a frozen linear layer, base and low rank in one operation: y = W x + b + s B (A x)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from client.training.per_sample.products import affine
from client.training.per_sample.slots import Pass, Slot, cast


@dataclass(frozen=True)
class LoraSite:
    """One adapted layer: frozen `weight` (out, in) and `bias`, the adapter's A (r, in), B (out, r) and s = `scale`.

    `slot_a`, `slot_b`: where the trained factors' gradients go; None for a frozen one.
    """

    name: str
    weight: torch.Tensor
    bias: torch.Tensor | None
    a: torch.Tensor
    b: torch.Tensor
    scale: float
    slot_a: Slot | None
    slot_b: Slot | None
    at: Pass

    def forward(self, x: torch.Tensor, *_args: Any, **_more: Any) -> torch.Tensor:
        """Replaces the forward of peft's layer."""
        self.at.check(x, self.name)
        out: torch.Tensor = _Lora.apply(x, self.a, self.b, self)  # type: ignore[no-untyped-call]
        return out


class _Lora(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, _a: torch.Tensor, _b: torch.Tensor, site: LoraSite) -> torch.Tensor:
        cast_x, weight, bias, a, b = cast(x, site.weight, site.bias, site.a, site.b)
        flat = cast_x.reshape(-1, cast_x.shape[-1])
        y = affine(flat, weight, bias)
        low = affine(flat, a)
        y.addmm_(low, b.t(), alpha=site.scale)
        ctx.site, ctx.shape = site, x.shape
        ctx.save_for_backward(flat if site.slot_a else None, low if site.slot_b else None)
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None]:
        site: LoraSite = ctx.site
        x, low = ctx.saved_tensors
        n = ctx.shape[0]
        flat = grad.reshape(-1, grad.shape[-1])
        weight, a, b = (t.to(grad.dtype) for t in (site.weight, site.a, site.b))
        needs_x = ctx.needs_input_grad[0]
        low_grad = affine(flat, b.t()).mul_(site.scale) if needs_x or site.slot_a else None
        if site.slot_a and low_grad is not None:
            site.slot_a.add_product(
                low_grad.view(n, -1, low_grad.shape[-1]).transpose(1, 2), x.view(n, -1, x.shape[-1])
            )
        if site.slot_b:
            by_record = flat.view(n, -1, flat.shape[-1])
            site.slot_b.add_product(by_record.transpose(1, 2), low.view(n, -1, low.shape[-1]), site.scale)
        if not needs_x or low_grad is None:
            return None, None, None, None
        return affine(flat, weight.t()).addmm_(low_grad, a).view(ctx.shape), None, None, None

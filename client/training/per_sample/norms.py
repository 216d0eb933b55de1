"""Trained LayerNorm and GroupNorm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from client.training.per_sample.slots import Pass, Slot


@dataclass(frozen=True)
class NormSite:
    """One trained norm: `slot` of its weight, `slot_bias` of its bias; None where frozen or absent."""

    name: str
    layer: nn.LayerNorm | nn.GroupNorm
    slot: Slot | None
    slot_bias: Slot | None
    at: Pass

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Replaces the layer's forward. float32, as autocast has it for norms."""
        self.at.check(x, self.name)
        rule = _LayerNorm if isinstance(self.layer, nn.LayerNorm) else _GroupNorm
        x = x.float() if torch.is_autocast_enabled(x.device.type) else x
        out: torch.Tensor = rule.apply(x, self.layer.weight, self.layer.bias, self)  # type: ignore[no-untyped-call]
        return out


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, site: NormSite
    ) -> torch.Tensor:
        layer: Any = site.layer
        y, mean, rstd = torch.native_layer_norm(x, layer.normalized_shape, weight, bias, layer.eps)
        ctx.site = site
        ctx.save_for_backward(x, mean, rstd)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None]:
        site: NormSite = ctx.site
        x, mean, rstd = ctx.saved_tensors
        layer: Any = site.layer
        shape = layer.normalized_shape
        if site.slot:
            site.slot.add(_positions((x - mean).mul_(rstd).mul_(grad), len(shape)))
        if site.slot_bias:
            site.slot_bias.add(_positions(grad, len(shape)))
        out = None
        if ctx.needs_input_grad[0]:
            mask = [True, False, False]
            out = torch.ops.aten.native_layer_norm_backward(grad, x, shape, mean, rstd, layer.weight, layer.bias, mask)[
                0
            ]
        return out, None, None, None


def _positions(grad: torch.Tensor, kept: int) -> torch.Tensor:
    """Sum over all dimensions between the records and the last `kept`."""
    between = tuple(range(1, grad.dim() - kept))
    return grad.sum(between) if between else grad


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, site: NormSite
    ) -> torch.Tensor:
        x = x.contiguous()
        n, c = x.shape[:2]
        groups = int(site.layer.num_groups)  # type: ignore[arg-type]
        y, mean, rstd = torch.native_group_norm(x, weight, bias, n, c, x[0, 0].numel(), groups, site.layer.eps)
        ctx.site = site
        ctx.save_for_backward(x, mean, rstd)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None]:
        site: NormSite = ctx.site
        x, mean, rstd = ctx.saved_tensors
        n, c = x.shape[:2]
        groups = int(site.layer.num_groups)  # type: ignore[arg-type]
        grad = grad.contiguous()
        if site.slot:
            each = (x.view(n, groups, -1) - mean.unsqueeze(2)).mul_(rstd.unsqueeze(2))
            site.slot.add(each.view(n, c, -1).mul_(grad.view(n, c, -1)).sum(2))
        if site.slot_bias:
            site.slot_bias.add(grad.view(n, c, -1).sum(2))
        out = None
        if ctx.needs_input_grad[0]:
            mask, size = [True, False, False], x[0, 0].numel()
            out = torch.ops.aten.native_group_norm_backward(
                grad, x, mean, rstd, site.layer.weight, n, c, size, groups, mask
            )[0]
        return out, None, None, None

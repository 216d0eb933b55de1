"""Trained 2-D convolution: unfolded inputs times the outputs' gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import conv2d, pad, unfold

from client.training.per_sample.products import ALIGNED
from client.training.per_sample.slots import Pass, Slot, cast


@dataclass(frozen=True)
class ConvSite:
    """One trained convolution with zero padding given in numbers; any stride, dilation and groups."""

    name: str
    layer: nn.Conv2d
    slot: Slot | None
    slot_bias: Slot | None
    at: Pass

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Replaces the layer's forward."""
        self.at.check(x, self.name)
        out: torch.Tensor = _Conv.apply(x, self.layer.weight, self.layer.bias, self)  # type: ignore[no-untyped-call]
        return out

    def keep(self, x: torch.Tensor, grad: torch.Tensor) -> None:
        """Take in the inputs (n, C, H, W) and the outputs' gradients (n, O, h, w)."""
        layer, n, groups = self.layer, len(x), self.layer.groups
        if self.slot_bias:
            self.slot_bias.add(grad.flatten(2).sum(2, dtype=torch.float32))
        if self.slot:
            columns = unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # type: ignore[arg-type]
            patches = columns.reshape(n * groups, -1, columns.shape[-1])
            outputs = grad.reshape(n * groups, layer.out_channels // groups, -1)
            if missing := -outputs.shape[2] % ALIGNED:  # see `whole_lines`
                outputs, patches = pad(outputs, (0, missing)), pad(patches, (0, missing))
            product = torch.bmm(outputs, patches.transpose(1, 2))
            self.slot.add(product.view(n, *layer.weight.shape))


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, site: ConvSite
    ) -> torch.Tensor:
        x, weight, bias = cast(x, weight, bias)
        layer = site.layer
        ctx.site = site
        ctx.save_for_backward(x)
        return conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None]:
        site: ConvSite = ctx.site
        (x,) = ctx.saved_tensors
        layer = site.layer
        site.keep(x, grad)
        out = None
        if ctx.needs_input_grad[0]:
            weight, mask = layer.weight.to(grad.dtype), [True, False, False]
            out = torch.ops.aten.convolution_backward(
                grad, x, weight, None, layer.stride, layer.padding, layer.dilation, False, [0, 0], layer.groups, mask
            )[0]
        return out, None, None, None

"""Trained linear layers (nn.Linear, and the transposed Conv1D of GPT-2): gradients instantiated, or kept as factors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from client.training.per_sample.products import affine
from client.training.per_sample.slots import Pass, Slot, by_record, cast
from client.training.per_sample.summed import SummedLinear


@dataclass(frozen=True)
class LinearSite:
    """One trained linear layer. `transposed`: the weight is (in, out), as in Conv1D.

    The weight's gradients go to `slot`, or as factors to `summed`; both None when the weight is frozen.
    """

    name: str
    weight: nn.Parameter
    bias: nn.Parameter | None
    transposed: bool
    slot: Slot | None
    summed: SummedLinear | None
    slot_bias: Slot | None
    at: Pass

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Replaces the layer's forward."""
        self.at.check(x, self.name)
        out: torch.Tensor = _Linear.apply(x, self.weight, self.bias, self)  # type: ignore[no-untyped-call]
        return out

    def keep(self, x: torch.Tensor | None, grad: torch.Tensor) -> None:
        """Take in inputs (n, T, in) and the outputs' gradients (n, T, out)."""
        if self.slot_bias:
            self.slot_bias.add(grad.sum(1, dtype=torch.float32))
        if x is None:
            return
        left, right = (x, grad) if self.transposed else (grad, x)
        if self.summed:
            self.summed.keep(left, right)
        elif self.slot:
            self.slot.add_product(left.transpose(1, 2), right)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, site: LinearSite
    ) -> torch.Tensor:
        x, weight, bias = cast(x, weight, bias)
        ctx.site = site
        ctx.save_for_backward(x if weight_trained(site) else None)
        out = affine(x.reshape(-1, x.shape[-1]), weight.t() if site.transposed else weight, bias)
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None]:
        site: LinearSite = ctx.site
        (x,) = ctx.saved_tensors
        kept = None if x is None else by_record(x)
        site.keep(kept, by_record(grad))
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        weight = site.weight.to(grad.dtype)
        back = affine(grad.reshape(-1, grad.shape[-1]), weight if site.transposed else weight.t())
        return back.view(*grad.shape[:-1], -1), None, None, None


def weight_trained(site: LinearSite) -> bool:
    """Whether the weight, and not the bias alone, is trained."""
    return site.slot is not None or site.summed is not None

"""What has no sound or no supported per-sample gradient, each refused by name before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from compliance.errors import InputError

_DROPOUT_NUMBERS = ("dropout", "dropout_p", "dropout_prob", "attention_dropout", "attn_dropout", "activation_dropout")


def refuse_unsound(model: nn.Module, trained: Sequence[tuple[str, nn.Parameter]]) -> None:
    """Raises InputError RSD-4521 (tied), RSD-4522 (BatchNorm), RSD-4523 (dropout), RSD-4524 (checkpointing), RSD-4529
    (trained parameters not in float32)."""
    _refuse_tied(model)
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            _refuse(
                "RSD-4522", "BatchNorm mixes the records of a batch", "a record's gradient depends on that record only",
                name, "GroupNorm, LayerNorm",
                "convert it to GroupNorm (opacus.validators.ModuleValidator.fix does), train that model on public data "
                "and pin it in the study",
            )  # fmt: skip
        if module.training and dropout_of(module):
            _refuse(
                "RSD-4523", "dropout is switched on", "a record's gradient depends on no chance", name, "p = 0",
                "set the model's dropout to 0; clipping and noise regularise already",
            )  # fmt: skip
        if getattr(module, "gradient_checkpointing", False):
            _refuse(
                "RSD-4524", "gradient checkpointing is switched on", "each layer runs once a pass", name, "off",
                "switch it off and lower training.physical_batch instead",
            )  # fmt: skip
    for name, parameter in trained:
        if parameter.dtype != torch.float32:
            _refuse(
                "RSD-4529", "a trained parameter is not in float32", "trained parameters are float32", name, "float32",
                "load the model in float32; matrix products run in bfloat16 on CUDA by themselves",
            )  # fmt: skip


def _refuse_tied(model: nn.Module) -> None:
    seen: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.requires_grad and (first := seen.setdefault(id(parameter), name)) != name:
            _refuse(
                "RSD-4521", "two trained layers share a parameter", "a trained parameter belongs to one layer",
                f"{first} and {name}", "one place", "untie them, or freeze the shared parameter",
            )  # fmt: skip


def dropout_of(module: nn.Module) -> float:
    """The probability with which a module drops what passes; modules of transformers keep it as a number."""
    if isinstance(module, _DropoutNd):
        return float(module.p)
    numbers: list[Any] = [vars(module).get(name) for name in _DROPOUT_NUMBERS]
    return max((float(p) for p in numbers if isinstance(p, int | float) and not isinstance(p, bool)), default=0.0)


def refuse_no_rule(name: str, found: str) -> NoReturn:
    """Raises InputError RSD-4520."""
    _refuse(
        "RSD-4520", "a trained layer has no per-sample rule", "every trained parameter has a rule", f"{name}: {found}",
        "LoRA on Linear or Conv1D; Linear, Conv1D, LayerNorm, GroupNorm, Conv2d with zero padding",
        "freeze this layer, or replace it by one of these",
    )  # fmt: skip


def refuse_lora(name: str, found: str) -> NoReturn:
    """Raises InputError RSD-4528."""
    _refuse(
        "RSD-4528", "this kind of LoRA has no per-sample rule", "one plain adapter a layer", f"{name}: {found}",
        "one active adapter, not merged, no DoRA, no bias, base frozen", "use plain LoRA",
    )  # fmt: skip


def refuse_untouched(names: Sequence[str]) -> NoReturn:
    """Raises InputError RSD-4525."""
    _refuse(
        "RSD-4525", "a trained parameter got no gradient", "every trained parameter takes part in every pass",
        ", ".join(names), "a gradient for each", "freeze it, or let the loss use it",
    )  # fmt: skip


def _refuse(code: str, message: str, rule: str, found: str, limit: str, next_: str) -> NoReturn:
    raise InputError(code, message, rule=rule, found=found, limit=limit, next=next_)

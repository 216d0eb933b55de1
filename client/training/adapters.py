"""LoRA in the last blocks of a model: A from the study's public seed and frozen, B zero and trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from compliance.adapter_init import frozen_a
from compliance.errors import InputError
from compliance.training_spec import Adapters

LORA_B = ".lora_B.weight"
_PEFT = "base_model.model."


def inject(layers: nn.ModuleList, adapters: Adapters) -> None:
    """Put peft's LoRA modules around the targets. Raises InputError RSD-2316 for a target that is no linear module."""
    from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415 - slow to import, needed with adapters only

    unfit = [t for t in adapters.targets if not _all_linear([m for n, m in layers.named_modules() if _is_named(n, t)])]
    if unfit:
        raise InputError(
            "RSD-2316", "the adapters do not fit the model", rule="targets name linear modules of the adapted layers",
            found=", ".join(unfit), limit=", ".join(_linears(layers)) or "none: whole_layers trains this model",
            next="correct model.adapters in the study",
        )  # fmt: skip
    config = LoraConfig(
        r=adapters.rank, lora_alpha=adapters.rank, lora_dropout=0.0, bias="none",
        target_modules=list(adapters.targets), fan_in_fan_out=any(_is_conv1d(m) for m in layers.modules()),
    )  # fmt: skip
    inject_adapter_in_model(config, layers)


def _is_named(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _all_linear(modules: list[nn.Module]) -> bool:
    return bool(modules) and all(isinstance(m, nn.Linear) or _is_conv1d(m) for m in modules)


def _is_conv1d(module: nn.Module) -> bool:
    """GPT-2's linear layer, whose weight stands transposed."""
    return type(module).__name__ == "Conv1D"


def _linears(layers: nn.ModuleList) -> list[str]:
    found = {n.split(".", 1)[1] for n, m in layers.named_modules() if isinstance(m, nn.Linear) or _is_conv1d(m)}
    return sorted(found)


def adapter_names(layers: nn.ModuleList, blocks: tuple[str, ...], root: str) -> dict[str, str]:
    """Name under `layers` -> peft's name of the adapted module in the whole model, in one fixed order.

    `blocks`: the names of the layers in the model. `root` stands before them where the model is a part of a larger one.
    """
    found = sorted(n for n, m in layers.named_modules() if hasattr(m, "lora_B"))
    out = {}
    for name in found:
        layer, rest = name.split(".", 1)
        out[f"layers.{name}"] = f"{_PEFT}{root}{blocks[int(layer)]}.{rest}"
    return out


def start_adapters(top: nn.Module, names: dict[str, str], adapters: Adapters) -> None:
    """A from the public seed, B zero and trained."""
    for own, name in names.items():
        module: Any = top.get_submodule(own)
        module.scaling["default"] = adapters.scale_milli / 1000
        a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
        with torch.no_grad():
            a.copy_(torch.from_numpy(frozen_a(adapters.init_seed, name, *a.shape)))
            b.zero_()
        b.requires_grad_(True)

"""Tops on a transformer encoder: LoRA on the last layers, mean pooling, public standardisation, a linear head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from client.training.examples import Inputs
from client.training.model_folder import empty_encoder, load_encoder
from client.training.top import Top
from client.training.trunk import mean_pool
from compliance.adapter_init import frozen_a
from compliance.errors import InputError
from compliance.training_spec import Adapters, FeatureConstants, ModelSpec

_B = ".lora_B.weight"


class EncoderTop(Top):
    """`hidden` (n, tokens, width) and `mask` (n, tokens) of the trunk -> logits (n, classes).

    Trained: `head.weight`, `head.bias` (start at zero) and each adapter's B (starts at zero), nothing else. Each
    adapter's A is fixed: random signs over sqrt(width), from the public seed (compliance.adapter_init).
    `first` is the place of the first adapted layer in the whole model; names in the layout are those of peft.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, layers: nn.ModuleList, first: int, width: int, model: ModelSpec, classes: int) -> None:
        super().__init__()
        self.layers = layers
        mean, deviation = _constants(model.features, width)
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.norm = model.feature_norm_milli / 1000
        self.head = nn.Linear(width, classes)
        self.requires_grad_(False)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.head.requires_grad_(True)
        self._adapters = _adapter_names(self.layers, first)
        if model.adapters:
            _init_adapters(self, self._adapters, model.adapters)
        self.train()  # per-sample hooks work in training mode only; nothing here behaves differently in it
        self.close_to_batches()

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """See `Top.forward`: (n, classes)."""
        logits: torch.Tensor = self.head(self.features(inputs))
        return logits

    def record_losses(self, inputs: Inputs, targets: torch.Tensor) -> torch.Tensor:
        """See `Top.record_losses`: cross entropy with the class, `targets` int64 (n,)."""
        return cross_entropy(self(inputs).float(), targets, reduction="none")

    def features(self, inputs: Inputs) -> torch.Tensor:
        """Pooled, standardised vectors of length `norm`, (n, width)."""
        hidden, mask = inputs["hidden"], inputs["mask"]
        hidden = hidden.clone() if hidden.is_inference() else hidden
        shut = (1.0 - mask[:, None, None, :]) * torch.finfo(torch.float32).min
        for layer in self.layers:
            hidden = layer(hidden, shut)
        pooled = (mean_pool(hidden, mask).float() - self.mean) / self.deviation
        length = torch.linalg.vector_norm(pooled, dim=1, keepdim=True)
        scaled: torch.Tensor = pooled / length.clamp_min(1e-6) * self.norm
        return scaled

    def trained_names(self) -> dict[str, str]:
        """See `Top.trained_names`: the head, then each adapter's B under its name in peft."""
        heads = {name: name for name in ("head.weight", "head.bias")}
        return heads | {f"{a}{_B}": f"{own}.lora_B.default.weight" for own, a in self._adapters.items()}

    def a_widths(self) -> dict[str, int]:
        """See `Top.a_widths`."""
        return {f"{a}{_B}": self._width_of(own) for own, a in self._adapters.items()}

    def _width_of(self, adapter: str) -> int:
        module: Any = self.get_submodule(adapter)
        return int(module.lora_A["default"].weight.shape[1])


def build_top(model: ModelSpec, folder: Path, classes: int) -> EncoderTop:
    """The top for `model`, its frozen weights from `folder`. Raises InputError RSD-2316, RSD-2317, RSD-2315."""
    return _top_of(load_encoder(folder), model, classes)


def saved_top(model: ModelSpec, folder: Path, classes: int, tensors: dict[str, torch.Tensor]) -> EncoderTop:
    """The top that `tensors` were taken from, on these tensors; `folder` holds the model's config.json.

    Raises as `build_top`; RuntimeError if the tensors are another top's.
    """
    top = _top_of(empty_encoder(folder), model, classes)
    top.load_state_dict(tensors, strict=True, assign=True)
    return top


def _top_of(encoder: Any, model: ModelSpec, classes: int) -> EncoderTop:
    adapters = model.adapters
    count = adapters.layers if adapters else 0
    if count > len(encoder.encoder.layer):
        raise InputError(
            "RSD-2316", "the adapters do not fit the model", rule="adapted layers are layers of the model",
            found=count, limit=len(encoder.encoder.layer), next="lower model.adapters.layers in the study",
        )  # fmt: skip
    layers = encoder.encoder.layer[len(encoder.encoder.layer) - count :]
    if adapters:
        _inject(layers, adapters)
    return EncoderTop(layers, len(encoder.encoder.layer) - count, encoder.config.hidden_size, model, classes)


def _inject(layers: nn.ModuleList, adapters: Adapters) -> None:
    from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415 - slow to import, needed with adapters only

    config = LoraConfig(
        r=adapters.rank, lora_alpha=adapters.rank, lora_dropout=0.0, bias="none",
        target_modules=list(adapters.targets),
    )  # fmt: skip
    missing = [t for t in adapters.targets if not any(n == t or n.endswith(f".{t}") for n, _ in layers.named_modules())]
    if missing:
        raise InputError(
            "RSD-2316", "the adapters do not fit the model", rule="targets name linear modules of the adapted layers",
            found=", ".join(missing), limit=", ".join(_linears(layers)), next="correct model.adapters.targets",
        )  # fmt: skip
    inject_adapter_in_model(config, layers)


def _linears(layers: nn.ModuleList) -> list[str]:
    return sorted({n.split(".", 1)[1] for n, m in layers.named_modules() if isinstance(m, nn.Linear)})


def _adapter_names(layers: nn.ModuleList, first: int) -> dict[str, str]:
    """Name in this module -> peft's name of the adapted linear module in the whole model, in one fixed order."""
    found = sorted(n for n, m in layers.named_modules() if hasattr(m, "lora_B"))
    out = {}
    for name in found:
        layer, rest = name.split(".", 1)
        out[f"layers.{name}"] = f"base_model.model.encoder.layer.{first + int(layer)}.{rest}"
    return out


def _init_adapters(top: EncoderTop, names: dict[str, str], adapters: Adapters) -> None:
    """A from the public seed, B zero and trained."""
    for own, name in names.items():
        module: Any = top.get_submodule(own)
        module.scaling["default"] = adapters.scale_milli / 1000
        a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
        with torch.no_grad():
            a.copy_(torch.from_numpy(frozen_a(adapters.init_seed, name, *a.shape)))
            b.zero_()
        b.requires_grad_(True)


def _constants(features: FeatureConstants | None, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    if features is None:
        return torch.zeros(width), torch.ones(width)
    if len(features.mean_micro) != width:
        raise InputError(
            "RSD-2317", "the feature constants do not fit the model", rule="one mean and deviation a feature",
            found=len(features.mean_micro), limit=width, next="compute the constants with this model",
        )  # fmt: skip
    scale = 1_000_000
    mean = torch.tensor(features.mean_micro, dtype=torch.float64) / scale
    return mean.float(), (torch.tensor(features.deviation_micro, dtype=torch.float64) / scale).float()

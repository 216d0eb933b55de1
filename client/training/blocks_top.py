"""Tops that are the last blocks of a base model: what they train, and how a record runs through them."""

from __future__ import annotations

from abc import ABC
from typing import Any

import torch
from torch import nn

from client.training.adapters import LORA_B, adapter_names, inject, start_adapters
from client.training.attention import align_attention
from client.training.examples import Inputs
from client.training.families import TopPart, call_block, shut_out
from client.training.top import Top
from compliance.errors import InputError
from compliance.training_spec import FeatureConstants, ModelSpec


class BlocksTop(Top, ABC):
    """`hidden`, the frozen part's output, and `mask` (n, tokens) of real tokens, if it has one, through the blocks.

    Trained: a head (`head.*`, starts at zero) if the subclass has one; with adapters each one's B (starts at zero; A is
    fixed, from the study's public seed: compliance.adapter_init); with whole layers all their parameters. Names in the
    layout are `head.*`, those of peft, and those of the base model. `root` stands before the names of blocks where the
    released model is a larger one than `part` was taken from.
    """

    def __init__(self, part: TopPart, model: ModelSpec, root: str = "") -> None:
        super().__init__()
        self.kind, self.layers, self.after = part.kind, nn.ModuleList(part.blocks), part.after
        align_attention(self.layers)
        if model.adapters:
            inject(self.layers, model.adapters)
        self._names, self._root = part.names, root
        self._adapters = adapter_names(self.layers, part.names, root)

    def _finish(self, model: ModelSpec) -> None:
        """Freeze all, then choose what is trained and set where it starts. The last line of a subclass's __init__."""
        self.requires_grad_(False)
        head = getattr(self, "head", None)
        if isinstance(head, nn.Linear):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
            head.requires_grad_(True)
        if model.adapters:
            start_adapters(self, self._adapters, model.adapters)
        if model.whole_layers:
            self.layers.requires_grad_(True)
        self.train()  # per-sample hooks work in training mode only; nothing here behaves differently in it
        self.close_to_batches()
        if not any(p.is_meta for p in self.parameters()):
            self.start_here(self._whole_names().keys())

    def load_start(self, tensors: dict[str, torch.Tensor]) -> None:
        """Put `tensors`, those of a top that nothing has trained yet, in place of its own. RuntimeError if others'."""
        self.load_state_dict(tensors, strict=True, assign=True)
        self.start_here(self._whole_names().keys())

    def hidden(self, inputs: Inputs) -> torch.Tensor:
        """The last block's output, normed if the model norms it."""
        hidden, mask = inputs["hidden"], inputs.get("mask")
        hidden = hidden.clone() if hidden.is_inference() else hidden
        shut = shut_out(self.kind, mask)
        for layer in self.layers:
            hidden = call_block(self.kind, layer, hidden, shut)
        out: torch.Tensor = self.after(hidden)
        return out

    def trained_names(self) -> dict[str, str]:
        """See `Top.trained_names`: the head, then each adapter's B under its name in peft, then whole layers."""
        heads = {n: n for n in ("head.weight", "head.bias") if hasattr(self, "head")}
        lora = {f"{a}{LORA_B}": f"{own}.lora_B.default.weight" for own, a in self._adapters.items()}
        return heads | lora | self._whole_names()

    def a_widths(self) -> dict[str, int]:
        """See `Top.a_widths`."""
        return {f"{a}{LORA_B}": self._width_of(own) for own, a in self._adapters.items()}

    def _width_of(self, adapter: str) -> int:
        module: Any = self.get_submodule(adapter)
        return int(module.lora_A["default"].weight.shape[1])

    def _whole_names(self) -> dict[str, str]:
        """Name in the base model -> parameter here, for blocks that are trained whole."""
        if self._adapters:
            return {}
        out = {}
        for name, p in self.layers.named_parameters():
            if p.requires_grad:
                layer, rest = name.split(".", 1)
                out[f"{self._root}{self._names[int(layer)]}.{rest}"] = f"layers.{name}"
        return dict(sorted(out.items()))


class Features(nn.Module):
    """Vectors (..., width) to features: standardised by the study's public constants, and scaled to one length.

    Raises InputError RSD-2317 when built with constants for another width.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, model: ModelSpec, width: int) -> None:
        super().__init__()
        mean, deviation = _constants(model.features, width)
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.norm = None if model.feature_norm_milli is None else model.feature_norm_milli / 1000

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """As the class says; of float32."""
        vectors = (vectors.float() - self.mean) / self.deviation
        if self.norm is None:
            return vectors
        length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
        scaled: torch.Tensor = vectors / length.clamp_min(1e-6) * self.norm
        return scaled


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

"""Classification: the last blocks, one pooled vector a record, a linear head. For texts and for images."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from client.training.blocks_top import BlocksTop, Features
from client.training.examples import Inputs
from client.training.families import TopPart, pooled, top_part
from client.training.model_folder import empty_encoder, load_encoder
from compliance.training_spec import ModelSpec


class EncoderTop(BlocksTop):
    """`hidden` and `mask` of the trunk -> logits (n, classes). See `BlocksTop` for what is trained.

    Features are the mean over the real tokens, or over all places of an image; see `Features`.
    """

    def __init__(self, part: TopPart, model: ModelSpec, classes: int) -> None:
        super().__init__(part, model)
        self.standard = Features(model, part.width)
        self.head = nn.Linear(part.width, classes)
        self._finish(model)

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """See `Top.forward`: (n, classes)."""
        logits: torch.Tensor = self.head(self.features(inputs))
        return logits

    def record_losses(self, inputs: Inputs, targets: torch.Tensor) -> torch.Tensor:
        """See `Top.record_losses`: cross entropy with the class, `targets` int64 (n,)."""
        return cross_entropy(self(inputs).float(), targets, reduction="none")

    def features(self, inputs: Inputs) -> torch.Tensor:
        """What the head takes in, (n, width)."""
        features: torch.Tensor = self.standard(pooled(self.hidden(inputs), inputs.get("mask")))
        return features


def build_top(model: ModelSpec, folder: Path, classes: int) -> EncoderTop:
    """The top for `model`, its frozen weights from `folder`. Raises InputError RSD-2315 to RSD-2317, RSD-2330."""
    return EncoderTop(top_part(load_encoder(folder), model.trained_layers), model, classes)


def saved_top(model: ModelSpec, folder: Path, classes: int, tensors: dict[str, torch.Tensor]) -> EncoderTop:
    """The top that `tensors` were taken from, on these tensors; `folder` holds the model's config.json.

    Raises as `build_top`; RuntimeError if the tensors are another top's.
    """
    top = EncoderTop(top_part(empty_encoder(folder), model.trained_layers), model, classes)
    top.load_start(tensors)
    return top

"""Token classification: the last blocks and a linear head on each token."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from client.training.blocks_top import BlocksTop, Features
from client.training.examples import Inputs
from client.training.families import TopPart, top_part
from client.training.model_folder import empty_encoder, load_encoder
from compliance.training_spec import ModelSpec

NO_TARGET: Final = -100  # a token that is not judged


class TokenTop(BlocksTop):
    """`hidden` and `mask` of the trunk -> logits (n, tokens, classes). See `BlocksTop` for what is trained."""

    def __init__(self, part: TopPart, model: ModelSpec, classes: int) -> None:
        super().__init__(part, model)
        self.standard = Features(model, part.width)
        self.head = nn.Linear(part.width, classes)
        self._finish(model)

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """See `Top.forward`: (n, tokens, classes)."""
        logits: torch.Tensor = self.head(self.standard(self.hidden(inputs)))
        return logits

    def record_losses(self, inputs: Inputs, targets: torch.Tensor) -> torch.Tensor:
        """See `Top.record_losses`: mean cross entropy over the record's judged tokens, `targets` int64 (n, tokens).

        The count that a record is divided by is its own: a mean over the tokens of a batch would let a record weigh on
        the gradients of the others.
        """
        judged = targets != NO_TARGET
        losses = cross_entropy(self(inputs).float().transpose(1, 2), targets, reduction="none", ignore_index=NO_TARGET)
        return losses.sum(1) / judged.sum(1).clamp_min(1)


def build_top(model: ModelSpec, folder: Path, classes: int) -> TokenTop:
    """The top for `model`, its frozen weights from `folder`. Raises InputError RSD-2315 to RSD-2317."""
    return TokenTop(top_part(load_encoder(folder), model.trained_layers), model, classes)


def saved_top(model: ModelSpec, folder: Path, classes: int, tensors: dict[str, torch.Tensor]) -> TokenTop:
    """See `client.training.encoder_top.saved_top`."""
    top = TokenTop(top_part(empty_encoder(folder), model.trained_layers), model, classes)
    top.load_start(tensors)
    return top

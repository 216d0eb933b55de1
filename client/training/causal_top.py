"""Causal language modelling: adapters in the last blocks of a decoder; embeddings and LM head are frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from client.training.blocks_top import BlocksTop
from client.training.examples import Inputs
from client.training.families import TopPart, top_part
from client.training.model_folder import empty_decoder, load_decoder
from compliance.training_spec import ModelSpec

_ROOT = "transformer."  # where the blocks are in the model with its LM head, which is what is released


class CausalTop(BlocksTop):
    """`hidden` and `mask` of the trunk and the `ids` (n, tokens) -> how likely each next token was.

    Trained: each adapter's B. `lm_head` gives the logits of the next token.
    """

    def __init__(self, part: TopPart, model: ModelSpec, lm_head: nn.Linear) -> None:
        super().__init__(part, model, root=_ROOT)
        self.lm_head = nn.Linear(lm_head.in_features, lm_head.out_features, bias=False, device="meta")
        self.lm_head.weight = nn.Parameter(lm_head.weight.detach())  # of its own: no longer tied to the embeddings
        self._finish(model)

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """Natural logarithm of the chance of the token after each one, float32 (n, tokens - 1).

        What stands where padding follows means nothing: the targets leave it out.
        """
        logits = self.lm_head(self.hidden(inputs))[:, :-1].float()
        out: torch.Tensor = logits.gather(2, inputs["ids"][:, 1:, None]).squeeze(2) - logits.logsumexp(2)
        return out

    def record_losses(self, inputs: Inputs, targets: torch.Tensor) -> torch.Tensor:
        """See `Top.record_losses`: minus the mean log-probability over the record's next tokens.

        `targets` int64 (n, tokens - 1): 1 where the next token is a real one, else 0.
        """
        nats: torch.Tensor = -(self(inputs) * targets).sum(1)
        return nats / targets.sum(1).clamp_min(1)


def build_top(model: ModelSpec, folder: Path) -> CausalTop:
    """The top for `model`, its frozen weights from `folder`. Raises InputError RSD-2316, RSD-2335 (no decoder)."""
    return _top_of(load_decoder(folder), model)


def saved_top(model: ModelSpec, folder: Path, tensors: dict[str, torch.Tensor]) -> CausalTop:
    """See `client.training.encoder_top.saved_top`."""
    top = _top_of(empty_decoder(folder), model)
    top.load_start(tensors)
    return top


def _top_of(decoder: Any, model: ModelSpec) -> CausalTop:
    base, head = decoder.transformer, decoder.lm_head
    return CausalTop(top_part(base, model.trained_layers), model, head)

"""The built-in models for tables: logistic regression and the multilayer perceptron, trained whole."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from client.training.examples import Inputs
from client.training.top import Top
from compliance.built_in import start_of
from compliance.training_spec import BuiltIn

CELLS = "cells"


class TabularTop(Top):
    """`cells` (n, width) -> logits (n, classes), through `hidden` layers and a linear head.

    With `norm` a record's cells are scaled to that length first. Trained: all of it, in the order `head.weight`,
    `head.bias`, then each `hidden.<i>`; where each begins is public (compliance.built_in), and the flat vector holds
    the difference from there. Every row goes its own way: no mean over the batch, no dropout.
    """

    def __init__(self, model: BuiltIn, width: int, classes: int, norm: float | None) -> None:
        super().__init__()
        self.norm, self.act = norm, torch.tanh if model.activation == "tanh" else torch.relu
        widths = (width, *model.hidden)
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.head = nn.Linear(widths[-1], classes)
        with torch.no_grad():
            for name, p in self.named_parameters():
                p.copy_(torch.from_numpy(start_of(model, name, tuple(p.shape))))
        self.train()
        self.close_to_batches()
        self.start_here(self.trained_names())

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """See `Top.forward`: (n, classes)."""
        x = inputs[CELLS]
        if self.norm is not None:
            x = x / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min(1e-6) * self.norm
        for layer in self.hidden:
            x = self.act(layer(x))
        logits: torch.Tensor = self.head(x)
        return logits

    def record_losses(self, inputs: Inputs, targets: torch.Tensor) -> torch.Tensor:
        """See `Top.record_losses`: cross entropy with the class, `targets` int64 (n,)."""
        return cross_entropy(self(inputs).float(), targets, reduction="none")

    def trained_names(self) -> dict[str, str]:
        """See `Top.trained_names`."""
        names = [n for n, _ in self.named_parameters()]
        return {n: n for n in sorted(names, key=lambda n: not n.startswith("head."))}

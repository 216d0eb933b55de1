"""One training step as a site takes it: the product's engine, with its clipping, lattice noise and update, on a batch.

The batch is given, as to the peers; what a site does once a round (the independence probe, the checks' verdict) is not
in the step.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Final

import torch
from torch.nn.functional import cross_entropy

from bench.dp_cases import SHAPES, Case
from bench.dp_peers import Step, batch_of, classifier
from client.training.dpsgd import Engine
from client.training.examples import Examples, Inputs
from client.training.keystream import Keystream
from client.training.sampling import Piece, members
from client.training.top import Top
from client.work import RoundSpec

_RATE_MILLI: Final = 1


class ClassifierTop(Top):
    """transformers' classifier with every trainable parameter trained; from `hidden`, its last `layers` only."""

    def __init__(self, model: Any, layers: int) -> None:
        super().__init__()
        self.model, self._layers = model, layers
        self.train()

    @property
    def _plain(self) -> Any:
        return getattr(self.model, "base_model", self.model).model if hasattr(self.model, "peft_config") else self.model

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """See `Top.forward`: (n, classes)."""
        if "hidden" not in inputs:
            whole: torch.Tensor = self.model(input_ids=inputs["ids"], attention_mask=inputs["mask"]).logits
            return whole
        bert, hidden = self._plain.bert, inputs["hidden"]
        for layer in bert.encoder.layer[-self._layers :]:
            hidden = layer(hidden, None)
        logits: torch.Tensor = self._plain.classifier(bert.pooler(hidden))
        return logits

    def prefix(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """What the layers below the last `layers` make of a batch, (n, tokens, width)."""
        with torch.no_grad():
            every = self._plain.bert(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        below: torch.Tensor = every[-self._layers - 1]
        return below

    def record_losses(self, inputs: Inputs, targets: torch.Tensor) -> torch.Tensor:
        """See `Top.record_losses`."""
        return cross_entropy(self(inputs).float(), targets, reduction="none")

    def trained_names(self) -> dict[str, str]:
        """See `Top.trained_names`."""
        return {name: name for name, p in self.named_parameters() if p.requires_grad}


def _spec(case: Case) -> RoundSpec:
    return RoundSpec(
        round=1, attempt=1, steps=1, sample_numerator=1, sample_denominator=1, expected_batch=case.batch,
        clip_micro=1_000_000, noise_multiplier_micro=1_000_000, physical_batch=case.batch,
        head_rate_milli=_RATE_MILLI, adapter_rate_milli=_RATE_MILLI,
    )  # fmt: skip


def ours(case: Case) -> Step:
    """A private step of the product. With `case.cached` it starts from the frozen layers' output."""
    top, batch = ClassifierTop(classifier(case), case.layers or SHAPES[case.model].layers), batch_of(case)
    inputs = {"ids": batch.ids, "mask": batch.mask}
    if case.cached:
        inputs = {"hidden": top.prefix(batch.ids, batch.mask)}
    examples = Examples(inputs, batch.labels)
    spec, open_ = _spec(case), ExitStack()
    engine = Engine(top, examples, torch.device("cpu"))
    run = open_.enter_context(engine.opened(spec, top.get_flat(), Keystream.fresh(), members(examples, "record")))
    every = torch.split(torch.arange(case.batch), run.source.rows)
    pieces = [Piece(records, len(records)) for records in every]

    def step(_held: ExitStack = open_) -> None:  # the round stays open as long as the step is there
        run.step(pieces)

    return step

"""Causal language modelling: rows become texts, and each token is to be told from those before it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from client.data.template import parse_template
from client.tasks.base import Task, needed
from client.training.causal_top import build_top, saved_top
from client.training.examples import Inputs
from client.training.model_folder import load_decoder, load_tokenizer
from client.training.top import Top
from client.training.trunk import cached, inputs_file, inputs_key, no_tokens, read_texts, run_frozen
from client.training.trunk_check import check_texts
from compliance.canonical import canonical, sha256_hex
from compliance.task_spec import CausalLM
from compliance.training_spec import ModelSpec

if TYPE_CHECKING:
    from client.data.table import DataSource


@dataclass(frozen=True)
class Records:
    """`texts` of n records, in the order of the table."""

    texts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)


class LanguageModel:
    """See `client.tasks.base.Task`."""

    def columns(self, spec: CausalLM) -> tuple[str, ...]:
        """Those of the template."""
        return parse_template(spec.template).columns

    def records(self, spec: CausalLM, source: DataSource) -> Records:
        """Raises InputError RSD-2300 to RSD-2303, RSD-2306, RSD-2322 (an empty text)."""
        template, table = parse_template(spec.template), source.table(self.columns(spec))
        texts = tuple(template.render({str(k): v for k, v in row.items()}) for row in table.to_dict("records"))
        if not all(texts):
            raise no_tokens()
        return Records(texts)

    def inputs_file(self, model: ModelSpec, spec: CausalLM, records: Records, cache: Path) -> Path:
        """Depends on model, texts and `max_tokens`."""
        texts = sha256_hex(canonical(list(records.texts)))
        return inputs_file(cache, inputs_key(model, {"max_tokens": spec.max_tokens, "next_of": texts}))

    def inputs(
        self, model: ModelSpec, spec: CausalLM, folder: Path | None, records: Records, cache: Path, device: str
    ) -> Inputs:
        """`hidden` (n, max_tokens, width), `mask` (n, max_tokens) and `ids` int64 (n, max_tokens)."""

        def compute() -> Inputs:
            decoder = load_decoder(needed(folder))
            check_texts(decoder, load_tokenizer(needed(folder)), spec.max_tokens)
            tokens = _encoded(needed(folder), records, spec.max_tokens)

            def read(start: int, stop: int) -> Inputs:
                return {name: t[start:stop] for name, t in tokens.items()}

            out = run_frozen(decoder.transformer, model.trained_layers, len(records), read, device)
            return {**out, "ids": tokens["input_ids"]}

        return cached(self.inputs_file(model, spec, records, cache), compute)

    def targets(self, model: ModelSpec, spec: CausalLM, folder: Path | None, records: Records) -> torch.Tensor:
        """int64 (n, max_tokens - 1): 1 where the token after it is a real one. Raises InputError RSD-2322 (none)."""
        del model
        mask = _encoded(needed(folder), records, spec.max_tokens)["attention_mask"][:, 1:]
        if not bool(mask.any(1).all()):
            raise no_tokens()
        return mask.to(torch.int64)

    def top(self, model: ModelSpec, spec: CausalLM, folder: Path | None) -> Top:
        """See `build_top`."""
        del spec
        return build_top(model, needed(folder))

    def saved_top(self, model: ModelSpec, spec: CausalLM, folder: Path, tensors: dict[str, torch.Tensor]) -> Top:
        """See `saved_top`."""
        del spec
        return saved_top(model, folder, tensors)

    def metrics(
        self, spec: CausalLM, targets: npt.NDArray[np.int64], scores: npt.NDArray[np.float32]
    ) -> dict[str, float]:
        """`nats_per_token` and `perplexity`, its exponential, over all next tokens of all records.

        `targets` and `scores` (log-probabilities), both (n, tokens - 1).
        """
        del spec
        nats = -float((scores.astype(np.float64) * targets).sum() / max(int(targets.sum()), 1))
        return {"nats_per_token": nats, "perplexity": float(np.exp(nats))}


@lru_cache(maxsize=1)
def _encoded(folder: Path, records: Records, max_tokens: int) -> Inputs:
    """The tokens of all records: what is taken in and what is to be told are of one tokenisation."""
    return read_texts(load_tokenizer(folder), records.texts, max_tokens)(0, len(records))


TASK: Task[CausalLM, Records] = LanguageModel()

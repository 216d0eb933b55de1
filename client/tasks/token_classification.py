"""Token classification: rows become lists of words, each with a tag."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from client.data.text import as_written, canonical_text
from client.tasks.base import Task, needed
from client.tasks.classes import unknown_class
from client.tasks.metrics import class_metrics
from client.tasks.spans import span_f1
from client.training.examples import Inputs
from client.training.model_folder import load_tokenizer
from client.training.token_top import NO_TARGET, build_top, saved_top
from client.training.top import Top
from client.training.trunk import cached, inputs_file, inputs_key, load_text_model, no_tokens, read_texts, run_frozen
from client.training.trunk_check import check_texts
from compliance.canonical import canonical, sha256_hex
from compliance.errors import InputError
from compliance.task_spec import TokenClassification
from compliance.training_spec import ModelSpec

if TYPE_CHECKING:
    from client.data.table import DataSource

Words = tuple[str, ...]


@dataclass(frozen=True)
class Records:
    """`words` and, for each word, its `tags` (index into the task's `labels`) of n records."""

    words: tuple[Words, ...]
    tags: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.words)


class TokenClassifier:
    """See `client.tasks.base.Task`."""

    def columns(self, spec: TokenClassification) -> tuple[str, ...]:
        """Words and tags."""
        return (spec.tokens_column, spec.tags_column)

    def records(self, spec: TokenClassification, source: DataSource) -> Records:
        """Raises InputError RSD-2300 to RSD-2304, RSD-2321 (a list that is none, or not as many tags as words),
        RSD-2322 (a row without words)."""
        table = source.table(self.columns(spec))
        words = [listed(v, spec.tokens_column) for v in table[spec.tokens_column].tolist()]
        tags = [listed(v, spec.tags_column) for v in table[spec.tags_column].tolist()]
        if any(len(w) != len(t) for w, t in zip(words, tags, strict=True)):
            raise _not_lists(spec.tags_column, "as many tags as words in each row", "another number of tags")
        if not all(words):
            raise no_tokens()
        return Records(tuple(words), _indices(spec, tags))

    def inputs_file(self, model: ModelSpec, spec: TokenClassification, records: Records, cache: Path) -> Path:
        """Depends on model, words and `max_tokens`; the tags are no inputs."""
        words = sha256_hex(canonical([list(w) for w in records.words]))
        return inputs_file(cache, inputs_key(model, {"max_tokens": spec.max_tokens, "words": words}))

    def inputs(
        self, model: ModelSpec, spec: TokenClassification, folder: Path | None, records: Records, cache: Path,
        device: str,
    ) -> Inputs:  # fmt: skip
        """`hidden` (n, max_tokens, width) and `mask` (n, max_tokens)."""

        def compute() -> Inputs:
            encoder, tokenizer = load_text_model(needed(folder)), load_tokenizer(needed(folder), words=True)
            check_texts(encoder, tokenizer, spec.max_tokens)
            read = read_texts(tokenizer, records.words, spec.max_tokens, words=True)
            return run_frozen(encoder, model.trained_layers, len(records), read, device)

        return cached(self.inputs_file(model, spec, records, cache), compute)

    def targets(
        self, model: ModelSpec, spec: TokenClassification, folder: Path | None, records: Records
    ) -> torch.Tensor:
        """int64 (n, max_tokens): the word's tag at its first subword, NO_TARGET elsewhere. Raises RSD-2322."""
        del model
        tokenizer = load_tokenizer(needed(folder), words=True)
        out = torch.full((len(records), spec.max_tokens), NO_TARGET, dtype=torch.int64)
        for row, (words, tags) in enumerate(zip(records.words, records.tags, strict=True)):
            encoded = tokenizer(list(words), is_split_into_words=True, truncation=True, max_length=spec.max_tokens)
            places = first_subwords(encoded.word_ids(0))
            if not places:
                raise no_tokens()
            for place, word in places:
                out[row, place] = tags[word]
        return out

    def top(self, model: ModelSpec, spec: TokenClassification, folder: Path | None) -> Top:
        """See `build_top`."""
        return build_top(model, needed(folder), len(spec.labels))

    def saved_top(
        self, model: ModelSpec, spec: TokenClassification, folder: Path, tensors: dict[str, torch.Tensor]
    ) -> Top:
        """See `saved_top`."""
        return saved_top(model, folder, len(spec.labels), tensors)

    def metrics(
        self, spec: TokenClassification, targets: npt.NDArray[np.int64], scores: npt.NDArray[np.float32]
    ) -> dict[str, float]:
        """`class_metrics` over the judged tokens under `token_`, and `span_precision`, `span_recall`, `span_f1`.

        `targets` (n, tokens), `scores` (n, tokens, classes).
        """
        judged = targets != NO_TARGET
        tokens = class_metrics(targets[judged], scores[judged])
        chosen = scores.argmax(2)
        pairs = [
            ([spec.labels[t] for t in row[keep]], [spec.labels[c] for c in said[keep]])
            for row, said, keep in zip(targets, chosen, judged, strict=True)
        ]
        return {**{f"token_{name}": value for name, value in tokens.items()}, **span_f1(pairs)}


def listed(value: Any, column: str) -> Words:
    """The words of one cell: a list, a JSON list of texts, or words with spaces between. RSD-2321 for other things."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            raise _not_lists(column, "a cell that begins with [ is a JSON list", "no JSON") from None
    if isinstance(value, list | tuple):
        if not all(isinstance(v, str) and v.strip() for v in value):
            raise _not_lists(column, "a list holds texts that are not blank", "something else")
        return tuple(v.strip() for v in value)
    if canonical_text(value) is None:
        return ()
    return tuple((as_written(value) or "").split())  # words stay as they are written: 1.10 is not 1.1


def first_subwords(word_ids: Sequence[int | None]) -> list[tuple[int, int]]:
    """(place of the token, word) for the first token of each word; tokens of no word (None) are left out."""
    places: dict[int, int] = {}
    for place, word in enumerate(word_ids):
        if word is not None:
            places.setdefault(word, place)
    return [(place, word) for word, place in places.items()]


def _indices(spec: TokenClassification, tags: Sequence[Words]) -> tuple[tuple[int, ...], ...]:
    index = {label: i for i, label in enumerate(spec.labels)}
    used = {tag for row in tags for tag in row}
    if not used <= set(index):
        raise unknown_class(spec.tags_column, "every tag is in task.labels", len(index))
    return tuple(tuple(index[tag] for tag in row) for row in tags)


def _not_lists(column: str, rule: str, found: str) -> InputError:
    return InputError(
        "RSD-2321", f"column {column} does not hold lists of words as the study needs them", rule=rule, found=found,
        limit="a list, a JSON list, or words with spaces between", next="correct the export",
    )  # fmt: skip


TASK: Task[TokenClassification, Records] = TokenClassifier()

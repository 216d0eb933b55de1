"""The tasks that a study may name: how rows become records. One class a kind; no model library here."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from compliance.canonical import Json
from compliance.training_spec import Frozen
from compliance.validation import Mistake

Column = Annotated[str, Field(min_length=1, max_length=128)]
Labels = Annotated[tuple[str, ...], Field(min_length=2, max_length=64)]
Template = Annotated[str, Field(min_length=1, max_length=4000)]


class _Classes(Frozen):
    """A class for each record, from one column.

    The class is `label_values[value of label_column]`, else `label_other`; a value that neither names is an error
    (RSD-2304), never a silent class, and so is a missing one.
    """

    labels: Labels
    label_column: Column
    label_values: dict[str, str]
    label_other: str | None = None

    @model_validator(mode="after")
    def _labels_known(self) -> Self:
        _each_once(self.labels)
        unknown = {*self.label_values.values(), *([self.label_other] if self.label_other else [])} - set(self.labels)
        if unknown:
            raise ValueError(f"label_values or label_other name {sorted(unknown)}, which labels does not list")
        return self


class SequenceClassification(_Classes):
    """Texts into classes.

    A row's text is `template` with `{column}` replaced by the value; a part in square brackets is dropped when one of
    its values is missing.
    """

    kind: Literal["sequence_classification"]
    template: Template
    max_tokens: int = Field(ge=8, le=512)


class TokenClassification(Frozen):
    """A tag for each word of a text, such as named entities; a row is a text.

    `tokens_column` holds the words and `tags_column` as many tags: a list, a JSON list, or words with spaces between.
    A tag is one of `labels` (else RSD-2304). A word is judged at its first subword; words beyond `max_tokens` are not
    seen. For the span F1, tags are read as IOB2: `B-x` begins a span of kind x, `I-x` goes on with it.
    """

    kind: Literal["token_classification"]
    labels: Labels
    tokens_column: Column
    tags_column: Column
    max_tokens: int = Field(ge=8, le=512)

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        _each_once(self.labels)
        if self.tokens_column == self.tags_column:
            raise ValueError("tokens_column and tags_column are the same column")
        if spaced := [label for label in self.labels if not label.strip() or label.split() != [label]]:
            raise ValueError(f"labels hold {spaced[0]!r}: a tag has no space")
        return self


class CausalLM(Frozen):
    """The next token of a text. `template` as for sequence classification; the text is cut at `max_tokens`."""

    kind: Literal["causal_lm"]
    template: Template
    max_tokens: int = Field(ge=8, le=512)


class Scaling(Frozen):
    """Public constants of one channel: a pixel of 0 to 1 becomes (pixel - mean) / deviation. Thousandths."""

    mean_milli: int = Field(ge=0, le=1000)
    deviation_milli: int = Field(ge=1, le=10_000)


class ImageClassification(_Classes):
    """Images into classes.

    Either `image_column` holds paths of PNG, JPEG or .npy files below the table's folder, or the pixels stand in the
    columns `pixel_prefix` and 0, 1, ...: a square of grey values from 0 to 255, row by row, `pixel_side` a side. With
    `sha256_column` each file must have the digest that its row states, so that the registered table pins the images.
    Every image is brought to `side` x `side` pixels and as many channels as `scaling` lists.
    """

    kind: Literal["image_classification"]
    image_column: Column | None = None
    sha256_column: Column | None = None
    pixel_prefix: str | None = Field(default=None, min_length=1, max_length=100)
    pixel_side: int | None = Field(default=None, ge=4, le=64)
    side: int = Field(ge=8, le=512)
    scaling: tuple[Scaling, ...] = Field(min_length=1, max_length=3)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.image_column is None) == (self.pixel_prefix is None):
            raise ValueError("name either image_column or pixel_prefix")
        if (self.pixel_prefix is None) != (self.pixel_side is None):
            raise ValueError("pixel_prefix and pixel_side belong together")
        if self.sha256_column is not None and self.image_column is None:
            raise ValueError("sha256_column is for files: name image_column")
        if len(self.scaling) == 2:
            raise ValueError("scaling lists one channel (grey) or three (red, green, blue)")
        return self


class Numeric(Frozen):
    """A column of numbers with the public range that scales it, in millionths of the column's unit.

    A value v becomes (v - centre) / half_width, cut to [-1, 1]. An empty cell or one of `missing_micro`, such as the
    cholesterol of 0 that some laboratories write, becomes 0. The range comes from clinical knowledge, never from rows.
    """

    column: Column
    centre_micro: int = Field(ge=-(10**15), le=10**15)
    half_width_micro: int = Field(ge=1, le=10**15)
    missing_micro: tuple[int, ...] = Field(default=(), max_length=16)


class Categorical(Frozen):
    """A column of `categories`, one cell each; any other value and an empty cell fall into the cell `other`."""

    column: Column
    categories: tuple[Annotated[str, Field(min_length=1, max_length=128)], ...] = Field(min_length=1, max_length=256)

    @model_validator(mode="after")
    def _once(self) -> Self:
        _each_once(self.categories)
        return self


class Tabular(_Classes):
    """Rows of numbers and categories into classes. All that scales a row is public and stands here.

    The cells, in order: each entry of `numeric`, the first of a column followed by a cell that is 1 where the value is
    missing; then the categories of each entry of `categorical` and its `other`. A column of numbers may stand twice
    with other ranges, which makes its curve piecewise linear. `ranges_source` says where the ranges are from.
    """

    kind: Literal["tabular"]
    ranges_source: str = Field(min_length=1, max_length=500)
    numeric: tuple[Numeric, ...] = Field(default=(), max_length=1000)
    categorical: tuple[Categorical, ...] = Field(default=(), max_length=1000)

    @model_validator(mode="after")
    def _columns(self) -> Self:
        names = [*dict.fromkeys(n.column for n in self.numeric), *(c.column for c in self.categorical)]
        if not names:
            raise ValueError("name a column in numeric or categorical")
        if len(set(names)) != len(names) or self.label_column in names:
            raise ValueError("a column stands in two places: numeric, categorical, label_column")
        if len(set(self.numeric)) != len(self.numeric):
            raise ValueError("an entry of numeric stands twice")
        return self

    @property
    def cells(self) -> tuple[str, ...]:
        """The names of a record's cells, in order."""
        out: list[str] = []
        seen: set[str] = set()
        for n in self.numeric:
            out.append(f"{n.column} around {n.centre_micro / 1e6:g}")
            out += [f"{n.column} missing"] if n.column not in seen else []
            seen.add(n.column)
        return (*out, *(f"{c.column} {name}" for c in self.categorical for name in (*c.categories, "other")))


TaskSpec = Annotated[
    SequenceClassification | TokenClassification | CausalLM | ImageClassification | Tabular, Field(discriminator="kind")
]

_POOLED: Final = ("sequence_classification", "image_classification")


def labels_of(task: TaskSpec) -> tuple[str, ...]:
    """The classes that the model's head tells apart; none for a task without a head."""
    return () if isinstance(task, CausalLM) else task.labels


def task_mistakes(raw: dict[str, Json]) -> list[Mistake]:
    """What `model` must be for `task`; on a raw study."""
    task, model = raw.get("task"), raw.get("model")
    if not isinstance(task, dict) or not isinstance(model, dict):
        return []
    kind, pooling, out = task.get("kind"), model.get("pooling"), _built_in_mistakes(task, model)
    if kind in _POOLED and pooling == "none":
        out.append(Mistake("model.pooling", f"{kind} pools a record to one vector: mean"))
    if kind in ("token_classification", "causal_lm") and pooling == "mean":
        out.append(Mistake("model.pooling", f"{kind} looks at each token: none"))
    if kind != "causal_lm":
        return out
    if not model.get("adapters"):
        out.append(Mistake("model.adapters", "causal_lm trains no head: name adapters"))
    text = "causal_lm trains adapters alone: leave it out, or null"
    return out + [
        Mistake(f"model.{f}", text) for f in ("features", "feature_norm_milli", "whole_layers") if model.get(f)
    ]


def _built_in_mistakes(task: dict[str, Json], model: dict[str, Json]) -> list[Mistake]:
    network, labels = model.get("built_in"), task.get("labels")
    if (task.get("kind") == "tabular") != (network is not None):
        wrong = "tabular has no base model: describe the network" if network is None else "only for the task tabular"
        return [Mistake("model.built_in", wrong)]
    bias = network.get("start_bias_micro") if isinstance(network, dict) else None
    if isinstance(bias, list | tuple) and isinstance(labels, list | tuple) and len(bias) != len(labels):
        found = f"{len(bias)} values for {len(labels)} labels"
        return [Mistake("model.built_in.start_bias_micro", f"one for each of task.labels: {found}")]
    return []


def _each_once(labels: tuple[str, ...]) -> None:
    if len(set(labels)) != len(labels):
        raise ValueError("a label is listed twice")

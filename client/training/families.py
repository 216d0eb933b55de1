"""The kinds of base models that can be trained on: where their blocks are, and how one block is called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from client.training.examples import Inputs
from client.training.model_admission import TYPES, Kind, refuse_type
from compliance.errors import InputError

_PLACES: Final[dict[Kind, tuple[str, str]]] = {  # the list of blocks; the norm after the last block, which is frozen
    "encoder": ("encoder.layer", ""),
    "decoder": ("h", "ln_f"),
    "vit": ("layers", "layernorm"),
    "resnet": ("encoder.stages", ""),
}


@dataclass(frozen=True)
class TopPart:
    """The last blocks of a model, taken from it. `names` are theirs in the model; `after`: the norm behind them.

    `width`: of the vectors that come out, or the number of channels.
    """

    kind: Kind
    blocks: tuple[nn.Module, ...]
    names: tuple[str, ...]
    after: nn.Module
    width: int


def kind_of(model: Any) -> Kind:
    """`encoder` (BERT and its kin), `decoder` (GPT-2), `vit` or `resnet` (of convolutions). Raises InputError RSD-2315.

    Each has blocks in a row, of which the first can be left frozen and run once a record. It goes by the type's name,
    never by what a model looks like: what is called alike may mix records, or norm what the top would take.
    """
    kind = TYPES.get(model.config.model_type)
    if kind is None:
        raise refuse_type(model.config.model_type)
    return kind


def must_be(model: Any, kinds: tuple[Kind, ...], what: str) -> None:
    """Raises InputError RSD-2335 unless the model takes in `what`."""
    if kind_of(model) not in kinds:
        raise InputError(
            "RSD-2335", "the model does not fit the task", rule=f"the task is about {what}",
            found=f"model_type {model.config.model_type}", limit=" or ".join(kinds),
            next="name a model for this task in the study",
        )  # fmt: skip


def blocks_of(model: Any) -> dict[str, nn.Module]:
    """Name in the model -> block, in order. Raises InputError RSD-2315."""
    at = _PLACES[kind_of(model)][0]
    rows = model.get_submodule(at)
    if kind_of(model) != "resnet":
        return {f"{at}.{i}": block for i, block in enumerate(rows)}
    return {f"{at}.{i}.layers.{j}": block for i, stage in enumerate(rows) for j, block in enumerate(stage.layers)}


def top_part(model: Any, layers: int) -> TopPart:
    """The last `layers` blocks. Raises InputError RSD-2316 if there are fewer."""
    found, kind = blocks_of(model), kind_of(model)
    if layers > len(found):
        raise InputError(
            "RSD-2316", "the trained layers do not fit the model", rule="trained layers are layers of the model",
            found=layers, limit=len(found), next="lower model.adapters.layers or model.whole_layers in the study",
        )  # fmt: skip
    names, norm = tuple(found)[len(found) - layers :], _PLACES[kind][1]
    after = model.get_submodule(norm) if norm and layers else nn.Identity()
    width = model.config.hidden_sizes[-1] if kind == "resnet" else model.config.hidden_size
    return TopPart(kind, tuple(found[n] for n in names), names, after, int(width))


def call_block(kind: Kind, block: nn.Module, hidden: torch.Tensor, shut: torch.Tensor | None) -> torch.Tensor:
    """One block. `shut` is added to the attention scores (`shut_out`)."""
    if kind == "resnet":
        out = block(hidden)
    elif kind == "decoder":
        out = block(hidden, None, shut, use_cache=False)
    else:
        out = block(hidden, shut)
    tensor: torch.Tensor = out
    return tensor


def shut_out(kind: Kind, mask: torch.Tensor | None) -> torch.Tensor | None:
    """From the mask of real tokens (n, tokens): what keeps attention from padding and, in a decoder, from later tokens.

    Float32 (n, 1, 1 or tokens, tokens): 0 where a token may be seen, else the least float32. None: all may be seen.
    """
    if mask is None:
        return None
    seen = mask[:, None, None, :]
    if kind == "decoder":
        tokens = mask.shape[1]
        seen = seen * torch.ones(tokens, tokens, device=mask.device).tril()
    return (1.0 - seen) * torch.finfo(torch.float32).min


@contextmanager
def without_last(model: Any, layers: int) -> Iterator[None]:
    """Within it, `run` leaves out the last `layers` blocks, and the norm behind them."""
    at, norm = _PLACES[kind_of(model)]
    if layers == 0 or kind_of(model) == "resnet":
        yield
        return
    owner, _, leaf = at.rpartition(".")
    holder = model.get_submodule(owner)
    rows, after = getattr(holder, leaf), model.get_submodule(norm) if norm else None
    setattr(holder, leaf, rows[: len(rows) - layers])
    if norm:
        setattr(model, norm, nn.Identity())
    try:
        yield
    finally:
        setattr(holder, leaf, rows)
        if norm:
            setattr(model, norm, after)


def run(model: Any, layers: int, rows: Inputs) -> torch.Tensor:
    """The output of embeddings and all but the last `layers` blocks for `rows`, which are the model's own inputs.

    (n, tokens, width), or (n, channels, height, width) of a network of convolutions.
    """
    if kind_of(model) == "resnet":
        hidden: torch.Tensor = model.embedder(rows["pixel_values"])
        blocks = list(blocks_of(model).values())
        for block in blocks[: len(blocks) - layers]:
            hidden = block(hidden)
        return hidden
    more = {"use_cache": False} if kind_of(model) == "decoder" else {}
    with without_last(model, layers):
        out: torch.Tensor = model(**rows, **more).last_hidden_state
    return out


def pooled(hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """One vector a record, (n, width): the mean over its real tokens, or over all places of an image."""
    if hidden.dim() == 4:
        return hidden.mean((2, 3))
    if mask is None:
        return hidden.mean(1)
    weight = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1)

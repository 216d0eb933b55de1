"""What a base model must be seen to do before it runs over a site's records: tried on public rows of the same shape."""

from __future__ import annotations

from typing import Any, Final

import torch

from client.training.examples import Inputs
from client.training.families import call_block, kind_of, run, shut_out, top_part
from client.training.model_admission import AFTER_PADDING, unreadable
from compliance.errors import InputError

_ROWS: Final = 3
_WHOLE: Final = 1e-5  # of the length: the same layers on the same rows
_FEWER: Final = 1e-4  # matrix libraries choose their kernels by the number of rows


def check_trunk(model: Any, layers: int, like: Inputs) -> None:
    """The first row's output is the same bits whatever the other rows hold, and is there without them; and all but the
    last `layers` blocks, then those, give what the whole model gives.

    `like`: inputs of the site's records, of which shapes and types are taken. Raises InputError RSD-2318 (values that
    are not finite), RSD-2340, RSD-2341.
    """
    rows = {name: _public(name, t, model, other=False) for name, t in like.items()}
    others = {name: _public(name, t, model, other=True) for name, t in like.items()}
    found, changed = run(model, layers, rows), run(model, layers, others)
    fewer = run(model, layers, {name: t[:2] for name, t in rows.items()})
    if not bool(torch.isfinite(found).all()):
        raise unreadable("weights", "the model yields values that are not finite")
    if not torch.equal(found[0], changed[0]) or _apart(fewer[0], found[0]) > _FEWER:
        raise mixes("the frozen part's output for a record")
    mask = rows["attention_mask"].float() if "attention_mask" in rows else None
    whole, split = _whole(model, rows), _continued(model, layers, found, mask)
    real = torch.ones(whole.shape[:2], dtype=torch.bool, device=whole.device) if mask is None else mask.bool()
    if (apart := _apart(split[real], whole[real])) > _WHOLE:
        raise InputError(
            "RSD-2341", "the frozen part and the trained part do not make up the model", rule="what is trained is the "
            "model that the study pins", found=f"outputs apart by {apart:.1e} of their length", limit=f"{_WHOLE:.0e}",
            next="choose another model; report this one's model_type and config.json",
        )  # fmt: skip


def mixes(what: str) -> InputError:
    """A record would change what another yields: no bound on its part would hold (RSD-2340)."""
    return InputError(
        "RSD-2340", "the model lets a record change what another record yields", rule="what a record yields depends on "
        "that record only", found=f"{what} depends on the records beside it", limit="the same with any other records",
        next="choose another model",
    )  # fmt: skip


def check_texts(model: Any, tokenizer: Any, max_tokens: int) -> None:
    """Texts of `max_tokens` tokens have places in `model`, and the tokenizer's tokens are its own.

    Raises InputError RSD-2323, RSD-2339.
    """
    config = model.config
    places = config.max_position_embeddings
    if config.model_type in AFTER_PADDING:
        places -= config.pad_token_id + 1
    if max_tokens > places:
        raise InputError(
            "RSD-2339", "the study's texts are longer than the model's", rule="task.max_tokens is at most the number "
            "of positions that the model knows", found=max_tokens, limit=places, next="lower task.max_tokens",
        )  # fmt: skip
    last = max(tokenizer.get_vocab().values(), default=0)
    if last >= config.vocab_size:
        raise InputError(
            "RSD-2323", "the tokenizer is not the model's", rule="the model has a vector for each of its tokens",
            found=f"token {last}", limit=f"below {config.vocab_size}",
            next="copy the model folder again, with its own tokenizer",
        )  # fmt: skip


def _public(name: str, like: torch.Tensor, model: Any, *, other: bool) -> torch.Tensor:
    """Rows that anybody can write down; with `other`, those after the first are as different as can be."""
    shape = (_ROWS, *like.shape[1:])
    at = torch.arange(like[0].numel(), device=like.device)
    row = torch.arange(_ROWS, device=like.device).unsqueeze(1)
    if name.endswith("mask"):
        rows = at < (len(at) - row).clamp_min(1)
    elif name == "input_ids":
        rows = (at * (3 + row) + row) % model.config.vocab_size
        if other:
            rows[1:] = model.config.vocab_size - 1
    elif like.is_floating_point():
        rows = torch.sin(at * (0.3 + row))
        if other:
            rows[1:] = 5.0
    else:
        rows = torch.zeros_like(at).expand(_ROWS, -1)
    return rows.reshape(shape).to(like.dtype)


def _whole(model: Any, rows: Inputs) -> torch.Tensor:
    more = {"use_cache": False} if kind_of(model) == "decoder" else {}
    out: torch.Tensor = model(**rows, **more).last_hidden_state
    return out


def _continued(model: Any, layers: int, hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    part = top_part(model, layers)
    shut = shut_out(part.kind, mask)
    for block in part.blocks:
        hidden = call_block(part.kind, block, hidden, shut)
    out: torch.Tensor = part.after(hidden)
    return out


def _apart(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Length of the difference, as a part of the length of `wanted`; infinite where either is not finite."""
    apart = torch.linalg.vector_norm(found - wanted) / torch.linalg.vector_norm(wanted).clamp_min(1e-12)
    return float(apart) if bool(torch.isfinite(apart)) else float("inf")

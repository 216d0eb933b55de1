"""Attention whose matrices all start alike in memory, so that a record's last bits do not follow its place.

Attention is one small matrix product for each record and head, and matrix libraries choose the kernel for each by the
address at which its matrices start. With 9 tokens, every other matrix of scores starts off a 64-byte boundary, and a
record has other last bits at an even place of the pass than at an odd one. Here tokens and the width of a head are
filled up to multiples of 8: every matrix is a whole number of 64 bytes, and what was filled in is shut out and cut off.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import nn
from torch.nn.functional import pad

NAME: Final = "residency_aligned"
_MULTIPLE: Final = 8  # of float32: 8 x 8 of them are 256 bytes


def align_attention(blocks: nn.Module) -> None:
    """From now on, every attention in `blocks` that transformers dispatches by name computes by `attend`."""
    from transformers import AttentionInterface, AttentionMaskInterface  # noqa: PLC0415 - slow to import
    from transformers.masking_utils import eager_mask  # noqa: PLC0415

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, eager_mask)
    for module in blocks.modules():
        config: Any = getattr(module, "config", None)
        if getattr(config, "_attn_implementation", None) is not None:
            config._attn_implementation = NAME  # noqa: SLF001 - what transformers' own setter does


def attend(
    _module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **_more: Any,
) -> tuple[torch.Tensor, None]:
    """softmax(q k^T s + mask) v of (n, heads, tokens, width), as (n, tokens, heads, width). No dropout.

    A token that was filled in has the weight exp(-inf) = 0 for every other one, in the backward pass too.
    """
    tokens, width = query.shape[-2:]
    scaling = width**-0.5 if scaling is None else scaling
    after, beside = -tokens % _MULTIPLE, -width % _MULTIPLE
    if after or beside:
        query, key, value = (pad(t, (0, beside, 0, after)) for t in (query, key, value))
        attention_mask = _longer(attention_mask, tokens, after, query)
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = torch.softmax(scores, -1, torch.float32).to(value.dtype)
    out = torch.matmul(weights, value)[:, :, :tokens, :width]
    return out.transpose(1, 2).contiguous(), None


def _longer(mask: torch.Tensor | None, tokens: int, after: int, like: torch.Tensor) -> torch.Tensor | None:
    """The mask with -inf for the keys that were filled in; what the queries that were filled in see is cut off."""
    if not after:
        return mask
    if mask is None:
        mask = torch.zeros(1, 1, 1, tokens, dtype=like.dtype, device=like.device)
    rows = after if mask.shape[-2] > 1 else 0
    return pad(pad(mask, (0, 0, 0, rows)), (0, after), value=-torch.inf)

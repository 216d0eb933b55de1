"""The frozen part of the model, run once per record: what the trained top takes in, cached at the site."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from client.training.examples import Inputs
from client.training.model_folder import load_encoder, load_tokenizer
from compliance.canonical import canonical, sha256_hex
from compliance.errors import InputError
from compliance.files import write_durably
from compliance.training_spec import ModelSpec, TaskSpec

_ROWS = 64  # records a forward pass; the last pass is filled up, so that every pass has one shape
MAX_CACHE_BYTES = 8 << 30


def trunk_key(model: ModelSpec, task: TaskSpec, texts: Sequence[str], layers: int) -> str:
    """Digest of everything that the trunk's output depends on: model, tokens, pooling, layers left out, the texts."""
    texts_sha = sha256_hex(canonical(list(texts)))
    parts = {"v": 1, "model": model.sha256, "pooling": model.pooling, "max_tokens": task.max_tokens, "layers": layers}
    return sha256_hex(canonical({**parts, "texts": texts_sha}))


def mean_pool(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over the real tokens: (n, tokens, width), (n, tokens) -> (n, width)."""
    weight = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1)


def run_trunk(
    encoder: Any, tokenizer: Any, texts: Sequence[str], max_tokens: int, layers: int, device: str = "cpu"
) -> Inputs:
    """Run embeddings and all but the last `layers` layers over `texts`, padded to exactly `max_tokens`, eval mode.

    `hidden` float32 (n, tokens, width) and `mask` float32 (n, tokens), 1 for a real token. With `layers` 0 the whole
    model is frozen: `hidden` is then the pooled vector as one token, (n, 1, width).
    """
    kept = encoder.encoder.layer
    encoder.encoder.layer = kept[: len(kept) - layers]
    encoder.to(device).eval()
    parts: list[Inputs] = []
    try:
        for start in range(0, len(texts), _ROWS):
            chunk = list(texts[start : start + _ROWS])
            filled = chunk + [""] * (_ROWS - len(chunk))
            with torch.inference_mode():
                tokens = tokenizer(
                    filled, padding="max_length", truncation=True, max_length=max_tokens, return_tensors="pt"
                ).to(device)
                hidden, mask = encoder(**tokens).last_hidden_state, tokens["attention_mask"].float()
                if layers == 0:
                    hidden, mask = mean_pool(hidden, mask).unsqueeze(1), torch.ones(_ROWS, 1)
            parts.append({"hidden": hidden[: len(chunk)].float().cpu(), "mask": mask[: len(chunk)].cpu()})
    finally:
        encoder.encoder.layer = kept
    return {name: torch.cat([p[name] for p in parts]) for name in ("hidden", "mask")}


def cached_trunk(
    model: ModelSpec, task: TaskSpec, folder: Path, texts: Sequence[str], cache_dir: Path, device: str = "cpu"
) -> Inputs:
    """The trunk's output for `texts`, from the cache if it is there and whole, else computed and stored.

    The cache is patient data: it is readable by its owner only and stays in `cache_dir` at the site. float32.
    Raises InputError RSD-2319 when it would exceed 8 GiB.
    """
    layers = model.adapters.layers if model.adapters else 0
    path = trunk_file(model, task, texts, cache_dir)
    if (hit := read_trunk(path)) is not None:
        return hit
    encoder = load_encoder(folder)
    _refuse_too_large(len(texts) * (task.max_tokens if layers else 1) * encoder.config.hidden_size * 4)
    out = run_trunk(encoder, load_tokenizer(folder), texts, task.max_tokens, layers, device)
    write_durably(path, save(out), private=True)
    return read_trunk(path) or out


def trunk_file(model: ModelSpec, task: TaskSpec, texts: Sequence[str], cache_dir: Path) -> Path:
    """Where `cached_trunk` keeps its result."""
    layers = model.adapters.layers if model.adapters else 0
    return cache_dir / f"trunk-{trunk_key(model, task, texts, layers)}.safetensors"


def read_trunk(path: Path) -> Inputs | None:
    """The cached tensors, mapped from the file; None if there is no whole file (it is then computed again)."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as f:
            return {name: f.get_tensor(name) for name in ("hidden", "mask")}
    except SafetensorError:
        path.unlink()
        return None


def _refuse_too_large(size: int) -> None:
    if size > MAX_CACHE_BYTES:
        raise InputError(
            "RSD-2319", "the cache of the frozen layers' outputs would be too large", rule="8 GiB a dataset",
            found=f"{size >> 20} MiB", limit=f"{MAX_CACHE_BYTES >> 20} MiB",
            next="use fewer max_tokens or a smaller dataset",
        )  # fmt: skip

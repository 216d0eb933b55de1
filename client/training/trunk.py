"""The frozen part of the model, run once per record: what the trained top takes in, cached at the site."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from client.training.attention import align_attention
from client.training.examples import Inputs
from client.training.families import must_be, pooled, run
from client.training.fast_products import fast_products
from client.training.model_folder import load_encoder, load_tokenizer
from client.training.place_check import check_trunk_places
from client.training.trunk_check import check_texts, check_trunk
from compliance.canonical import Json, canonical, sha256_hex
from compliance.errors import InputError
from compliance.files import write_durably
from compliance.task_spec import SequenceClassification
from compliance.training_spec import ModelSpec

_ROWS = 64  # records a forward pass; the last pass is filled up, so that every pass has one shape
MAX_CACHE_BYTES = 8 << 30
Read = Callable[[int, int], Inputs]  # (start, stop) -> the model's own inputs for these records


def inputs_key(model: ModelSpec, content: dict[str, Json]) -> str:
    """Digest of everything that the trunk's output depends on: model, pooling, layers left out, and the content."""
    parts = {"v": 2, "model": model.sha256, "pooling": model.pooling, "layers": model.trained_layers}
    return sha256_hex(canonical({**parts, **content}))


def trunk_key(model: ModelSpec, task: SequenceClassification, texts: Sequence[str]) -> str:
    """`inputs_key` of texts cut to the task's tokens."""
    return inputs_key(model, {"max_tokens": task.max_tokens, "texts": sha256_hex(canonical(list(texts)))})


def run_frozen(model: Any, layers: int, count: int, read: Read, device: str = "cpu", *, pool: bool = False) -> Inputs:
    """Run embeddings and all but the last `layers` blocks over `count` records, in eval mode.

    `hidden` float32 (n, ...) and, for texts, `mask` float32 (n, tokens), 1 for a real token. `pool`, where nothing is
    left out: `hidden` is then the pooled vector as one token, (n, 1, width). Raises InputError RSD-2319 (more than
    8 GiB), and first as `check_trunk` and
    `check_trunk_places`.
    """
    model.to(device).eval()
    align_attention(model)
    parts: list[Inputs] = []
    for start in range(0, count, _ROWS):
        stop = min(start + _ROWS, count)
        with torch.inference_mode(), fast_products(model):
            rows = {name: _filled(t, stop - start).to(device) for name, t in read(start, stop).items()}
            if start == 0:
                check_trunk(model, layers, rows)
                check_trunk_places(model, layers, rows)
            hidden, mask = run(model, layers, rows), _mask(rows)
            if pool and layers == 0:
                hidden, mask = pooled(hidden, mask).unsqueeze(1), torch.ones(_ROWS, 1)
        part = {"hidden": hidden.float()} | ({} if mask is None else {"mask": mask})
        parts.append({name: t[: stop - start].cpu() for name, t in part.items()})
        _refuse_too_large(count * hidden[0].numel() * 4)
    return {name: torch.cat([p[name] for p in parts]) for name in parts[0]}


def _filled(rows: torch.Tensor, count: int) -> torch.Tensor:
    """Repeats the last row: what it yields is dropped."""
    return torch.cat([rows, rows[-1:].expand(_ROWS - count, *rows.shape[1:])]) if count < _ROWS else rows


def _mask(rows: Inputs) -> torch.Tensor | None:
    return rows["attention_mask"].float() if "attention_mask" in rows else None


def run_trunk(
    encoder: Any, tokenizer: Any, texts: Sequence[str], max_tokens: int, layers: int, device: str = "cpu"
) -> Inputs:
    """`run_frozen` over texts, padded to exactly `max_tokens`; pooled if `layers` is 0. Raises as `check_texts` too."""
    check_texts(encoder, tokenizer, max_tokens)
    return run_frozen(encoder, layers, len(texts), read_texts(tokenizer, texts, max_tokens), device, pool=True)


def read_texts(tokenizer: Any, texts: Sequence[Any], max_tokens: int, *, words: bool = False) -> Read:
    """Texts, or with `words` lists of words, as the model's own inputs. The reader raises InputError RSD-2322."""

    def read(start: int, stop: int) -> Inputs:
        chunk = list(texts[start:stop])
        out = tokenizer(
            chunk, padding="max_length", truncation=True, max_length=max_tokens, return_tensors="pt",
            is_split_into_words=words,
        )  # fmt: skip
        if not bool(out["attention_mask"].any(1).all()):
            raise no_tokens()
        return dict(out)

    return read


def load_text_model(folder: Path) -> Any:
    """`load_encoder`, of a model that takes in texts. Raises InputError RSD-2335 for another."""
    model = load_encoder(folder)
    must_be(model, ("encoder", "decoder"), "texts")
    return model


def no_tokens() -> InputError:
    """A record holds nothing that could be learned from (RSD-2322)."""
    return InputError(
        "RSD-2322", "a record has no tokens", rule="every record has at least one token to learn from",
        found="a text without tokens", limit="at least 1 token, 2 for a language model",
        next="leave such rows out of the export",
    )  # fmt: skip


def cached_trunk(
    model: ModelSpec, task: SequenceClassification, folder: Path, texts: Sequence[str], cache: Path, device: str = "cpu"
) -> Inputs:
    """The trunk's output for `texts`, through `cached`."""

    def compute() -> Inputs:
        encoder = load_text_model(folder)
        return run_trunk(encoder, load_tokenizer(folder), texts, task.max_tokens, model.trained_layers, device)

    return cached(trunk_file(model, task, texts, cache), compute)


def cached(path: Path, compute: Callable[[], Inputs]) -> Inputs:
    """The inputs in `path` if it is there and whole, else computed and stored.

    The cache is patient data: it is readable by its owner only and stays at the site.
    """
    if (hit := read_trunk(path)) is not None:
        return hit
    out = compute()
    write_durably(path, save({name: t.contiguous() for name, t in out.items()}), private=True)
    return read_trunk(path) or out


def trunk_file(model: ModelSpec, task: SequenceClassification, texts: Sequence[str], cache: Path) -> Path:
    """Where `cached_trunk` keeps its result."""
    return inputs_file(cache, trunk_key(model, task, texts))


def inputs_file(cache: Path, key: str) -> Path:
    """Where the inputs of this `inputs_key` are kept."""
    return cache / f"trunk-{key}.safetensors"


def read_trunk(path: Path) -> Inputs | None:
    """The cached tensors, mapped from the file; None if there is no whole file (it is then computed again)."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as f:
            return {name: f.get_tensor(name) for name in sorted(f.keys())}
    except SafetensorError:
        path.unlink()
        return None


def _refuse_too_large(size: int) -> None:
    if size > MAX_CACHE_BYTES:
        raise InputError(
            "RSD-2319", "the cache of the frozen layers' outputs would be too large", rule="8 GiB a dataset",
            found=f"above {MAX_CACHE_BYTES >> 20} MiB", limit=f"{MAX_CACHE_BYTES >> 20} MiB",
            next="use fewer max_tokens, a smaller dataset, or fewer trained layers",
        )  # fmt: skip

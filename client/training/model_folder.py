"""A base model on disk: what counts as it, its digest, and loading it without network or foreign code."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compliance.errors import InputError

_TOKENIZER = frozenset(
    {
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
        "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model",
    }
)  # fmt: skip
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def model_files(folder: Path) -> tuple[Path, ...]:
    """The files of `folder` that make up the model, sorted by name: config, tokenizer, *.safetensors and their index.

    Raises InputError RSD-2310 (no such folder, no config.json), RSD-2311 (no weights), RSD-2312 (pickled weights only).
    """
    if not (folder / "config.json").is_file():
        raise InputError(
            "RSD-2310", "this is not a model folder", rule="a model folder holds config.json",
            found="no config.json", limit="config.json, tokenizer files, *.safetensors", next="check the path",
        )  # fmt: skip
    files = sorted(p for p in folder.iterdir() if p.is_file())
    weights = [p for p in files if p.name.endswith((".safetensors", ".safetensors.index.json"))]
    if not any(p.suffix == ".safetensors" for p in weights):
        _refuse_weights([p.name for p in files if p.suffix in _PICKLES])
    return tuple(p for p in files if p in weights or p.name == "config.json" or p.name in _TOKENIZER)


def _refuse_weights(pickles: list[str]) -> None:
    if pickles:
        raise InputError(
            "RSD-2312", "the model folder holds pickled weights only", rule="a pickle can run code when it is loaded",
            found=", ".join(pickles), limit="*.safetensors", next="convert the weights to safetensors",
        )  # fmt: skip
    raise InputError(
        "RSD-2311", "the model folder holds no weights", rule="a model folder holds *.safetensors",
        found="no *.safetensors", limit="*.safetensors", next="copy the model folder again",
    )  # fmt: skip


def model_digest(folder: Path) -> str:
    """SHA-256 over one line "<sha256 of the file>  <name>" for each of `model_files`, sorted by name; 64 hex digits.

    Files that do not matter (README, other formats) change nothing. Raises as `model_files`.
    """
    lines = []
    for path in model_files(folder):
        with path.open("rb") as f:
            lines.append(f"{hashlib.file_digest(f, 'sha256').hexdigest()}  {path.name}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def check_model(folder: Path, sha256: str) -> None:
    """Raises InputError RSD-2313 unless `folder` has this digest, RSD-2314 if the model brings its own code."""
    found = model_digest(folder)
    if found != sha256:
        raise InputError(
            "RSD-2313", "the model folder is not the model of the study", rule="the study pins its base model",
            found=found, limit=sha256, next="obtain the model that the study names, or tell the operator",
        )  # fmt: skip
    config = json.loads((folder / "config.json").read_bytes())
    if "auto_map" in config:
        raise InputError(
            "RSD-2314", "the model brings its own code", rule="no foreign code runs at a site",
            found="auto_map in config.json", limit="architectures of the transformers library",
            next="choose a model without remote code",
        )  # fmt: skip


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Transformers reads these variables at import and at call; the worker sets them too, before anything is loaded."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def load_encoder(folder: Path) -> Any:
    """The pretrained encoder in float32 and eval mode, with eager attention (deterministic, one code path everywhere).

    Reads `folder` only. Raises InputError RSD-2315 if it is not an encoder with `encoder.layer` (BERT and its kin).
    """
    with _offline():
        import torch  # noqa: PLC0415 - the agent takes digests without torch
        from transformers import AutoModel  # noqa: PLC0415
        from transformers.utils import logging  # noqa: PLC0415

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        model = AutoModel.from_pretrained(
            folder, config=_config(folder), local_files_only=True, trust_remote_code=False, use_safetensors=True,
            attn_implementation="eager", dtype=torch.float32,
        )  # fmt: skip
    return _checked(model)


def empty_encoder(folder: Path) -> Any:
    """The encoder that the config.json in `folder` describes, without weights: every tensor is on the meta device.

    Raises as `load_encoder`.
    """
    with _offline():
        import torch  # noqa: PLC0415
        from transformers import AutoModel  # noqa: PLC0415

        with torch.device("meta"):
            model = AutoModel.from_config(  # type: ignore[no-untyped-call]
                _config(folder), attn_implementation="eager", dtype=torch.float32
            )
    return _checked(model)


def _config(folder: Path) -> Any:
    from transformers import AutoConfig  # noqa: PLC0415

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    return config


def _checked(model: Any) -> Any:
    if not hasattr(getattr(model, "encoder", None), "layer"):
        raise InputError(
            "RSD-2315", "the model is not an encoder of the BERT kind", rule="layers under encoder.layer",
            found=type(model).__name__, limit="BERT, RoBERTa, ELECTRA and the like", next="choose such a model",
        )  # fmt: skip
    return model.eval().requires_grad_(False)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of `folder`, offline."""
    with _offline():
        from transformers import AutoTokenizer  # noqa: PLC0415 - as above

        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)

"""A base model on disk: what counts as it, its digest, and loading it without network or foreign code."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from client.training.model_admission import TYPES, check_folder, check_tokenizer, lacking, refuse_type, unreadable
from compliance.errors import InputError, ResidencyError

_TOKENIZER = frozenset(
    {
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
        "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model",
    }
)  # fmt: skip
_DROPOUTS = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "resid_pdrop", "embd_pdrop", "attn_pdrop",
)  # fmt: skip
_UNUSED = "pooler."  # of a model's tensors: features are the last hidden states
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
    """Raises InputError RSD-2313 unless `folder` has this digest, and as `check_folder`."""
    found = model_digest(folder)
    if found != sha256:
        raise InputError(
            "RSD-2313", "the model folder is not the model of the study", rule="the study pins its base model",
            found=found, limit=sha256, next="obtain the model that the study names, or tell the operator",
        )  # fmt: skip
    check_folder(folder)


@contextlib.contextmanager
def _reading(what: str) -> Iterator[None]:
    """What the libraries say of a file that is no such thing is a fault of the file (RSD-2318); no data is read here.

    A want of memory is not.
    """
    try:
        yield
    except (ResidencyError, MemoryError):
        raise
    except Exception as e:  # the libraries have dozens of types for this, some of their own
        if isinstance(e, RuntimeError) and "memory" in str(e):
            raise
        raise unreadable(what, f"{type(e).__name__}: {e}") from e


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
    """The pretrained model in float32 and eval mode, with eager attention (deterministic, one code path everywhere).

    Reads `folder` only. Raises as `check_folder`, InputError RSD-2311 (tensors missing), RSD-2330 (BatchNorm).
    """
    check_folder(folder)
    config = _config(folder)
    if config.model_type == "resnet":
        from client.training.group_norm import load_group_norm  # noqa: PLC0415 - torch

        with _reading("weights"):
            model = load_group_norm(folder, config)
        return _frozen(model)
    return _frozen(_pretrained("AutoModel", folder, config))


def load_decoder(folder: Path) -> Any:
    """The pretrained causal language model (GPT-2) with its LM head; otherwise as `load_encoder`."""
    check_folder(folder)
    return _frozen(_pretrained("AutoModelForCausalLM", folder, _decoder_config(folder)))


def empty_encoder(folder: Path) -> Any:
    """The encoder that the config.json in `folder` describes, without weights: every tensor is on the meta device.

    Raises as `load_encoder`.
    """
    config = _config(folder)
    model = _empty("AutoModel", config)
    if config.model_type == "resnet":
        from client.training.group_norm import with_group_norm  # noqa: PLC0415 - torch

        with_group_norm(model, config)
    return _frozen(model)


def empty_decoder(folder: Path) -> Any:
    """As `empty_encoder`, for `load_decoder`."""
    return _frozen(_empty("AutoModelForCausalLM", _decoder_config(folder)))


def _pretrained(auto: str, folder: Path, config: Any) -> Any:
    with _offline():
        import torch  # noqa: PLC0415 - the agent takes digests without torch
        import transformers  # noqa: PLC0415
        from transformers.utils import logging  # noqa: PLC0415

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        with _reading("weights"):
            model, found = getattr(transformers, auto).from_pretrained(
                folder, config=config, local_files_only=True, trust_remote_code=False, use_safetensors=True,
                attn_implementation="eager", dtype=torch.float32, output_loading_info=True,
            )  # fmt: skip
    missing = sorted(name for name in found["missing_keys"] if not name.startswith(_UNUSED))
    if missing:
        raise lacking(missing, len(model.state_dict()))
    return model


def _empty(auto: str, config: Any) -> Any:
    with _offline():
        import torch  # noqa: PLC0415
        import transformers  # noqa: PLC0415

        with torch.device("meta"), _reading("config.json"):
            return getattr(transformers, auto).from_config(config, attn_implementation="eager", dtype=torch.float32)


def _config(folder: Path) -> Any:
    with _offline():
        from transformers import AutoConfig  # noqa: PLC0415

        with _reading("config.json"):
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if config.model_type not in TYPES:
        raise refuse_type(config.model_type)
    for name in _DROPOUTS:
        if hasattr(config, name):
            setattr(config, name, 0.0)
    return config


def _decoder_config(folder: Path) -> Any:
    config = _config(folder)
    if config.model_type != "gpt2":
        raise InputError(
            "RSD-2335", "the model does not fit the task", rule="a causal language model is a decoder",
            found=f"model_type {config.model_type}", limit="gpt2", next="name a model of the GPT-2 kind in the study",
        )  # fmt: skip
    return config


def _frozen(model: Any) -> Any:
    return model.eval().requires_grad_(False)


def load_tokenizer(folder: Path, *, words: bool = False) -> Any:
    """The tokenizer of `folder`, offline, for texts or for texts cut into `words`. It fills up on the right.

    Raises InputError RSD-2318 (damaged), RSD-2323 if there is none, it cannot fill up, or it cannot tell which token
    belongs to which word.
    """
    check_tokenizer(folder)
    with _offline(), _reading("tokenizer"):
        from transformers import AutoTokenizer  # noqa: PLC0415 - as above

        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, **({"add_prefix_space": True} if words else {})
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # decoders have none; what is filled up is masked
    if tokenizer.pad_token is None or not tokenizer.is_fast:
        raise InputError(
            "RSD-2323", "the model's tokenizer does not fit", rule="a fast tokenizer with a padding or end token",
            found=type(tokenizer).__name__, limit="tokenizer.json with a padding or end token",
            next="choose another model, or save its tokenizer in the fast form",
        )  # fmt: skip
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    return tokenizer

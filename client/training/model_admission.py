"""Which base models are taken: by type, settings and files, told from the folder without loading the model. No torch.

The types are those for which the tests compare the frozen part and the trained top, one after the other, with the whole
model (tests/unit/client/test_model_types.py). A type that is not listed is refused, however much it looks like one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from compliance.errors import InputError

Kind = Literal["encoder", "decoder", "vit", "resnet"]
TYPES: Final[dict[str, Kind]] = {
    "bert": "encoder",
    "roberta": "encoder",
    "xlm-roberta": "encoder",
    "camembert": "encoder",
    "electra": "encoder",
    "gpt2": "decoder",
    "vit": "vit",
    "resnet": "resnet",
}
AFTER_PADDING: Final = ("roberta", "xlm-roberta", "camembert")  # their positions are counted from the padding id on
TOKENIZERS: Final = (
    ("tokenizer.json",), ("vocab.txt",), ("vocab.json", "merges.txt"), ("sentencepiece.bpe.model",), ("spiece.model",),
)  # fmt: skip
_BY_CHANCE: Final = ("dropout", "alpha", "nbest_size")  # of BPE, and of Unigram
_NEVER: Final = ("dropout", 0)
_AS_TESTED: Final[dict[str, object]] = {  # other values change what the model computes
    "is_decoder": False, "is_encoder_decoder": False, "add_cross_attention": False, "chunk_size_feed_forward": 0,
    "position_embedding_type": "absolute", "pruned_heads": {}, "scale_attn_weights": True, "return_dict": True,
    "scale_attn_by_inverse_layer_idx": False, "reorder_and_upcast_attn": False, "output_attentions": False,
    "output_hidden_states": False,
}  # fmt: skip
_ABSENT: Final = (  # they name other files, other number formats or other masks
    "configuration_files", "transformers_weights", "quantization_config", "distributed_config", "fusion_config",
    "is_causal", "sliding_window", "attention_chunk_size", "layer_types",
)  # fmt: skip
_ADAPTERS: Final = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")


def refuse_type(found: object) -> InputError:
    """The one refusal of a type that is not listed (RSD-2315)."""
    return InputError(
        "RSD-2315", "the model is of no type that can be trained here", rule="types whose parts were tested to make up "
        "the whole model", found=f"model_type {found}", limit=", ".join(TYPES), next="choose a model of such a type",
    )  # fmt: skip


def unreadable(what: str, found: str) -> InputError:
    """A file of the model cannot be used as what it is (RSD-2318)."""
    return InputError(
        "RSD-2318", f"the model's {what} cannot be read", rule="a whole model folder, as it was published",
        found=" ".join(found.split())[:160], limit="a model that transformers loads",
        next="copy the model folder again",
    )  # fmt: skip


def lacking(missing: list[str], wanted: int) -> InputError:
    """Tensors of the model are in none of its files; they would be filled by chance, otherwise at each site."""
    return InputError(
        "RSD-2311", "the model folder lacks weights", rule="every tensor of the model is in its files",
        found=f"{len(missing)} missing, {missing[0]} first", limit=f"{wanted} tensors",
        next="copy the model folder again, or convert it again",
    )  # fmt: skip


def read_settings(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """The JSON object in this file. Raises InputError RSD-2318."""
    try:
        found = json.loads((folder / name).read_bytes())
    except (OSError, ValueError, RecursionError) as e:
        raise unreadable(name, type(e).__name__) from e
    if not isinstance(found, dict):
        raise unreadable(name, f"{type(found).__name__} instead of an object")
    return found


def check_folder(folder: Path) -> None:
    """Type, settings and files of a model folder; its tensors are looked at when it is loaded.

    Raises InputError RSD-2314 (code of its own), RSD-2315 (type), RSD-2318 (damaged), RSD-2323 (no tokenizer), RSD-2337
    (a setting under which the parts were not tested), RSD-2338 (files beside the model's own that would change it).
    """
    config = read_settings(folder)
    _refuse_code(config, "config.json")
    kind = TYPES.get(str(config.get("model_type")))
    if kind is None:
        raise refuse_type(config.get("model_type"))
    _check_settings(config)
    _check_files(folder)
    if kind in ("encoder", "decoder"):
        check_tokenizer(folder)


def _refuse_code(settings: Mapping[str, Any], name: str) -> None:
    if "auto_map" in settings:
        raise InputError(
            "RSD-2314", "the model brings its own code", rule="no foreign code runs at a site",
            found=f"auto_map in {name}", limit="architectures of the transformers library",
            next="choose a model without remote code",
        )  # fmt: skip


def _check_settings(config: Mapping[str, Any]) -> None:
    odd = {k: v for k, v in _AS_TESTED.items() if k in config and config[k] != v}
    odd |= {k: None for k in _ABSENT if config.get(k) is not None}
    if odd:
        name = min(odd)
        raise InputError(
            "RSD-2337", "the model is set to compute otherwise than was tested", rule="settings of config.json that "
            "change what a model computes", found=f"{name}: {json.dumps(config[name])[:60]}",
            limit=f"{name}: {json.dumps(odd[name])}", next="choose a model without this setting",
        )  # fmt: skip


def _check_files(folder: Path) -> None:
    if beside := [name for name in _ADAPTERS if (folder / name).exists()]:
        raise _foreign(", ".join(beside), "merge the adapter into the model and save it, or take the files away")
    for index in sorted(folder.glob("*.safetensors.index.json")):
        places = read_settings(folder, index.name).get("weight_map")
        if not isinstance(places, dict):
            raise unreadable(index.name, "no weight_map")
        if odd := [p for p in places.values() if not _is_own(folder, p)]:
            raise _foreign(f"{str(odd[0])[:60]} in {index.name}", "put all files of the model into one folder")
    for path in sorted(folder.glob("*.safetensors")):
        _check_tensors(path)


def _is_own(folder: Path, name: object) -> bool:
    plain = isinstance(name, str) and name.endswith(".safetensors") and Path(name).name == name
    return plain and (folder / str(name)).is_file()


def _check_tensors(path: Path) -> None:
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - heavy commands only

    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as e:
        raise unreadable(path.name, f"{type(e).__name__}: {e}") from e


def check_tokenizer(folder: Path) -> None:
    """The files of a tokenizer are there, and they are those that the digest covers. Raises RSD-2314, RSD-2318,
    RSD-2323, RSD-2338."""
    if not any(all((folder / name).is_file() for name in names) for names in TOKENIZERS):
        raise InputError(
            "RSD-2323", "the model folder holds no tokenizer", rule="texts are cut by the model's own tokenizer",
            found="no tokenizer file", limit=" or ".join(" with ".join(names) for names in TOKENIZERS),
            next="copy the model folder again, with its tokenizer",
        )  # fmt: skip
    if (folder / "tokenizer_config.json").is_file():
        settings = read_settings(folder, "tokenizer_config.json")
        _refuse_code(settings, "tokenizer_config.json")
        if settings.get("fast_tokenizer_files"):
            raise _foreign("fast_tokenizer_files in tokenizer_config.json", "save the tokenizer as tokenizer.json")
    if (folder / "tokenizer.json").is_file():
        _refuse_chance(read_settings(folder, "tokenizer.json").get("model"))


def _refuse_chance(model: object) -> None:
    if not isinstance(model, dict):
        raise unreadable("tokenizer.json", "no model")
    chosen = {name: model.get(name) for name in _BY_CHANCE}
    if odd := [f"{name} {value}" for name, value in chosen.items() if value is not None and (name, value) != _NEVER]:
        raise InputError(
            "RSD-2323", "the model's tokenizer cuts by chance", rule="a text has the same tokens whenever it is read",
            found=", ".join(odd)[:60], limit="none of these in tokenizer.json",
            next="save the tokenizer without them, and give the study the digest of that folder",
        )  # fmt: skip


def _foreign(found: str, next_: str) -> InputError:
    return InputError(
        "RSD-2338", "the model folder holds or names files that would change the model", rule="the digest of a model "
        "covers all that is loaded", found=found, limit="config.json, tokenizer files, *.safetensors of the model",
        next=next_,
    )  # fmt: skip

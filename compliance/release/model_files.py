"""The released model: mean of the last globals, and the files that hold it. Defined once, for build and verify."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from math import prod
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from compliance.adapter_init import frozen_a
from compliance.built_in import shapes_of, start_of
from compliance.canonical import Json, canonical, sha256_hex
from compliance.errors import InputError
from compliance.study import Study
from compliance.task_spec import Tabular, labels_of
from compliance.training_spec import Adapters, BuiltIn, Frozen

Float32 = npt.NDArray[np.float32]
LORA_A, LORA_B = ".lora_A.weight", ".lora_B.weight"
HEAD = ("head.weight", "head.bias")
HEAD_FILE, ADAPTER_FILE, CONFIG_FILE, DIFFERENCE_FILE = (
    "model/head.safetensors",
    "model/adapter_model.safetensors",
    "model/adapter_config.json",
    "model/difference.safetensors",  # of tensors of the base model: to be added to them
)
NETWORK_FILE, NETWORK_CONFIG = "model/network.safetensors", "model/network.json"  # a built-in model, whole
WEIGHTS = (ADAPTER_FILE, HEAD_FILE, DIFFERENCE_FILE, NETWORK_FILE)
_PEFT_PREFIX = "base_model.model."
_LAYER = re.compile(r"\.(?:layer|h|layers)\.([0-9]{1,4})\.")
_BLOCK = re.compile(r"(?:[a-z]+\.)?(?:layer|h|stages\.[0-9]{1,4}\.layers|layers)\.[0-9]{1,4}\.")
_GPT2 = re.compile(r"(?:transformer\.)?h\.[0-9]")  # its linear layers hold their weights transposed
_MAX_PARAMETERS = 2**28
_RULE = "residency.layout/1"


class LayoutEntry(Frozen):
    """One trained tensor. `a_width`: for a LoRA B, the width of the frozen A that it belongs to."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.]{1,200}$")
    shape: tuple[int, ...] = Field(min_length=1, max_length=4)
    a_width: int | None = Field(default=None, ge=1, le=2**20)

    @property
    def size(self) -> int:
        """Number of values."""
        return prod(self.shape)


class LayoutFile(Frozen):
    """layout.json: what lies where in a flat snapshot.

    Head first, if the task has one; then LoRA B's by their peft names; then, where layers are trained whole, their
    tensors by the names of the base model, as differences from it.
    """

    schema_: Literal["residency.layout/1"] = Field(alias="schema")
    entries: tuple[LayoutEntry, ...] = Field(min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _coherent(self) -> LayoutFile:
        if len({e.name for e in self.entries}) != len(self.entries):
            raise ValueError("a tensor stands twice")
        if any(n < 1 for e in self.entries for n in e.shape) or self.size > _MAX_PARAMETERS:
            raise ValueError(f"a dimension is below 1, or there are more than {_MAX_PARAMETERS} parameters")
        for e in self.entries:
            if e.name.endswith(LORA_B) != (e.a_width is not None) or (e.a_width is not None and len(e.shape) != 2):
                raise ValueError(f"{e.name}: a LoRA B has two dimensions and an a_width, and nothing else has one")
        return self

    @property
    def size(self) -> int:
        """Number of trained parameters."""
        return sum(e.size for e in self.entries)

    @property
    def lora(self) -> tuple[LayoutEntry, ...]:
        """The LoRA B's."""
        return tuple(e for e in self.entries if e.name.endswith(LORA_B))

    @property
    def whole(self) -> tuple[LayoutEntry, ...]:
        """The tensors of layers that are trained whole."""
        return tuple(e for e in self.entries if not e.name.endswith(LORA_B) and e.name not in HEAD)

    @property
    def digest(self) -> str:
        """The digest that sites log when they join (`compliance.messages.layout_digest`)."""
        return sha256_hex(canonical([e.model_dump(mode="json", exclude_none=True) for e in self.entries]))

    def split(self, flat: Float32) -> dict[str, Float32]:
        """Tensors by name."""
        out, at = {}, 0
        for e in self.entries:
            out[e.name] = flat[at : at + e.size].reshape(e.shape)
            at += e.size
        return out


def _targeted(module: str, targets: tuple[str, ...]) -> bool:
    """Whether peft would adapt `module` for these targets: a name, or the end of a dotted path."""
    return any(module == t or module.endswith(f".{t}") for t in targets)


def check_layout(layout: LayoutFile, study: Study) -> None:
    """The layout is of this study's model. Raises InputError RSD-9042.

    Head by the labels, none for a task without labels; B's by rank and targets; whole layers as many as the study says;
    a built-in model's names, shapes and order follow from the study alone.
    """
    if study.model.built_in:
        wanted = shapes_of(study.model.built_in, *_ends(study))
        if {e.name: e.shape for e in layout.entries} != wanted or tuple(e.name for e in layout.entries) != (*wanted,):
            raise _bad("the layout is not that of the built-in model", [e.name for e in layout.entries], [*wanted])
        return
    _check_head(layout, study)
    adapters = study.model.adapters
    if bool(layout.lora) != (adapters is not None):
        raise _bad("adapters in the layout and in the study differ", len(layout.lora), adapters)
    for e in layout.lora if adapters else ():
        if adapters is None or e.shape[1] != adapters.rank or not _targeted(_module(e.name), adapters.targets):
            raise _bad(f"{e.name} is not of the study's adapters", e.shape, adapters)
    if adapters is not None:
        _check_layers(layout.lora, adapters)
    blocks = {found.group() if (found := _BLOCK.match(e.name)) else e.name for e in layout.whole}
    if len(blocks) != study.model.whole_layers or not all(_BLOCK.fullmatch(b) for b in blocks):
        limit = f"{study.model.whole_layers} layers"
        raise _bad("the layers trained whole are not those of the study", sorted(blocks), limit)


def _check_head(layout: LayoutFile, study: Study) -> None:
    labels, wanted = len(labels_of(study.task)), HEAD if labels_of(study.task) else ()
    shapes = {e.name: e.shape for e in layout.entries}
    if tuple(shapes)[: len(wanted)] != wanted:
        raise _bad("the head does not come first", tuple(shapes)[: len(wanted)], wanted)
    if not wanted and set(HEAD) & set(shapes):
        raise _bad("the task has no head", sorted(set(HEAD) & set(shapes)), "no head")
    if wanted and (shapes[HEAD[1]] != (labels,) or len(shapes[HEAD[0]]) != 2 or shapes[HEAD[0]][0] != labels):
        raise _bad("the head does not have a row per label", shapes[HEAD[0]], f"({labels}, width)")


def _check_layers(lora: tuple[LayoutEntry, ...], adapters: Adapters) -> None:
    """As many layers as the study says, one after the other, each with the same modules.

    Which of the model's layers they are the names alone cannot tell; the sites' `join` entries hold the whole layout.
    """
    found: dict[int, set[str]] = {}
    for e in lora:
        layer = _LAYER.search(e.name)
        if layer is None:
            return  # a model that does not number its layers
        found.setdefault(int(layer.group(1)), set()).add(e.name[layer.end() :])
    first = min(found)
    if sorted(found) != list(range(first, first + adapters.layers)):
        raise _bad("the adapted layers are not those of the study", sorted(found), f"{adapters.layers} layers in a row")
    if any(modules != found[first] for modules in found.values()):
        raise _bad("the adapted layers differ in their modules", [len(m) for m in found.values()], "the same in each")


def snapshot(data: bytes, layout: LayoutFile, what: str) -> Float32:
    """A flat snapshot: little-endian float32, as long as the layout says, finite. Raises InputError RSD-9042."""
    if len(data) != 4 * layout.size:
        raise _bad(f"{what} does not fit the layout", f"{len(data)} bytes", f"{4 * layout.size} bytes")
    flat = np.frombuffer(data, dtype="<f4")
    if not np.isfinite(flat).all():
        raise _bad(f"{what} is not finite", f"{int((~np.isfinite(flat)).sum())} values", "finite values")
    return flat


def released_mean(globals_: Sequence[Float32]) -> Float32:
    """The mean of the last globals: summed in float64 in the order of rounds, divided, cast to float32.

    Every operation is one IEEE 754 operation per value in a fixed order: the same bits on each machine.
    """
    total = np.zeros(globals_[0].shape, dtype=np.float64)
    for flat in globals_:
        total += flat
    with np.errstate(over="ignore"):
        return (total / len(globals_)).astype("<f4")


def model_files(study: Study, layout: LayoutFile, flat: Float32) -> dict[str, bytes]:
    """Path in the bundle -> bytes, one sequence of bytes for one model."""
    tensors = layout.split(flat)
    if study.model.built_in:
        return _network(study, study.model.built_in, tensors)
    files = {}
    if labels_of(study.task):
        files[HEAD_FILE] = safetensors_bytes({name: tensors[name] for name in HEAD})
    if layout.whole:
        files[DIFFERENCE_FILE] = safetensors_bytes({e.name: tensors[e.name] for e in layout.whole})
    adapters = study.model.adapters
    if adapters is not None:
        lora: dict[str, Float32] = {}
        for e in layout.lora:
            base = e.name.removesuffix(LORA_B)
            lora[e.name] = tensors[e.name]
            lora[base + LORA_A] = frozen_a(adapters.init_seed, base, adapters.rank, e.a_width or 1)
        files[ADAPTER_FILE] = safetensors_bytes(lora)
        files[CONFIG_FILE] = _adapter_config(study, adapters, [_module(n) for n in lora if n.endswith(LORA_B)])
    return files


def _ends(study: Study) -> tuple[int, int]:
    """Width of a record and number of classes of a study with a built-in model."""
    return (len(study.task.cells) if isinstance(study.task, Tabular) else 0), len(labels_of(study.task))


def _network(study: Study, model: BuiltIn, tensors: dict[str, Float32]) -> dict[str, bytes]:
    """The trained values themselves, where each began plus how far it moved, and what the network and its cells are."""
    whole = {name: start_of(model, name, moved.shape) + moved for name, moved in tensors.items()}
    config: dict[str, Json] = {
        "built_in": model.model_dump(mode="json"),
        "feature_norm_milli": study.model.feature_norm_milli,
        "task": study.task.model_dump(mode="json"),
    }
    if isinstance(study.task, Tabular):
        config["cells"] = list(study.task.cells)
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=True).encode() + b"\n"
    return {NETWORK_FILE: safetensors_bytes(whole), NETWORK_CONFIG: text}


def safetensors_bytes(tensors: dict[str, Float32]) -> bytes:
    """The safetensors format (github.com/huggingface/safetensors, "Format"), float32 only, names sorted.

    Written here so that a library's choice of order or padding never changes the bytes of a release.
    """
    header: dict[str, Json] = {"__metadata__": {"format": "pt"}}
    at, data = 0, []
    for name in sorted(tensors):
        raw = np.ascontiguousarray(tensors[name], dtype="<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(tensors[name].shape), "data_offsets": [at, at + len(raw)]}
        at += len(raw)
        data.append(raw)
    encoded = canonical(header)
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(8, "little") + encoded + b"".join(data)


def _adapter_config(study: Study, adapters: Adapters, modules: list[str]) -> bytes:
    """What peft's PeftModel.from_pretrained reads. Modules stand by their whole paths: only these have adapters."""
    alpha = adapters.scale_milli * adapters.rank / 1000
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if study.task.kind == "causal_lm" else None,
        "base_model_name_or_path": study.model.name,
        "inference_mode": True,
        "r": adapters.rank,
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": any(_GPT2.match(m) for m in modules),
        "target_modules": sorted(modules),
    }
    return json.dumps(config, indent=2, sort_keys=True).encode() + b"\n"


def _module(name: str) -> str:
    return re.sub(f"^{re.escape(_PEFT_PREFIX)}", "", name.removesuffix(LORA_B))


def _bad(message: str, found: object, limit: object) -> InputError:
    return InputError("RSD-9042", message, rule=_RULE, found=found, limit=limit, next="obtain the bundle again")

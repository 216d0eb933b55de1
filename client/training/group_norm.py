"""Networks of convolutions with GroupNorm (Wu and He 2018, arXiv 1803.08494): BatchNorm mixes records, and is refused.

A converted folder is a ResNet's whose config.json says `residency_groups`; its normalisations are GroupNorms with the
scale and shift of the BatchNorms that they replace. The running means are dropped: such a model must be trained on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from client.training.model_admission import lacking, read_settings, unreadable
from compliance.errors import InputError
from compliance.files import refuse_existing

GROUPS: Final = "residency_groups"
_DROPPED: Final = ("running_mean", "running_var", "num_batches_tracked")


def with_group_norm(model: Any, config: Any) -> None:
    """Replace each BatchNorm2d of `model`, on its device. Raises InputError RSD-2330 if `config` names no groups."""
    groups = getattr(config, GROUPS, None)
    if not isinstance(groups, int) or groups < 1:
        raise InputError(
            "RSD-2330", "the model has BatchNorm", rule="a record must not change what another record yields",
            found="BatchNorm", limit="GroupNorm", next="convert it: residency agent model convert FOLDER --out DIR",
        )  # fmt: skip
    for parent in list(model.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, _group_norm(norm, groups))


def _group_norm(norm: nn.BatchNorm2d, groups: int) -> nn.GroupNorm:
    if norm.num_features % groups:
        raise InputError(
            "RSD-2336", "the groups do not divide the channels", rule="channels are split into equal groups",
            found=groups, limit=f"a divisor of {norm.num_features}", next="convert the model with other --groups",
        )  # fmt: skip
    return nn.GroupNorm(groups, norm.num_features, eps=norm.eps, device=norm.weight.device)


def load_group_norm(folder: Path, config: Any) -> Any:
    """The converted ResNet in `folder`, float32. Raises InputError RSD-2330, RSD-2311 (weights missing)."""
    from transformers import ResNetModel  # noqa: PLC0415 - slow to import

    model = ResNetModel(config)
    with_group_norm(model, config)
    found = {k.removeprefix("resnet."): t.float() for k, t in _tensors(folder).items()}
    wanted = model.state_dict()
    if missing := sorted(set(wanted) - set(found)):
        raise lacking(missing, len(wanted))
    model.load_state_dict({name: found[name] for name in wanted})
    return model


def _tensors(folder: Path) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            out |= load_file(path)
        except SafetensorError as e:
            raise unreadable(path.name, f"{type(e).__name__}: {e}") from e
    return out


def convert(folder: Path, out: Path, groups: int) -> Path:
    """Write into `out` the ResNet of `folder` with GroupNorm in place of BatchNorm. Reads no data.

    Raises InputError RSD-2310 (no config.json), RSD-2318 (damaged), RSD-2335 (no ResNet), RSD-2336 (groups), RSD-2009
    (`out` exists).
    """
    config = _resnet_config(folder)
    refuse_existing(out)
    kept = {k: t for k, t in _tensors(folder).items() if not k.endswith(_DROPPED)}
    _try_groups(config, groups)
    out.mkdir(parents=True)
    save_file(kept, out / "model.safetensors", {"format": "pt"})
    (out / "config.json").write_text(json.dumps({**config, GROUPS: groups}, indent=2, sort_keys=True) + "\n")
    return out


def _resnet_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(
            "RSD-2310", "this is not a model folder", rule="a model folder holds config.json", found="no config.json",
            limit="config.json, *.safetensors", next="check the path",
        )  # fmt: skip
    config = read_settings(folder)
    if config.get("model_type") != "resnet":
        raise InputError(
            "RSD-2335", "only a ResNet can be converted", rule="BatchNorm is replaced in a ResNet",
            found=f"model_type {config.get('model_type')}", limit="resnet", next="choose a ResNet, or a ViT as it is",
        )  # fmt: skip
    return config


def _try_groups(config: dict[str, Any], groups: int) -> None:
    widths = [config.get("embedding_size", 64), *config.get("hidden_sizes", ())]
    if config.get("layer_type", "bottleneck") == "bottleneck":
        widths += [w // 4 for w in config.get("hidden_sizes", ())]
    if groups < 1 or any(w % groups for w in widths):
        raise InputError(
            "RSD-2336", "the groups do not divide the channels", rule="channels are split into equal groups",
            found=groups, limit=f"a divisor of {', '.join(map(str, sorted(set(widths))))}",
            next="choose another --groups",
        )  # fmt: skip

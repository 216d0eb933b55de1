"""Where the parameters of a built-in model begin: the same bits on each machine, without a tensor library."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from compliance.adapter_init import frozen_a
from compliance.training_spec import BuiltIn


def start_of(model: BuiltIn, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """The public value that the trained parameter `name` of this `shape` begins with, float32.

    `hidden.<i>.weight`: random signs over the square root of its width (compliance.adapter_init); `head.bias`:
    `start_bias_micro` in millionths; all others zero.
    """
    if name.startswith("hidden.") and name.endswith(".weight") and model.init_seed is not None:
        return frozen_a(model.init_seed, name.removesuffix(".weight"), *shape)
    if name == "head.bias" and model.start_bias_micro is not None:
        return (np.array(model.start_bias_micro, dtype=np.float64) / 1e6).astype(np.float32)
    return np.zeros(shape, dtype=np.float32)


def shapes_of(model: BuiltIn, width: int, classes: int) -> dict[str, tuple[int, ...]]:
    """Name -> shape of its parameters, in the order of the flat vector; `width` cells a record."""
    widths = (width, *model.hidden)
    out: dict[str, tuple[int, ...]] = {"head.weight": (classes, widths[-1]), "head.bias": (classes,)}
    for i, (inner, outer) in enumerate(pairwise(widths)):
        out |= {f"hidden.{i}.weight": (outer, inner), f"hidden.{i}.bias": (outer,)}
    return out

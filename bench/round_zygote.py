"""The stand-in's warm process: `python -m bench.round_zygote FD`. The agent's own, with random numbers for training."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import opacus

from client import zygote
from client.framing import Array

IMPORTED = (opacus,)  # the stock side imports it too; torch and transformers come with the warm process itself


def draw(header: dict[str, Any], base: Array) -> tuple[dict[str, Any], Array]:
    """The task: as many random numbers as the global model has, other ones for each message."""
    del header
    return {}, np.random.default_rng().random(base.size, dtype=np.float32)


if __name__ == "__main__":
    zygote.main(int(sys.argv[1]), draw)

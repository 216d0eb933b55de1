"""The frozen A of FFA-LoRA from a public seed: the same bits on each machine, without a tensor library."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt


def frozen_a(init_seed: int, name: str, rank: int, width: int) -> npt.NDArray[np.float32]:
    """A random sign matrix of shape (rank, width), each row of length 1: entries are +-1 / sqrt(width).

    Signs are the bits of SHA-256(seed | name | counter). Random signs preserve inner products in expectation
    (Achlioptas 2003, database-friendly random projections), which is all that a frozen A is for; unlike Gaussian
    entries they are exact, so that every site and every verifier obtains identical bits.
    """
    needed = rank * width
    blocks = [
        hashlib.sha256(f"residency.lora-a/1|{init_seed}|{name}|{i}".encode()).digest()
        for i in range((needed + 255) // 256)
    ]
    bits = np.unpackbits(np.frombuffer(b"".join(blocks), dtype=np.uint8))[:needed].reshape(rank, width)
    scale = np.float32(1.0) / np.sqrt(np.float32(width))
    signs: npt.NDArray[np.float32] = np.where(bits == 1, scale, -scale).astype(np.float32)
    return signs

"""Where the training runs: the accelerator if there is one."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def pick_device() -> torch.device:
    """CUDA, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 for the matrix products on CUDA; float32 elsewhere. Per-sample gradients and norms are never less."""
    if device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()


def exact(t: torch.Tensor) -> torch.Tensor:
    """`t` where float64 exists: itself, or a copy on the CPU for Apple's MPS, which has none."""
    return t.cpu() if t.device.type == "mps" else t


def send(t: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the host on `device`, without waiting for the device: pinned first where that makes a difference."""
    if device.type == "cuda" and t.device.type == "cpu":
        t = t.pin_memory()
    return t.to(device, non_blocking=True)

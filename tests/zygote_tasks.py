"""A warm process whose tasks also misbehave: the production one with another function for its tasks.

`Warm(PROGRAM)` starts it. What it does not know is a request of production.
"""

from __future__ import annotations

import os
import random
import resource
import socket
import sys
import time
from pathlib import Path
from typing import Any

from client import worker_main, zygote
from client.framing import Array
from client.training.keystream import Keystream
from client.worker_main import Answer

PROGRAM = (__file__,)
LIGHT = (__file__, "light")  # without the training stack: starts at once, and must not draw or train
BROKEN = (__file__, "broken")  # torch is not installed


def task(header: dict[str, Any], array: Array) -> Answer:
    """One of the functions below, by its name."""
    do = str(header.get("do"))
    if do not in TASKS:
        return worker_main.answer(header, array)
    return TASKS[do](header), array


def nothing(header: dict[str, Any]) -> dict[str, Any]:
    """End at once."""
    return {}


def draw(header: dict[str, Any]) -> dict[str, Any]:
    """The first numbers of every generator."""
    import numpy as np
    import torch

    stream = Keystream.fresh()
    return {
        "mark": stream.mark,
        "words": stream.words(2).tolist(),
        "random": random.random(),  # noqa: S311
        "numpy": float(np.random.rand()),
        "torch": float(torch.rand(1, dtype=torch.float64)),
    }


def look(header: dict[str, Any]) -> dict[str, Any]:
    """What bounds this process."""
    import torch

    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "cpu": resource.getrlimit(resource.RLIMIT_CPU),
        "data": resource.getrlimit(resource.RLIMIT_DATA),
        "no_new_privileges": status["NoNewPrivs"],
        "oom": Path("/proc/self/oom_score_adj").read_text().strip(),
        "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208
        "cuda": torch.cuda.is_initialized(),
        "torch_was_there": "torch" in sys.modules,
        "pandas": "pandas" in sys.modules,
    }


def hang(header: dict[str, Any]) -> dict[str, Any]:
    """Wait for ever, deaf to SIGTERM."""
    while True:
        time.sleep(60)


def spin(header: dict[str, Any]) -> dict[str, Any]:
    """Use the processor for ever."""
    while True:
        pass


def eat(header: dict[str, Any]) -> dict[str, Any]:
    """Take memory, by torch or by Python, until there is none."""
    import torch

    held = [torch.ones(16 << 20) if header["by"] == "torch" else bytearray(64 << 20) for _ in range(1000)]
    return {"held": len(held)}


def connect(header: dict[str, Any]) -> dict[str, Any]:
    """Try to reach a port of the loopback."""
    with socket.socket() as sock:
        sock.settimeout(5)
        return {"errno": sock.connect_ex(("127.0.0.1", int(header["port"])))}


def leave(header: dict[str, Any]) -> dict[str, Any]:
    """End without an answer."""
    os._exit(7)


TASKS = {f.__name__: f for f in (nothing, draw, look, hang, spin, eat, connect, leave)}


def _without_torch() -> None:
    raise ModuleNotFoundError("No module named 'torch'", name="torch")


if __name__ == "__main__":
    if "light" in sys.argv:
        zygote.warm_up = zygote.reseed = lambda: None
    if "broken" in sys.argv:
        zygote.warm_up = _without_torch
    zygote.main(int(sys.argv[-1]), task)

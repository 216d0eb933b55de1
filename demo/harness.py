"""The harness's process: `python -m demo.harness`. Loads the training stack once, forks a child for each measurement.

Outside the product's path.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Literal, get_args

from client.zygote import warm_up
from demo.forks import Job, serve

Module = Literal["baselines", "calibrate", "evaluate"]


class Task(Job):
    """One measurement: reads `spec`, writes `target`."""

    module: Module
    spec: Path
    target: Path
    nice: int


def _measure(task: Task) -> None:
    os.nice(task.nice)
    importlib.import_module(f"demo.{task.module}").main(task.spec, task.target)


def main() -> None:
    """Load everything, then serve."""
    os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"  # pandas loads pyarrow, whose allocator has a thread
    for name in get_args(Module):
        importlib.import_module(f"demo.{name}")
    warm_up()
    serve(Task, _measure)


if __name__ == "__main__":
    main()

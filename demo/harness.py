"""The harness's process: `python -m demo.harness`. Loads the training stack once, forks a child for each measurement.

Outside the product's path. A line on stdin is one `Task`; the end of stdin is its end, and that of its children. It has
one thread and computes nothing itself, so that forking is safe.
"""

from __future__ import annotations

import importlib
import os
import select
import signal
import sys
from pathlib import Path
from typing import Final, Literal, get_args

from pydantic import BaseModel, ConfigDict

from client.zygote import warm_up

Module = Literal["baselines", "calibrate", "evaluate"]
_STDIN: Final = 0
_LOOK_S: Final = 0.1


class Task(BaseModel):
    """One measurement: reads `spec`, writes `target`; what it prints goes to `log`, its exit code to `ended`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    module: Module
    spec: Path
    target: Path
    log: Path
    ended: Path
    nice: int


def serve() -> None:
    """Fork a child for each line of stdin; leave with it, and kill the children that still run."""
    children: dict[int, Task] = {}
    rest = b""
    while True:
        if select.select([_STDIN], [], [], _LOOK_S if children else None)[0]:
            data = os.read(_STDIN, 1 << 16)
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                task = Task.model_validate_json(line)
                children[_fork(task)] = task
        _reap(children)
    for child in children:
        os.kill(child, signal.SIGKILL)


def _fork(task: Task) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        _measure(task)
        code = 0
    except BaseException:  # noqa: BLE001 - the child's last line: its traceback belongs into its log
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)


def _measure(task: Task) -> None:
    with task.log.open("wb") as log, Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), _STDIN)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.nice(task.nice)
    importlib.import_module(f"demo.{task.module}").main(task.spec, task.target)


def _reap(children: dict[int, Task]) -> None:
    """Tell of each child that has ended how it did."""
    while children:
        child, status = os.waitpid(-1, os.WNOHANG)
        if not child:
            return
        children.pop(child).ended.write_text(str(os.waitstatus_to_exitcode(status)), encoding="utf-8")


def main() -> None:
    """Load everything, then serve."""
    os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"  # pandas loads pyarrow, whose allocator has a thread
    for name in get_args(Module):
        importlib.import_module(f"demo.{name}")
    warm_up()
    serve()


if __name__ == "__main__":
    main()

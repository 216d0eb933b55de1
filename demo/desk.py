"""The commands' process: `python -m demo.desk`. Loads `residency` once, and forks a child for each command.

A child is a process in a group of its own that enters the public command at its front door, with its own words; what is
saved is the start of an interpreter and its imports, a hundred times. A line on stdin is one `Order`; the end of stdin
is its end, and that of its children. It has one thread and runs no command itself, so that forking is safe. What stays
up (server, agents) and the run that is shown are programs of their own.
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

from pydantic import BaseModel, ConfigDict

import residency

GROUPS: Final = ("verify", "key", "consortium", "study", "policy", "law", "agent", "release")
_LATER: Final = (  # what their commands import when they run
    "cedarpy",
    "client.data_commands",
    "client.enrol_commands",
    "client.registration",
    "dp_accounting.pld.privacy_loss_distribution",
    "grpc",
)
_STDIN: Final = 0
_LOOK_S: Final = 0.02


class Order(BaseModel):
    """One command: what follows `residency`, where its outputs go, and its exit code in `ended` when it is over."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    words: tuple[str, ...]
    out: Path
    err: Path
    started: Path
    ended: Path


def serve() -> None:
    """Fork a child for each line of stdin; leave with it, and kill the children that still run."""
    children: dict[int, Order] = {}
    rest = b""
    while True:
        if select.select([_STDIN], [], [], _LOOK_S if children else None)[0]:
            data = os.read(_STDIN, 1 << 16)
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                order = Order.model_validate_json(line)
                children[_fork(order)] = order
        _reap(children)
    for child in children:
        os.killpg(child, signal.SIGKILL)


def _fork(order: Order) -> int:
    child = os.fork()
    if child:
        with suppress(ProcessLookupError):  # it may be over
            os.setpgid(child, child)
        _tell(order.started, child)
        return child
    code = 1
    try:
        os.setpgid(0, 0)  # both do: whoever comes first, neither goes on before it holds
        _be(order)
        code = 0
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else int(e.code is not None)
    except BaseException:  # noqa: BLE001 - the child's last line: its traceback belongs to its stderr
        sys.excepthook(*sys.exc_info())
    finally:
        _leave(code)


def _leave(code: int) -> NoReturn:
    """As an interpreter ends, but for taking apart what all children share."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _be(order: Order) -> None:
    with order.out.open("wb") as out, order.err.open("wb") as err, Path(os.devnull).open("rb") as nothing:
        for number, file in enumerate((nothing, out, err)):
            os.dup2(file.fileno(), number)
    sys.argv = ["residency", *order.words]
    residency.main()


def _reap(children: dict[int, Order]) -> None:
    while children:
        child, status = os.waitpid(-1, os.WNOHANG)
        if not child:
            return
        _tell(children.pop(child).ended, os.waitstatus_to_exitcode(status))


def _tell(path: Path, number: int) -> None:
    """Write it so that nobody reads half of it."""
    part = path.with_suffix(".part")
    part.write_text(str(number), encoding="utf-8")
    part.replace(path)


def load() -> None:
    """Import the commands, as objects that no later collection looks at or copies in a child."""
    os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"  # pandas loads pyarrow, whose allocator has a thread
    gc.disable()
    for name in (*(residency.LazyGroup.COMMANDS[group][0].partition(":")[0] for group in GROUPS), *_LATER):
        importlib.import_module(name)
    gc.freeze()
    gc.enable()


if __name__ == "__main__":
    load()
    serve()

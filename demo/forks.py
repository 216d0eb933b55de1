"""A process that forks a child for each job that it reads: what a job needs is imported once for all of them.

A line on stdin is one job; the end of stdin is the process's end, and that of its children. It has one thread and runs
no job itself, so that forking is safe. A child is in a process group of its own.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict

_STDIN: Final = 0
_LOOK_S: Final = 0.02
_OUTPUT: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND  # both may be one file


class Job(BaseModel):
    """Where a child's outputs go; its group's number is in `started`, its exit code in `ended` when it is over."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    out: Path
    err: Path
    started: Path
    ended: Path


J = TypeVar("J", bound=Job)


def serve(kind: type[J], do: Callable[[J], None]) -> None:
    """Fork a child that does `do(job)` for each line of stdin; leave with it, and kill the children that still run."""
    children: dict[int, J] = {}
    rest = b""
    while True:
        if select.select([_STDIN], [], [], _LOOK_S if children else None)[0]:
            data = os.read(_STDIN, 1 << 16)
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                job = kind.model_validate_json(line)
                children[_fork(job, do)] = job
        _reap(children)
    for child in children:
        os.killpg(child, signal.SIGKILL)


def _fork(job: J, do: Callable[[J], None]) -> int:
    child = os.fork()
    if child:
        with suppress(ProcessLookupError):  # it may be over
            os.setpgid(child, child)
        _tell(job.started, child)
        return child
    code = 1
    try:
        os.setpgid(0, 0)  # both do: whoever comes first, neither goes on before it holds
        _redirect(job)
        do(job)
        code = 0
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else int(e.code is not None)
    except BaseException:  # noqa: BLE001 - the child's last line: its traceback belongs to its stderr
        sys.excepthook(*sys.exc_info())
    finally:
        _leave(code)


def _redirect(job: Job) -> None:
    for number, path, how in ((0, Path(os.devnull), os.O_RDONLY), (1, job.out, _OUTPUT), (2, job.err, _OUTPUT)):
        file = os.open(path, how, 0o600)
        os.dup2(file, number)
        os.close(file)


def _leave(code: int) -> NoReturn:
    """As an interpreter ends, but for taking apart what all children share."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _reap(children: dict[int, J]) -> None:
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

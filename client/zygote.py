"""The warm process: `python -m client.zygote FD`. It imports the training stack once and forks a child for each task.

It has one thread, runs no torch operation, never initialises CUDA, holds no data and never sees any: a task talks to
the agent over a socket of its own, which passes through here unread. It ends when the agent does, and its child with
it. Signals that end a service are left to the agent, which ends this process by closing the socket.
"""

from __future__ import annotations

import gc
import os
import random
import select
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from client import worker_main
from client.framing import Array, Closed, receive, receive_socket, send
from client.limits import Limits, apply
from client.worker_main import Answer
from compliance.errors import EnvironmentFault, InternalBug
from compliance.validation import load_model

Task = Callable[[dict[str, Any], Array], Answer]


def warm_up() -> None:
    """Import what training takes, as objects that no later collection looks at or copies in a child.

    Raises InternalBug RSD-4603 if an import started a thread or touched CUDA.
    """
    gc.disable()  # a fifth of the time would go into looking through what the imports make, which is hardly garbage
    try:
        _import_training()
    finally:
        gc.freeze()
        gc.enable()


def _import_training() -> None:
    import peft  # noqa: F401, PLC0415
    import torch  # noqa: PLC0415
    import transformers.models.bert.modeling_bert  # noqa: F401, PLC0415

    import client.tasks.classification  # noqa: PLC0415
    import client.training.session  # noqa: F401, PLC0415

    threads = len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 1  # noqa: PTH208 - names only
    cuda: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    if threads != 1 or cuda:
        raise InternalBug(
            "RSD-4603", "the warm process cannot fork safely", rule="one thread, CUDA untouched",
            found=f"{threads} threads, CUDA {'on' if cuda else 'off'}",
            limit="1 thread, CUDA off", next="report it with the versions of torch and its drivers",
        )  # fmt: skip


def _warmed() -> Answer:
    try:
        warm_up()
    except (ImportError, OSError) as e:
        raise EnvironmentFault(
            "RSD-4603", "the training stack does not load", rule="the agent's extra is installed whole",
            found=f"{type(e).__name__} {getattr(e, 'name', None) or ''}", limit="torch, transformers, peft, opacus",
            next="install residency[agent] again with constraints.txt",
        ) from e  # fmt: skip
    return {}, None


def reseed() -> None:
    """New states from the system's entropy for the generators that a fork copies.

    Noise and sampling use none of them (client/training/keystream.py); a library may.
    """
    import numpy as np  # noqa: PLC0415
    import torch  # noqa: PLC0415

    random.seed()
    np.random.seed()
    torch.seed()


def serve(control: socket.socket, task: Task = worker_main.answer) -> None:
    """Fork a child for each request on `control` until the agent closes it. One task at a time."""
    ready, _ = worker_main.reply(_warmed)
    try:
        send(control, ready)
        if not ready["ok"]:
            return
        while True:
            header, _ = receive(control)
            if header.get("do") == "task":
                limits = load_model(Limits, header.get("limits"), "RSD-4502", "a worker request")
                with receive_socket(control) as sock:
                    child, ended = _fork(control, sock, limits, task)
                _watch(control, child, ended)
    except Closed:
        return


def _fork(control: socket.socket, sock: socket.socket, limits: Limits, task: Task) -> tuple[int, int]:
    """The child's process, and a descriptor that ends when the child does."""
    parent = os.getpid()
    ended, held = os.pipe()
    child = os.fork()
    if child == 0:
        status = 3
        try:
            control.close()
            os.close(ended)
            _run(sock, limits, task, parent)
            status = 0
        finally:
            os._exit(status)
    os.close(held)
    return child, ended


def _run(sock: socket.socket, limits: Limits, task: Task, parent: int) -> None:
    """In the child: one request, one reply."""
    header, array = receive(sock)

    def work() -> Answer:
        apply(limits, parent)
        reseed()
        return task(header, array)

    send(sock, *worker_main.reply(work))


def _watch(control: socket.socket, child: int, ended: int) -> None:
    """Wait for the child, kill it on request, and tell the agent how it ended. Raises Closed with the child dead."""
    waiting = select.poll()
    waiting.register(ended, select.POLLIN)
    waiting.register(control, select.POLLIN)
    try:
        while ended not in dict(waiting.poll()):
            receive(control)  # the only thing that the agent says during a task: end it
            os.kill(child, signal.SIGKILL)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        _, status, used = os.wait4(child, 0)
        os.close(ended)
    cpu_ms = round((used.ru_utime + used.ru_stime) * 1000)
    send(control, {"ended": status, "cpu_ms": cpu_ms, "peak_kib": used.ru_maxrss})


def main(fd: int, task: Task = worker_main.answer) -> None:
    """Serve the agent's end of the socket `fd`."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=fd) as control:
        serve(control, task)


if __name__ == "__main__":
    main(int(sys.argv[1]))

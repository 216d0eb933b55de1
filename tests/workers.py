"""The workers of a test run, forks of one process that has collected the tests once.

Collecting takes twenty seconds of a processor, imports and pytest's rewriting of assertions, and by itself xdist has
every worker do it. A fork has the modules already and only makes the items anew, from its own environment; what it
then does, and how it ends, is xdist's. Where something cannot be collected, each worker is a new Python and says so.

`python workers.py serve SOCKET ARGUMENT...` collects what pytest would for these arguments and forks; it ends with its
standard input. `python workers.py SOCKET ...` is what xdist starts in place of `python ...`: it hands on its streams
and its environment, and lives as long as the fork does.
"""

from __future__ import annotations

import atexit
import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

FIRST = "import sys;exec(eval(sys.stdin.readline()))"  # what execnet has a Python do


def start(arguments: Sequence[str]) -> str:
    """Start to collect for these arguments of pytest; the Python of a worker, as xdist is told."""
    folder = tempfile.TemporaryDirectory(prefix="residency-workers-")
    address = str(Path(folder.name) / "door")
    words = [sys.executable, __file__, "serve", address, *arguments]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def end() -> None:
        process.communicate()
        folder.cleanup()

    atexit.register(end)
    while not Path(address).exists():
        assert process.poll() is None, "the process that collects ended"
        time.sleep(0.01)
    return shlex.join([sys.executable, "-S", __file__, address])


def ask(address: str) -> None:
    """Have a worker forked for this process's streams; return once it has ended."""
    with socket.socket(socket.AF_UNIX) as stem:
        stem.connect(address)
        socket.send_fds(stem, [json.dumps(dict(os.environ)).encode()], [0, 1, 2])
        for fd in (0, 1):
            os.close(fd)
        stem.recv(1)  # nothing comes: the fork holds the other end


def serve(address: str, arguments: list[str]) -> None:
    """Collect, then fork a worker for each who asks, until standard input ends."""
    import select
    import signal

    with socket.socket(socket.AF_UNIX) as door:
        door.bind(address)
        door.listen(16)  # who asks meanwhile waits

        import pytest

        ended = pytest.main([*arguments, "--collect-only", "--quiet", "--numprocesses=0", "--capture=no"])
        collected = ended in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        while not select.select([door, sys.stdin], [], [])[0].count(sys.stdin):
            asker, _ = door.accept()
            environment, streams, _, _ = socket.recv_fds(asker, 1 << 20, 3)
            if streams and os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                door.close()
                work(json.loads(environment), streams, asker if not collected else None)
                return
            for fd in streams:
                os.close(fd)
            asker.close()


def work(environment: dict[str, str], streams: list[int], anew: socket.socket | None) -> None:
    """Be `python -c` with the line that xdist sends first. `anew`: a new one, which holds this open."""
    import ctypes
    import signal
    from types import ModuleType

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # nobody outlives the process of `start`
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
        os.close(fd)
    if anew is not None:  # a module whose import failed would be taken for an empty one
        anew.set_inheritable(True)
        os.execve(sys.executable, [sys.executable, "-c", FIRST], environment)  # noqa: S606
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["-c"]
    sys.modules["__main__"] = main = ModuleType("__main__")
    exec(FIRST, main.__dict__)  # noqa: S102


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        sys.path[0] = str(Path(__file__).parent.parent)
        serve(sys.argv[2], sys.argv[3:])
    else:
        ask(sys.argv[1])

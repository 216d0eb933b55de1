"""The training stack, imported once for all the warm processes of a test run.

A warm process (client/zygote.py) spends four seconds of a processor on imports, and the suite starts more than a
dozen. The stem is one process that has done these imports as the warm process does; a warm process of a test is a fork
of it that serves the agent's own socket, so that whatever it says and does afterwards is production's. That the real
program starts by itself is shown by tests/unit/client/test_session_join.py, tests/integration/test_doctor_live.py and
the demo.

`python stem.py serve SOCKET` is the stem; it ends with its standard input. `python -P stem.py SOCKET FD` is what an
agent starts in place of `-m client.zygote FD`: it hands FD to the stem, and lives as long as the fork does.
"""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VARIABLE = "RESIDENCY_TEST_STEM"  # in the environment: the stem's socket


def start() -> None:
    """Start a stem unless there is one; this process's children know it, and it ends with this process."""
    if VARIABLE in os.environ:
        return
    folder = tempfile.TemporaryDirectory(prefix="residency-stem-")
    address = Path(folder.name) / "door"
    words = [sys.executable, "-W", "ignore", __file__, "serve", str(address)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=_environment())

    def end() -> None:
        process.communicate()
        folder.cleanup()

    atexit.register(end)
    while not address.exists():
        assert process.poll() is None, "the stem ended"
        time.sleep(0.01)
    os.environ[VARIABLE] = str(address)


def _environment() -> dict[str, str]:
    from client.warm import worker_environment

    return worker_environment(dict(os.environ), threads=1)


def adopt() -> None:
    """From here on, what this process starts as its warm process is a fork of the stem, which runs already."""
    from client.warm import Warm

    Warm.__init__.__defaults__ = ((__file__, os.environ[VARIABLE]),)


def forks(agent: int) -> list[int]:
    """The warm processes that the stem has forked for the process `agent`."""
    notes = Path(os.environ[VARIABLE]).parent.glob(f"{agent}-*") if VARIABLE in os.environ else ()
    return [int(note.name.partition("-")[2]) for note in notes]


def ask(address: str, fd: int) -> None:
    """Have a warm process forked for the socket `fd`; return once it has ended."""
    with socket.socket(socket.AF_UNIX) as stem:
        stem.connect(address)
        socket.send_fds(stem, [str(os.getppid()).encode()], [fd])
        os.close(fd)
        stem.recv(1)  # nothing comes: the fork holds the other end


def serve(address: str) -> None:
    """Fork a warm process for each socket that is handed over, until standard input ends."""
    import ctypes
    import select
    import signal

    from client import zygote

    with socket.socket(socket.AF_UNIX) as door:
        door.bind(address)
        door.listen(16)  # who asks meanwhile waits
        zygote.warm_up()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while not select.select([door, sys.stdin], [], [])[0].count(sys.stdin):
            asker, _ = door.accept()
            agent, fds, _, _ = socket.recv_fds(asker, 16, 1)
            pid = os.fork() if fds else None  # None: who asked has been ended meanwhile
            if pid == 0:
                ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # nobody outlives the stem, frozen or not
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                Path(address).with_name(f"{agent.decode()}-{os.getpid()}").touch()
                door.close()
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # as the agent starts it: a message may quote data
                try:
                    zygote.main(fds[0])
                finally:
                    os._exit(0)
            for fd in fds:
                os.close(fd)
            asker.close()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        sys.path.insert(0, str(Path(__file__).parent.parent))
        serve(sys.argv[2])
    else:
        ask(sys.argv[1], int(sys.argv[2]))

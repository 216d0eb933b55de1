"""A process that is tied to another one ends with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from server.lifeline import SERVER_PID
from server.superexec import superexec_environment

_TIED = (
    "import sys, time; from server.lifeline import end_with; end_with(int(sys.argv[1]));"
    " print('up', flush=True); time.sleep(60)"
)


@pytest.mark.parametrize("system", ["with pidfd", "without"])
def test_a_killed_server_takes_the_run_with_it(system: str) -> None:
    server = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    words = _TIED if system == "with pidfd" else "import os; del os.pidfd_open; " + _TIED
    tied = subprocess.Popen([sys.executable, "-c", words, str(server.pid)], stdout=subprocess.PIPE)
    assert tied.stdout is not None
    try:
        assert tied.stdout.readline() == b"up\n"
        assert tied.poll() is None
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
        assert tied.wait(10) == 1
    finally:
        for process in (server, tied):
            process.kill()
            process.wait()
        tied.stdout.close()


def test_a_server_that_has_ended_already_is_noticed() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    tied = subprocess.run([sys.executable, "-c", _TIED, str(ended.pid)], timeout=30, capture_output=True, check=False)
    assert tied.returncode == 1


def test_the_servers_child_learns_whom_to_follow() -> None:
    assert superexec_environment(Path("h"), Path("f"), 1.0)[SERVER_PID] == str(os.getpid())

"""Ends every process of a demo when the demo ends, also when the demo was killed: `python -m demo.watchdog MARK`.

Holds a pipe to the demo as its stdin. The end of the pipe means that the demo is gone: then every process whose
environment carries the demo's mark gets SIGTERM, and after a grace period SIGKILL.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Final

import psutil

MARK: Final = "RESIDENCY_DEMO_MARK"
GRACE_S: Final = 8.0


def marked(mark: str) -> list[psutil.Process]:
    """Processes with this mark in their environment and their descendants, apart from the caller."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        if process.pid == os.getpid() or not _carries(process, mark):
            continue
        found[process.pid] = process
        for child in _children(process):
            found[child.pid] = child
    found.pop(os.getpid(), None)
    return list(found.values())


def _carries(process: psutil.Process, mark: str) -> bool:
    try:
        return bool(process.environ().get(MARK) == mark)
    except (psutil.Error, OSError):
        return False


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []


def end_all(mark: str, grace_s: float = GRACE_S) -> int:
    """End all marked processes and return how many had to be killed."""
    processes = marked(mark)
    for process in processes:
        _signal(process, signal.SIGTERM)
    psutil.wait_procs(processes, timeout=grace_s)
    left = marked(mark)
    for process in left:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(left, timeout=3)
    return len(left)


def _signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def main() -> None:
    """Wait for the end of stdin, then end everything."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    mark = sys.argv[1]
    sys.stdin.buffer.read()
    end_all(mark)
    deadline = time.monotonic() + GRACE_S
    while marked(mark) and time.monotonic() < deadline:  # what was being started while the first pass ran
        end_all(mark, grace_s=0.5)


if __name__ == "__main__":
    main()

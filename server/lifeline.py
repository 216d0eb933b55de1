"""The run's process ends with the server that started it, however that ended.

A coordinator that outlives its server would wait for it for ever, with the run's lock in its hand, and the next server
could not go on with the run.
"""

from __future__ import annotations

import os
import select
import threading
import time
from typing import Final

SERVER_PID: Final = "RESIDENCY_SERVER_PID"
_LOOK_S: Final = 0.5


def end_with(pid: int) -> None:
    """Have this process ended, as by kill -9, as soon as the process `pid` has ended; returns at once."""
    threading.Thread(target=_watch, args=(pid,), name="lifeline", daemon=True).start()


def _watch(pid: int) -> None:
    try:
        _wait_for_end(pid)
    finally:
        os._exit(1)


def _wait_for_end(pid: int) -> None:
    """Return when `pid` has ended; at once if it had."""
    try:
        end = select.poll()
        end.register(os.pidfd_open(pid), select.POLLIN)
    except ProcessLookupError:
        return
    except (AttributeError, OSError):  # a system without pidfd: look, and accept that numbers are used again
        while _alive(pid):
            time.sleep(_LOOK_S)
        return
    end.poll()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True

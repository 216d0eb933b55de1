"""Peak memory of the demo: the proportional shares (PSS) of its processes, added up: a shared page counts once.

Reading PSS walks page tables in the kernel, so a sample that was slow makes the next one wait.

Where the system has no PSS (macOS) the unshared pages (USS) are added, which is a lower figure, and `kind` says so.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Final

import psutil

INTERVAL_S: Final = 1.0
SHARE: Final = 0.02  # of one core, at most, goes into sampling
_MIB: Final = 1024 * 1024


class MemoryWatch:
    """Samples this process and all its descendants in a thread; `peak_mib` and `kind` ("pss" or "uss") at the end."""

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        self.peak_mib = 0
        self.kind = "pss"
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(10)
        self._sample()

    def _watch(self) -> None:
        wait_s = self._interval_s
        while not self._stop.wait(wait_s):
            started = time.monotonic()
            self._sample()
            wait_s = max(self._interval_s, (time.monotonic() - started) / SHARE)

    def _sample(self) -> None:
        me = psutil.Process()
        total = sum(self._bytes(p) for p in [me, *me.children(recursive=True)])
        self.peak_mib = max(self.peak_mib, round(total / _MIB))

    def _bytes(self, process: psutil.Process) -> int:
        try:
            memory = process.memory_full_info()
        except (psutil.Error, OSError):
            return 0
        if not hasattr(memory, "pss"):
            self.kind = "uss"
        return int(getattr(memory, "pss", getattr(memory, "uss", 0)))

"""The processes of `residency bench round`: started in groups, watched, measured, ended with all that they left."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final

import psutil

from compliance.errors import RunFailed
from demo.watchdog import MARK
from strategies.flwr_private import QUIET_ENVIRONMENT

_MIB: Final = 2**20
_GRACE_S: Final = 10.0
_LOOK_S: Final = 0.05


class Processes:
    """Starts processes and ends them all; the demo's watchdog ends them if the bench itself is killed."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self._mark = secrets.token_hex(16)
        self._held: dict[str, subprocess.Popen[bytes]] = {}
        self._watchdog: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Processes:
        self.logs.mkdir(parents=True)
        command = [sys.executable, "-m", "demo.watchdog", self._mark]
        self._watchdog = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.stop(*reversed(self._held))
        if self._watchdog is not None and self._watchdog.stdin is not None:
            self._watchdog.stdin.close()
            self._watchdog.wait(60)

    def start(self, name: str, command: Iterable[str | Path], **environment: str) -> psutil.Process:
        """Start a process in a group of its own; what it prints goes to logs/NAME.log."""
        with (self.logs / f"{name}.log").open("ab") as out:
            process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=self._environment(environment),
                start_new_session=True,
            )
        self._held[name] = process
        return psutil.Process(process.pid)

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        """Both sides get the same: quiet, offline, one thread a library."""
        quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        return {**os.environ, **QUIET_ENVIRONMENT, **quiet, "PATH": path, MARK: self._mark, **more}

    def stop(self, *names: str) -> None:
        """End these processes and what they started: asked first, killed after some seconds."""
        ending = [self._held.pop(name) for name in names]
        for process in ending:
            _signal(process, signal.SIGTERM)
        for process in ending:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_S)
            _signal(process, signal.SIGKILL)
            process.wait()

    def said(self, name: str) -> str:
        """What a process has printed."""
        return (self.logs / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def wait(self, done: Callable[[], object], what: str, limit_s: float) -> None:
        """Return once `done()` is true. Raises RunFailed RSD-8500 (a process ended) or RSD-8501 (too late)."""
        end = time.monotonic() + limit_s
        while not done():
            self.check()
            if time.monotonic() > end:
                raise RunFailed(
                    "RSD-8501",
                    f"the bench waited in vain for: {what}",
                    rule="each step of the bench ends in a stated time",
                    found=self._tails(),
                    limit=f"{limit_s:.0f} s",
                    next="run it again on a machine with less load",
                )
            time.sleep(_LOOK_S)

    def check(self) -> None:
        """Raise RunFailed RSD-8500 if a process has ended."""
        for name, process in self._held.items():
            if process.poll() is not None:
                raise RunFailed(
                    "RSD-8500",
                    f"{name} ended during the bench",
                    rule="both deployments stay up",
                    found=f"exit {process.returncode}: {self._tail(name)}",
                    limit="a running process",
                    next="read what it printed; a port that another program took is the most likely cause",
                )

    def let_go(self, name: str, limit_s: float) -> None:
        """Wait for the end of a process that ends by itself. Raises RunFailed RSD-8500, RSD-8501."""
        process = self._held.pop(name)
        self.wait(lambda: process.poll() is not None, f"the end of {name}", limit_s)
        if process.returncode:
            self._held[name] = process
            self.check()

    def _tail(self, name: str) -> str:
        return " | ".join(self.said(name).strip().splitlines()[-4:])[-600:]

    def _tails(self) -> str:
        return "; ".join(f"{name}: {self._tail(name)[-200:]}" for name in self._held)


def _signal(group: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group.pid, number)


def _tree(roots: Iterable[psutil.Process]) -> list[psutil.Process]:
    found: dict[int, psutil.Process] = {}
    for root in roots:
        with suppress(psutil.NoSuchProcess):
            for process in (root, *root.children(recursive=True)):
                found[process.pid] = process
    return list(found.values())


def cpu_s(roots: Iterable[psutil.Process]) -> float:
    """CPU seconds so far of these processes and all that they started, the ended ones that were waited for included."""
    total = 0.0
    for process in _tree(roots):
        with suppress(psutil.NoSuchProcess):
            t = process.cpu_times()
            total += t.user + t.system + t.children_user + t.children_system
    return total


def memory_mib(roots: Iterable[psutil.Process]) -> float:
    """Proportional share (PSS) of these processes and all that they started, in MiB: a shared page counts once."""
    total = 0
    for process in _tree(roots):
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            total += process.memory_full_info().pss
    return total / _MIB

"""Runs the public commands as subprocesses, each in its own process group, and ends whatever is left at the end."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Final

from compliance.errors import EnvironmentFault, RunFailed
from demo.desk import Order
from demo.watchdog import MARK

COMMAND_LIMIT_S: Final = 120.0
READY_LIMIT_S: Final = 90.0
_SHOWN_ARGUMENTS: Final = 3
_LOOK_S: Final = 0.02


@dataclass(frozen=True)
class Outcome:
    """A finished command: what it was called with, how it ended and what it printed."""

    args: tuple[str, ...]
    exit_code: int
    stdout: str
    stderr: str
    seconds: float

    def json(self) -> dict[str, Any]:
        """The one JSON object of a `--json` command. Raises RunFailed RSD-8902 if there is none."""
        try:
            record = json.loads(self.stdout)
        except ValueError as e:
            raise self.failure("a JSON object") from e
        if not isinstance(record, dict):
            raise self.failure("a JSON object")
        return record

    def code(self) -> str:
        """The error code of a `--json` command, empty if it succeeded."""
        error = self.json().get("error")
        return str(error["code"]) if error else ""

    def failure(self, expected: str) -> RunFailed:
        """The error that names this command and the end of what it printed."""
        tail = " | ".join((self.stderr or self.stdout).strip().splitlines()[-4:])
        return RunFailed(
            "RSD-8902",
            f"residency {' '.join(self.args[:_SHOWN_ARGUMENTS])}: {tail[-600:] or 'no output'}",
            rule="every step of the demo ends as announced",
            found=f"exit {self.exit_code}",
            limit=expected,
            next="run the command by itself: residency " + " ".join(self.args),
        )


class Service:
    """A command that stays: an agent or the server. Its output goes to a file beside its home."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], output: Path) -> None:
        self.name = name
        self.process = process
        self.output = output

    def wait_ready(self, limit_s: float = READY_LIMIT_S) -> dict[str, Any]:
        """The `ready` line. Raises RunFailed RSD-8903 when it does not come or the process ends."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            for line in self.output.read_text(encoding="utf-8", errors="replace").splitlines():
                if line.startswith('{"ready"') or '"ready": true' in line:
                    record = json.loads(line)
                    return record if isinstance(record, dict) else {}
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        tail = " | ".join(self.output.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-4:])
        raise RunFailed(
            "RSD-8903",
            f"{self.name} did not become ready: {tail[-600:]}",
            rule="a service prints a ready line",
            found=f"exit {self.process.poll()}",
            limit=f"ready within {limit_s:.0f} s",
            next=f"read {self.output}",
        )

    def ask_to_stop(self) -> None:
        """SIGTERM to the group."""
        _signal_group(self.process, signal.SIGTERM)

    def stop(self, grace_s: float = 15.0) -> None:
        """SIGTERM to the group, SIGKILL after the grace period."""
        self.ask_to_stop()
        try:
            self.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            _signal_group(self.process, signal.SIGKILL)
            self.process.wait(5)


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    if process.poll() is not None:
        return  # its number may belong to somebody else by now; the watchdog finds what it left
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


class Crew:
    """Starts commands and ends them all: on leaving the context, or by the watchdog if the demo itself is killed."""

    def __init__(self, logs: Path) -> None:
        self.mark = secrets.token_hex(16)
        self.logs = logs
        self._services: list[Service] = []
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._desk: subprocess.Popen[bytes] | None = None
        self._ordering = threading.Lock()

    def __enter__(self) -> Crew:
        self.logs.mkdir(parents=True, exist_ok=True)
        self._watchdog = subprocess.Popen(
            [sys.executable, "-m", "demo.watchdog", self.mark], stdin=subprocess.PIPE, start_new_session=True
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        for service in reversed(self._services):
            _signal_group(service.process, signal.SIGTERM)
        with self._lock:
            running = list(self._running)
        for process in running:
            _signal_group(process, signal.SIGKILL)
            process.wait(5)
            if process.stdin is not None:
                process.stdin.close()
        for service in self._services:
            service.stop()
        if self._watchdog is not None and self._watchdog.stdin is not None:
            self._watchdog.stdin.close()
            self._watchdog.wait(60)

    def environment(self, threads: int = 1) -> dict[str, str]:
        """What every process of the demo gets: the mark, offline and quiet, one thread unless told otherwise."""
        return os.environ | {
            MARK: self.mark,
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "OMP_NUM_THREADS": str(threads),
            "PYTHONUNBUFFERED": "1",
        }

    def run(self, *args: str | Path, limit_s: float = COMMAND_LIMIT_S) -> Outcome:
        """Run `residency ARGS` to its end, whatever its exit code: a fork of the commands' process (demo/desk.py)."""
        words, started = tuple(str(a) for a in args), time.monotonic()
        with TemporaryDirectory(prefix="command-", dir=self.logs) as folder:
            names = ("out", "err", "started", "ended")
            order = Order(words=words, **{name: Path(folder) / name for name in names})
            code, late = self._obeyed(order, started + limit_s)
            out, err = (p.read_text(encoding="utf-8", errors="replace") for p in (order.out, order.err))
        err += f"\nkilled after {limit_s:.0f} s" if late else ""
        return Outcome(words, code, out, err, time.monotonic() - started)

    def _obeyed(self, order: Order, end: float) -> tuple[int, bool]:
        """The exit code of the ordered command, and whether it was killed at `end`."""
        with self._ordering:
            if self._desk is None:
                self._desk = self.start("desk", ["-m", "demo.desk"], fed=True)[0]
            desk = self._desk
            if desk.stdin is not None and desk.poll() is None:
                desk.stdin.write(order.model_dump_json().encode() + b"\n")
        late = False
        while not order.ended.exists():
            if desk.poll() is not None:
                raise RunFailed(
                    "RSD-8902",
                    "the process of the demo's commands has ended",
                    rule="every step of the demo ends as announced",
                    found=f"exit {desk.returncode}",
                    limit="one that waits for commands",
                    next=f"read {self.logs / 'desk.err'}",
                )
            if not late and time.monotonic() > end and order.started.exists():
                os.killpg(int(order.started.read_text()), signal.SIGKILL)
                late = True
            time.sleep(_LOOK_S)
        return int(order.ended.read_text()), late

    def run_python(self, prefix: Sequence[str], *args: str | Path, limit_s: float = COMMAND_LIMIT_S) -> Outcome:
        """Run the interpreter with `prefix` and ARGS to its end. Raises RunFailed RSD-8902 past the limit."""
        return self.run_program([sys.executable, *prefix], *args, limit_s=limit_s)

    def run_program(self, program: Sequence[str], *args: str | Path, limit_s: float = COMMAND_LIMIT_S) -> Outcome:
        """Run any program of the demo to its end, in its own group."""
        words = tuple(str(a) for a in args)
        started = time.monotonic()
        process = self._popen([*program, *words], subprocess.PIPE, subprocess.PIPE)
        try:
            out, err = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            _signal_group(process, signal.SIGKILL)
            out, err = process.communicate()
            err += f"\nkilled after {limit_s:.0f} s".encode()
        finally:
            with self._lock:
                self._running.discard(process)
        seconds = time.monotonic() - started
        return Outcome(words, process.returncode, out.decode(errors="replace"), err.decode(errors="replace"), seconds)

    def _popen(self, command: Sequence[str], stdout: Any, stderr: Any, *, fed: bool = False) -> subprocess.Popen[bytes]:
        try:
            process = subprocess.Popen(
                command,
                bufsize=0,  # a pipe that is fed holds nothing back
                stdin=subprocess.PIPE if fed else subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env=self.environment(),
                start_new_session=True,
            )
        except OSError as e:
            raise EnvironmentFault("RSD-8904", f"cannot start {command[0]}: {e.strerror}", found=e.strerror) from e
        with self._lock:
            self._running.add(process)
        return process

    def done(self, *args: str | Path, exit_code: int = 0, limit_s: float = COMMAND_LIMIT_S) -> Outcome:
        """Run `residency ARGS` and insist on its exit code. Raises RunFailed RSD-8902."""
        outcome = self.run(*args, limit_s=limit_s)
        if outcome.exit_code != exit_code:
            raise outcome.failure(f"exit {exit_code}")
        return outcome

    def serve(self, name: str, *args: str | Path) -> Service:
        """Start `residency ARGS` and keep it running; stdout to logs/NAME.out, stderr to logs/NAME.err."""
        output = self.logs / f"{name}.out"
        with output.open("wb") as out, (self.logs / f"{name}.err").open("wb") as err:
            process = self._popen([sys.executable, "-m", "residency", *map(str, args)], out, err)
        with self._lock:
            self._running.discard(process)
        service = Service(name, process, output)
        self._services.append(service)
        return service

    def start(
        self, name: str, prefix: Sequence[str], *args: str | Path, fed: bool = False
    ) -> tuple[subprocess.Popen[bytes], Path, Path]:
        """Start the interpreter in the background, stdin a pipe if `fed`; stdout and stderr go to files below logs/."""
        out_path, err_path = self.logs / f"{name}.out", self.logs / f"{name}.err"
        with out_path.open("wb") as out, err_path.open("wb") as err:
            process = self._popen([sys.executable, *prefix, *map(str, args)], out, err, fed=fed)
        return process, out_path, err_path


def each(workers: int, jobs: Iterable[Any], function: Any) -> list[Any]:
    """`function(job)` for each job on a few threads, results in order; the first error is raised."""
    with ThreadPoolExecutor(max_workers=workers) as pool:
        return list(pool.map(function, jobs))

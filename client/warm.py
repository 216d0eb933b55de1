"""The agent's handle on its warm process (client/zygote.py). No torch here: the agent stays small and outlives it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from client.framing import Array, Closed, receive, send, send_socket
from client.limits import Limits, oom_kills
from client.worker_main import no_memory
from compliance.errors import EnvironmentFault, InputError, ResidencyError, error_class

_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
_PASSED_PREFIXES = ("CUDA_", "NVIDIA_")
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # a library that asks for a GPU must not open CUDA before the fork
}
_ENDS_S: Final = 10.0  # a child that was killed, or has answered, is gone long before
_STARTS: Final = 2  # of a warm process that dies before it is ready


def worker_environment(outer: dict[str, str], threads: int) -> dict[str, str]:
    """The warm process' whole environment: a few names of `outer`, offline and telemetry switches, thread counts."""
    kept = {k: v for k, v in outer.items() if k in _PASSED_ON or k.startswith(_PASSED_PREFIXES)}
    count = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    root = str(Path(__file__).resolve().parents[1])  # this package, wherever the agent was started
    return {**kept, **_OFFLINE, **count, "PYTHONPATH": root}


class Warm:
    """One warm process, and one task at a time in a child of it.

    Not thread-safe, except that `close` may come from another thread: the task at hand then ends as RSD-4510.
    """

    def __init__(self, program: tuple[str, ...] = ("-m", "client.zygote")) -> None:
        """`program`: what Python runs as the warm process; tests and benchmarks pass one of their own."""
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._ready = False

    @property
    def pid(self) -> int | None:
        """The warm process while there is one."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the process unless it runs; does not wait for its imports (3 to 6 seconds)."""
        if self._process is not None and self._process.poll() is None and self._control is not None:
            return
        self.close()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", *self._program, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=worker_environment(dict(os.environ), threads=1),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # a library's message may quote data
            )
        self._control, self._ready = ours, False

    def run(
        self, header: dict[str, Any], array: Array | None, limits: Limits, deadline_s: float
    ) -> tuple[dict[str, Any], Array]:
        """One task in a fresh child, `deadline_s` for everything: its answer and array.

        A warm process that died before is started again first. Raises what the task raised, and EnvironmentFault
        RSD-4510 (the child or the warm process died), RSD-4513 (the system killed it for want of memory), RSD-4515 (no
        answer before the deadline or the limit of processor time), RSD-4603 (the training stack does not load).
        """
        end = time.monotonic() + deadline_s
        killed = oom_kills()
        try:
            self._wait_ready(end)
            reply, out = self._ask(header, array, limits, end)
        except TimeoutError as e:
            self._kill_task()
            raise _too_slow("no answer", f"{deadline_s:g} s") from e
        except (Closed, ValueError) as e:
            raise _death(self._end(), oom_kills() > killed) from e
        self._end()
        if reply.get("ok") is True and isinstance(found := reply.get("answer"), dict):
            return found, out
        raise _error(reply)

    def close(self) -> None:
        """End the process and its child: first by closing its socket, then by force."""
        control, process = self._control, self._process
        self._control, self._process, self._ready = None, None, False
        if control is not None:
            control.close()
        if process is not None:
            try:
                process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _wait_ready(self, end: float) -> None:
        """Return once there is a process that has imported everything. Raises its error, or RSD-4603."""
        for _ in range(_STARTS):
            self.start()
            if self._ready:
                return
            try:
                reply, _ = receive(self._open(), end)
            except (Closed, ValueError):
                self.close()
                continue
            if reply.get("ok") is not True:
                self.close()
                raise _error(reply)
            self._ready = True
            return
        raise EnvironmentFault(
            "RSD-4603", "the warm process does not start", rule="the training stack is imported once",
            found=f"ended {_STARTS} times", limit="a running process",
            next="look for out-of-memory messages of the system; check the installation",
        )  # fmt: skip

    def _open(self) -> socket.socket:
        """The control socket. Raises Closed if another thread has closed it."""
        if self._control is None:
            raise Closed
        return self._control

    def _ask(
        self, header: dict[str, Any], array: Array | None, limits: Limits, end: float
    ) -> tuple[dict[str, Any], Array]:
        """Have a task forked and ask it; a malformed answer is a ValueError."""
        control = self._open()
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                send(control, {"do": "task", "limits": limits.model_dump()}, end=end)
                send_socket(control, theirs, end)
            send(ours, header, array, end)
            try:
                return receive(ours, end)
            except InputError as e:
                raise ValueError(e.code) from e

    def _kill_task(self) -> None:
        """End the child, or the warm process with it if that does not answer."""
        try:
            if self._control is not None:
                send(self._control, {"do": "kill"}, end=time.monotonic() + 1)
        except (Closed, TimeoutError):
            self._kill()
        self._end()

    def _end(self) -> dict[str, Any] | None:
        """How the child ended; None if the warm process is gone as well, which is then cleared away."""
        control = self._control
        try:
            if control is not None and self._ready:
                ended, _ = receive(control, time.monotonic() + _ENDS_S)
                return ended
        except (Closed, TimeoutError, ValueError, ResidencyError):
            pass  # it is dead or does not answer: told as None
        self._kill()
        return None

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
        self.close()


def _death(ended: dict[str, Any] | None, for_memory: bool) -> EnvironmentFault:
    """The fault for a child that ended without an answer; `for_memory`: the system killed somebody for want of it."""
    if ended is None:
        found = "the warm process ended"
    else:
        code = os.waitstatus_to_exitcode(int(ended["ended"]))
        if code == -signal.SIGXCPU:
            return _too_slow("the limit of processor time", "its deadline on every thread")
        found = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        for_memory = for_memory and code == -signal.SIGKILL
    if for_memory:
        return no_memory("killed by the system for want of memory")
    return EnvironmentFault(
        "RSD-4510", "the training process died", rule="its attempt is spent; the agent goes on", found=found,
        limit="a running process", next="look for out-of-memory messages of the system; the next round restarts it",
    )  # fmt: skip


def _too_slow(found: str, limit: str) -> EnvironmentFault:
    return EnvironmentFault(
        "RSD-4515", "the training process did not answer in time", rule="the deadline ends the attempt", found=found,
        limit=limit, next="allow more time or give the site more processors",
    )  # fmt: skip


def _error(reply: dict[str, Any]) -> ResidencyError:
    """The child's error, as its class; RSD-4511 if even that is malformed."""
    error = reply.get("error")
    if not isinstance(error, dict) or not all(isinstance(error.get(k), str) for k in ("code", "message")):
        return EnvironmentFault("RSD-4511", "the training process answered in no known form", next="report it")
    known = {k: str(error.get(k, "")) for k in ("rule", "found", "limit", "next")}
    return error_class(int(reply.get("exit_code", 70)))(error["code"], error["message"], **known)

"""The agent's handle on its training process. No torch here: the agent stays small and outlives its worker."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from client.framing import Array, Closed, receive, send
from client.work import Prepared, RoundSpec, Trained, WorkSpec
from compliance.errors import EnvironmentFault, ResidencyError, error_class
from compliance.validation import load_model

_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
_PASSED_PREFIXES = ("CUDA_", "NVIDIA_")
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}


def worker_environment(outer: dict[str, str], threads: int) -> dict[str, str]:
    """The child's whole environment: a few names of `outer`, offline and telemetry switches, thread counts."""
    kept = {k: v for k, v in outer.items() if k in _PASSED_ON or k.startswith(_PASSED_PREFIXES)}
    count = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    root = str(Path(__file__).resolve().parents[1])  # this package, wherever the agent was started
    return {**kept, **_OFFLINE, **count, "PYTHONPATH": root}


class TrainingWorker:
    """One child process that trains. Not thread-safe: one request at a time.

    A dead child is an EnvironmentFault RSD-4510 at the call that meets it; the next call starts a new one and prepares
    it again. The caller charges the ledger before it calls `train`, and calls `train` once per charged attempt.
    """

    def __init__(self, spec: WorkSpec, *, timeout_s: float | None = None) -> None:
        """`timeout_s` bounds one request (default none); the child is ended when it passes (RSD-4515)."""
        self._spec, self._timeout = spec, timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._prepared: Prepared | None = None

    @property
    def pid(self) -> int | None:
        """The child's process id while there is one."""
        return self._process.pid if self._process else None

    def prepare(self) -> Prepared:
        """Load data and model in the child. Raises what the child raised, or EnvironmentFault RSD-4510, RSD-4515."""
        if self._socket is None:
            self._start()
        answer, _ = self._ask({"do": "prepare", "spec": self._spec.model_dump(mode="json")})
        self._prepared = load_model(Prepared, answer, "RSD-4511", "the worker's answer")
        return self._prepared

    def train(self, spec: RoundSpec, start: Array) -> tuple[Array, Trained]:
        """Run one charged attempt from the global vector `start`; returns the delta, float32 (d,), and its checks.

        Raises RunFailed RSD-4500 (a conformance check is false), InputError RSD-4501 (the vector does not fit),
        EnvironmentFault RSD-4510, RSD-4513, RSD-4515. After any of these the attempt is spent.
        """
        prepared = self._prepared if self._socket is not None and self._prepared else self.prepare()
        answer, delta = self._ask({"do": "train", "spec": spec.model_dump(mode="json")}, start)
        trained = load_model(Trained, answer, "RSD-4511", "the worker's answer")
        if delta.shape != (prepared.d,) or not np.isfinite(delta).all():
            raise EnvironmentFault(
                "RSD-4511", "the worker's update is not a finite vector of the layout's size", found=list(delta.shape),
                limit=[prepared.d], next="do not send it; report the software version",
            )  # fmt: skip
        return delta, trained

    def close(self) -> None:
        """End the child: first by closing its socket, then by force."""
        if self._socket is not None:
            self._socket.close()
        if self._process is not None:
            try:
                self._process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = self._socket = self._prepared = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "client.worker_main", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=worker_environment(dict(os.environ), self._spec.threads),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # a library's message may quote data
            )
        ours.settimeout(self._timeout)
        self._socket = ours

    def _ask(self, header: dict[str, Any], array: Array | None = None) -> tuple[Any, Array]:
        if self._socket is None:
            raise self._died()
        try:
            send(self._socket, header, array)
            reply, out = receive(self._socket)
        except TimeoutError as e:
            self._kill()
            raise EnvironmentFault(
                "RSD-4515", "the training process did not answer in time", rule="the deadline ends the attempt",
                found="no answer", limit=f"{self._timeout} s", next="allow more time or give the site more processors",
            ) from e  # fmt: skip
        except (Closed, ValueError, ResidencyError) as e:
            raise self._died() from e
        if reply.get("ok") is True:
            return reply.get("answer"), out
        raise _error(reply)

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
        self.close()

    def _died(self) -> EnvironmentFault:
        process = self._process
        self._kill()
        status = "no process" if process is None else f"exit status {process.returncode}"
        return EnvironmentFault(
            "RSD-4510", "the training process died", rule="its attempt is spent; the agent goes on", found=status,
            limit="a running process", next="look for out-of-memory messages of the system; the next round restarts it",
        )  # fmt: skip


def _error(reply: dict[str, Any]) -> ResidencyError:
    """The child's error, as its class; RSD-4511 if even that is malformed."""
    error = reply.get("error")
    if not isinstance(error, dict) or not all(isinstance(error.get(k), str) for k in ("code", "message")):
        return EnvironmentFault("RSD-4511", "the training process answered in no known form", next="report it")
    known = {k: str(error.get(k, "")) for k in ("rule", "found", "limit", "next")}
    return error_class(int(reply.get("exit_code", 70)))(error["code"], error["message"], **known)

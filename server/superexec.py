"""The child process that starts Flower's ServerApp processes, and its end: no orphan is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from compliance.errors import EnvironmentFault
from server.lifeline import SERVER_PID
from strategies import flwr_private

_STOP_S: Final = 3.0


class SuperExec:
    """`flower-superexec` in a process group of its own, so that it and every ServerApp that it started end together."""

    def __init__(self, command: tuple[str, ...], environment: Mapping[str, str]) -> None:
        self._command = command
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None

    def keep_running(self) -> bool:
        """Start the child unless it runs; True if it had to be started."""
        if self._process is not None and self._process.poll() is None:
            return False
        self.stop()  # what a dead child left behind
        self._process = subprocess.Popen(
            self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=2, start_new_session=True
        )
        return True

    def stop(self) -> None:
        """End the whole group: asked first, killed after a few seconds."""
        if self._process is None:
            return
        group, self._process = self._process, None
        _signal(group.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            group.wait(_STOP_S)
        _signal(group.pid, signal.SIGKILL)
        group.wait()


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def superexec_command(address: str, ca: Path, secret: Path) -> tuple[str, ...]:
    """The command line of the child. Raises EnvironmentFault RSD-7106 if Flower's program is not installed."""
    program = scripts_folder() / "flower-superexec"
    if not program.exists():
        raise EnvironmentFault(
            "RSD-7106",
            "Flower's programs are not installed beside this Python",
            rule="the server starts flower-superexec",
            found="no such file",
            limit=str(program),
            next="install Residency with its server extra",
        )
    return (
        *(str(program), "--runtime-api-address", address, "--root-certificates", str(ca)),
        *("--superexec-auth-secret-file", str(secret), "--parent-pid", str(os.getpid())),
    )


def superexec_environment(home: Path, flower_home: Path, poll_s: float) -> dict[str, str]:
    """This process's environment with Flower's reporting off, a FLWR_HOME of its own and the server's home in it.

    Unless it says another, only warnings are logged: Flower's program colours its lines in a file too.
    """
    return {
        "FLWR_LOG_LEVEL": "WARNING",
        **os.environ,
        **flwr_private.QUIET_ENVIRONMENT,
        "PATH": f"{scripts_folder()}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "FLWR_HOME": str(flower_home),
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": str(poll_s),
        "RESIDENCY_SERVER_HOME": str(home),
        SERVER_PID: str(os.getpid()),
    }


def scripts_folder() -> Path:
    """Where the programs of the running Python's environment lie."""
    return Path(sysconfig.get_path("scripts"))

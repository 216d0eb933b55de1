"""The story's side of the harness: what is to be measured goes to its process, results come back as files."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from compliance.errors import RunFailed
from demo.crew import Crew
from demo.harness import Module, Task
from demo.results import read_json, write_json

LIMIT_S: Final = 1500.0
_LOOK_S: Final = 0.1


@dataclass(frozen=True)
class Measuring:
    """A measurement under way in the harness's `process`, whose own errors go to `errors`; its result is a file."""

    name: str
    task: Task
    process: subprocess.Popen[bytes]
    errors: Path

    def result(self) -> dict[str, Any]:
        """The result as soon as it is there. Raises RunFailed RSD-8907 when the measurement ends without it."""
        task, end = self.task, time.monotonic() + LIMIT_S
        while not task.target.exists() and self._runs() and time.monotonic() < end:
            time.sleep(_LOOK_S)
        if not task.target.exists():
            log = task.err if task.err.exists() else self.errors
            raise RunFailed(
                "RSD-8907",
                f"the harness's {self.name} failed: {' | '.join(_lines(log)[-3:])[-500:]}",
                rule="a demo without its measurements is no demo",
                found=f"exit {' '.join(_lines(task.ended)) or self.process.poll()}",
                limit=task.target.name,
                next=f"read {log}",
            )
        return read_json(task.target, self.name)

    def _runs(self) -> bool:
        return self.process.poll() is None and not self.task.ended.exists()


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").strip().splitlines() if path.exists() else []


class Harness:
    """The harness's process; the crew ends it, and its children with it."""

    def __init__(self, crew: Crew, folder: Path) -> None:
        """Start it. `folder` takes specifications and results."""
        self._folder, self._logs = folder, crew.logs
        self.process, _, self._errors = crew.start("harness", ["-m", "demo.harness"], fed=True)

    def measure(self, module: Module, spec: dict[str, Any], *, nice: int = 0, name: str = "") -> Measuring:
        """Have `demo.MODULE` measure what `spec` says, at priority `nice`; several run at a time."""
        name = name or module
        of = {kind: self._folder / f"{name}.{kind}" for kind in ("spec.json", "out.json", "started", "ended")}
        write_json(of["spec.json"], spec)
        said = self._logs / f"{name}.err"
        task = Task(
            module=module, spec=of["spec.json"], target=of["out.json"], nice=nice,
            out=said, err=said, started=of["started"], ended=of["ended"],
        )  # fmt: skip
        try:
            if self.process.stdin is not None:
                self.process.stdin.write(task.model_dump_json().encode() + b"\n")
        except BrokenPipeError:
            pass  # it has ended: whoever asks for the result is told why
        return Measuring(name, task, self.process, self._errors)

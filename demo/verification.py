"""Verification of the bundle as an auditor would do it: where torch and flwr cannot be imported."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from demo.cast import Folders
from demo.crew import Crew, Outcome

AUDITOR: Final = ".venv-auditor"
ABSENT_THERE: Final = ("torch", "flwr", "opacus", "transformers", "peft")


@dataclass(frozen=True)
class Verified:
    """How the verification went and where it ran."""

    outcome: Outcome
    place: str

    @property
    def ok(self) -> bool:
        """Exit 0."""
        return self.outcome.exit_code == 0

    def steps(self) -> list[dict[str, Any]]:
        """The numbered checks."""
        return list(self.outcome.json().get("steps", []))

    def tally(self) -> str:
        """Passed of all."""
        steps = self.steps()
        return f"{sum(s['status'] == 'ok' for s in steps)}/{len(steps)}"


def auditor_python() -> Path | None:
    """The interpreter of the auditor's environment, made by `make setup` beside the one that runs this."""
    for root in (Path(sys.prefix).parent, Path.cwd()):
        python = root / AUDITOR / "bin" / "python"
        if python.exists():
            return python
    return None


def importable(crew: Crew, python: Path) -> list[str]:
    """Which of the training libraries this interpreter could import, isolated from this folder and its paths."""
    code = f"import importlib.util as u; print(*(n for n in {ABSENT_THERE!r} if u.find_spec(n)))"
    return crew.run_program([str(python), "-I", "-c", code]).stdout.split()


def verify(crew: Crew, folders: Folders) -> Verified:
    """Run `residency verify` in the auditor's environment, or with the training libraries blocked."""
    words = ("verify", folders.bundle, "--trust", folders.trust, "--json")
    python = auditor_python()
    if python is not None and importable(crew, python) == []:
        place = f"in {AUDITOR}: pip install . alone; none of {', '.join(ABSENT_THERE)} can be imported there"
        return Verified(crew.run_program([str(python), "-I", "-m", "residency"], *words), place)
    outcome = crew.run_python(["-m", "demo.blocked"], *words)
    return Verified(outcome, f"in this environment with {', '.join(ABSENT_THERE)} blocked (no clean {AUDITOR} here)")

"""`residency study check --home`: what an agent would say to a study. The agent's part is installed apart from this."""

from __future__ import annotations

from pathlib import Path

from compliance.cli import Result
from compliance.commands.elsewhere import absent, part
from compliance.errors import UsageError


def dry_run(home: Path, file: Path) -> Result:
    """Ask the agent's own admission, which the top command names in its context: this package knows no agent.

    Raises UsageError RSD-2011 for a study that is not signed, EnvironmentFault RSD-7002 without the agent's packages.
    """
    if file.suffix != ".json":
        raise UsageError(
            "RSD-2011",
            "an agent judges signed studies only",
            rule="study check --home",
            found=file.name,
            limit="a signed study (.json)",
            next="residency study sign, then check that file",
        )
    result = part("dry_run", "the dry run", "agent")(home, file)
    if not isinstance(result, Result):
        raise absent("the dry run", "residency", "agent")
    return result

"""`residency study check --home`: what an agent would say to a study. The agent's part is installed apart from this."""

from __future__ import annotations

import importlib
from pathlib import Path

import click

from compliance.cli import Result
from compliance.errors import EnvironmentFault, UsageError


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
    where = (click.get_current_context().find_root().obj or {}).get("dry_run", "")
    try:
        module, _, name = where.partition(":")
        function = getattr(importlib.import_module(module), name, None) if module else None
    except ModuleNotFoundError as e:
        raise _absent(str(e.name)) from e
    result = function(home, file) if function else None
    if not isinstance(result, Result):
        raise _absent("residency")
    return result


def _absent(name: str) -> EnvironmentFault:
    return EnvironmentFault(
        "RSD-7002",
        "the dry run needs the agent's packages",
        found=f"no {name}",
        limit="residency[agent]",
        next="pip install 'residency[agent]'",
    )

"""`residency explain`: what an error code means and what to do."""

from __future__ import annotations

import dataclasses

import click

from compliance.cli import Result, command, table
from compliance.codes_index import explain as look_up
from compliance.codes_index import index


@click.command("explain")
@click.argument("code", required=False)
@command("residency.explain/1")
def explain(code: str | None) -> Result:
    """Say what CODE means and what to do; without CODE, list all codes.

    \b
    Example: residency explain RSD-2101
    """
    if code is None:
        every = list(index().values())
        lines = table(["code", "area", "title"], [[m.code, m.area, m.title] for m in every])
        return Result({"codes": [dataclasses.asdict(m) for m in every]}, lines)
    found = look_up(code)
    lines = [f"{found.code} {found.title}", f"  {found.meaning}", f"  next: {found.next}"]
    return Result(dataclasses.asdict(found), lines)

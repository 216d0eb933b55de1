"""Functions of parts that are installed apart from this package, which imports none of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import click

from compliance.errors import EnvironmentFault


def part(name: str, what: str, extra: str) -> Callable[..., Any]:
    """The function that the top command names `name` in its context; `what` needs it, `residency[extra]` holds it.

    Raises EnvironmentFault RSD-7002 where it is not installed.
    """
    where = (click.get_current_context().find_root().obj or {}).get(name, "")
    module, _, attribute = where.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute, None) if module else None
    except ModuleNotFoundError as e:
        raise absent(what, str(e.name), extra) from e
    if not callable(found):
        raise absent(what, "residency", extra)
    return found  # type: ignore[no-any-return]


def absent(what: str, missing: str, extra: str) -> EnvironmentFault:
    """RSD-7002 of what needs a part that is not there."""
    return EnvironmentFault(
        "RSD-7002",
        f"{what} needs packages that are not installed",
        found=f"no {missing}",
        limit=f"residency[{extra}]",
        next=f"pip install 'residency[{extra}]'",
    )

"""What every command shares: one JSON object on stdout or text for people, errors in two lines, fixed exit codes."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from compliance.canonical import Json
from compliance.errors import ResidencyError


@dataclass(frozen=True)
class Result:
    """What a command found out. `fields` go into the JSON object; `lines` are what a person reads.

    `error` makes the command exit with that error's code although it has a result to show.
    """

    fields: dict[str, Json] = field(default_factory=dict)
    lines: Sequence[str] = ()
    error: ResidencyError | None = None


def emit_json(schema: str, fields: dict[str, Json], error: ResidencyError | None) -> None:
    """Print one JSON object: schema, ok, error, then the fields."""
    record = {"schema": schema, "ok": error is None, "error": error.as_json() if error else None, **fields}
    click.echo(json.dumps(record, ensure_ascii=False))


def emit_error(error: ResidencyError) -> None:
    """Print an error for people on stderr: what and why in the first line, what to do in the second."""
    compared = f" [found {error.found or 'nothing'}; limit {error.limit}]" if error.limit else ""
    rule = f" (rule: {error.rule})" if error.rule else ""
    click.echo(f"error {error.code}: {error.message}{compared}{rule}", err=True)
    hint = error.next or f"residency explain {error.code}"
    click.echo(f"  next: {hint}", err=True)


def command(schema: str) -> Callable[[Callable[..., Result]], Callable[..., None]]:
    """Turn a function that returns a Result into a click callback with --json, exit codes and printed errors."""

    def wrap(function: Callable[..., Result]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(*args: Any, as_json: bool, **kwargs: Any) -> None:
            try:
                result = function(*args, **kwargs)
            except ResidencyError as e:
                result = Result(error=e)
            if as_json:
                emit_json(schema, result.fields, result.error)
            else:
                for line in result.lines:
                    click.echo(line)
                if result.error:
                    emit_error(result.error)
            sys.exit(result.error.exit_code if result.error else 0)

        return click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")(run)

    return wrap


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Rows as aligned text columns, for terminals and for files alike."""
    cells = [[str(c) for c in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]

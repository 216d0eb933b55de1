"""What every command shares: one JSON object on stdout or text for people, errors in two lines, fixed exit codes."""

from __future__ import annotations

import functools
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import click

from compliance.canonical import Json
from compliance.errors import EnvironmentFault, Interrupted, ResidencyError, UsageError

_CONTROLS: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


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
    told = {**error.as_json(), "next": _hint(error)} if error else None
    record = {"schema": schema, "ok": error is None, "error": told, **fields}
    text = json.dumps(record, ensure_ascii=False)
    click.echo(text if _utf8(text) else json.dumps(record))


def _utf8(text: str) -> bool:
    """Whether stdout takes `text` as UTF-8, as JSON has to be: not if a path in it has bytes that are none."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        return text.encode(encoding) == text.encode("utf-8")
    except UnicodeEncodeError:
        return False


def emit_error(error: ResidencyError) -> None:
    """Print an error for people on stderr: what and why in the first line, what to do in the second."""
    said = error.message.endswith((f"(found {error.found})", f"(found {error.found!r})", f": {error.limit}"))
    compared = f" [found {error.found or 'nothing'}; limit {error.limit}]" if error.limit and not said else ""
    rule = f" (rule: {error.rule})" if error.rule else ""
    click.echo(visible(f"error {error.code}: {error.message}{compared}{rule}").replace("\n", "\\n"), err=True)
    click.echo(visible(f"  next: {_hint(error)}").replace("\n", "\\n"), err=True)


def _hint(error: ResidencyError) -> str:
    return error.next or f"residency explain {error.code}"


def visible(text: str) -> str:
    """`text` with its control and direction characters written out: a name in a file drives nobody's terminal."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def usage_error(error: click.ClickException) -> UsageError:
    """What click found wrong with the command line, as RSD-2012; `next` names the command whose --help to read."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "residency"
    return UsageError(
        "RSD-2012",
        " ".join(error.format_message().split()) or "there is nothing to do",
        rule="usage of the command",
        found=" ".join(error.format_message().split()),
        limit=" ".join(context.get_usage().split()) if context else "",
        next=f"{path} --help",
    )


def not_installed(name: str, missing: str, extra: str) -> EnvironmentFault:
    """RSD-7002 of a command whose packages are not there."""
    return EnvironmentFault(
        "RSD-7002",
        f"'{name}' needs the package {missing}, which is not installed",
        found=f"no {missing}",
        limit=f"residency[{extra}]",
        next=f"pip install 'residency[{extra}]'",
    )


def system_refused(error: OSError) -> EnvironmentFault:
    """What the system refused and nobody foresaw: a name that is too long, a folder that may not be entered."""
    return EnvironmentFault(
        "RSD-7004",
        f"the system refused {error.filename or 'an operation'}: {error.strerror or type(error).__name__}",
        rule="what the system refuses ends the command",
        found=error.strerror or type(error).__name__,
        limit="a path that this user may use",
        next="check the paths of the command and who owns them",
    )


def interrupted() -> Interrupted:
    """RSD-7005 of a command that somebody stopped, with Ctrl-C or where it asked something."""
    return Interrupted(
        "RSD-7005",
        "the command was interrupted before its end",
        rule="what a command did not report is not known to be done",
        found="an interrupt",
        limit="the end of the command",
        next="look at what is there, then repeat the command",
    )


def command(schema: str) -> Callable[[Callable[..., Result]], Callable[..., None]]:
    """Turn a function that returns a Result into a click callback with --json, exit codes and printed errors."""

    def wrap(function: Callable[..., Result]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(*args: Any, as_json: bool, **kwargs: Any) -> None:
            try:
                result = function(*args, **kwargs)
            except ResidencyError as e:
                result = Result(error=e)
            except BrokenPipeError:
                raise
            except OSError as e:
                result = Result(error=system_refused(e))
            except KeyboardInterrupt:
                if not as_json:
                    raise
                result = Result(error=interrupted())
            try:
                _emit(schema, result, as_json=as_json)
                sys.stdout.flush()
            except BrokenPipeError:
                nobody_reads()  # who closed the pipe has read enough; the exit code still tells the outcome
            sys.exit(result.error.exit_code if result.error else 0)

        return click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")(run)

    return wrap


def _emit(schema: str, result: Result, *, as_json: bool) -> None:
    if as_json:
        emit_json(schema, result.fields, result.error)
        return
    for line in result.lines:
        click.echo(visible(line))
    if result.error:
        emit_error(result.error)


def nobody_reads() -> None:
    """What is still written to stdout goes nowhere: else the interpreter tries again at its end, and says so."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Rows as aligned text columns, for terminals and for files alike."""
    cells = [[str(c) for c in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]

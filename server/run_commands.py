"""`residency run`: hand a run to the server, follow it, look at it, cancel it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from compliance.canonical import Json, sha256_hex
from compliance.cli import Result, command, emit_error
from compliance.errors import ResidencyError
from compliance.files import read_bytes
from server.commands import HOME

_FILE = click.Path(path_type=Path)  # a folder instead of a file is a wrong file, no wrong usage


@click.group()
def run() -> None:
    """Runs of a study.

    \b
    Example: residency run start study.json --answers answers/
    """


@run.command("start")
@click.argument("study", type=_FILE)
@HOME
@click.option(
    "--answers",
    type=click.Path(path_type=Path),
    help="Folder of the sites' signed answers; without it, those that the governance service received.",
)
@click.option("--bundle", type=_FILE, help="An app bundle built elsewhere; sites refuse any that is not the release's.")
@click.option("--detach", is_flag=True, help="Return as soon as the server has the run.")
@command("residency.run.start/1")
def run_start(study: Path, home: Path, answers: Path | None, bundle: Path | None, detach: bool) -> Result:
    """Hand a run to the server, show its events, and wait for its end. Exit 8 when it fails, with each site's reason.

    Exit 8 also when too few witnesses cosigned the logs for a release; and when the study's evaluation has too few
    sites to be published, but then the model can be released.
    The run goes on when this command is interrupted, and after a crash of the server.

    \b
    Example: residency run start study.json --answers answers/ --home ./server
    """
    from server.bundle_build import build_bundle  # noqa: PLC0415 - loads Flower
    from server.desk import error_of, follow, start_run  # noqa: PLC0415
    from server.evaluation_view import evaluation_error  # noqa: PLC0415
    from server.quorum import witness_error  # noqa: PLC0415
    from server.run_view import summary  # noqa: PLC0415

    content = read_bytes(bundle, "bundle") if bundle else build_bundle()[0]
    folder = start_run(home, study, answers, content)
    error = None
    if not detach:
        error = error_of(follow(home, folder, _to_stderr)) or witness_error(home, folder) or evaluation_error(folder)
    fields, lines = summary(folder)
    return Result({**fields, "bundle_sha256": sha256_hex(content)}, lines, error)


@run.command("show")
@click.argument("run_name", metavar="RUN")
@HOME
@command("residency.run.show/1")
def run_show(run_name: str, home: Path) -> Result:
    """Outcome, step, round and sites of a run, also while it goes on. RUN is a folder, or a name below --home.

    \b
    Example: residency run show server/runs/thyroid-20261121-101500-1
    """
    from server.desk import find_run  # noqa: PLC0415 - loads Flower
    from server.run_view import summary  # noqa: PLC0415

    return Result(*summary(find_run(home, run_name)))


@run.command("watch")
@click.argument("run_name", metavar="RUN")
@HOME
def run_watch(run_name: str, home: Path) -> None:
    """Print every event of a run as a line of JSON, from its start to its end. Exit 8 when it did not finish.

    \b
    Example: residency run watch thyroid-20261121-101500-1 --home ./server
    """
    from server.desk import error_of, find_run, follow  # noqa: PLC0415 - loads Flower
    from server.evaluation_view import evaluation_error  # noqa: PLC0415
    from server.quorum import witness_error  # noqa: PLC0415

    try:
        folder = find_run(home, run_name)
        error: ResidencyError | None = error_of(follow(home, folder, _to_stdout))
        error = error or witness_error(home, folder) or evaluation_error(folder)
    except ResidencyError as e:
        error = e
    if error is not None:
        emit_error(error)
        raise SystemExit(error.exit_code)


@run.command("cancel")
@click.argument("run_name", metavar="RUN")
@click.option("--reason", required=True, help="Why; it stands in the operator's log. No patient data.")
@HOME
@command("residency.run.cancel/1")
def run_cancel(run_name: str, reason: str, home: Path) -> Result:
    """End a run at its next safe point, and close it at the sites: what they did not spend is free again.

    Returns once the wish is on disk; the server carries it out, now or when it runs again. The study is over then.

    \b
    Example: residency run cancel thyroid-20261121-101500-1 --reason "wrong study" --home ./server
    """
    from server.desk import cancel_run, find_run  # noqa: PLC0415 - loads Flower

    folder = find_run(home, run_name)
    cancel = cancel_run(home, folder, reason)
    fields: dict[str, Json] = {"run": folder.run, "reason": cancel.reason, "at": cancel.at, "folder": str(folder.path)}
    return Result(fields, [f"run {folder.run} is cancelled; residency run watch {folder.run} tells when it has ended"])


def _to_stderr(event: dict[str, Json]) -> None:
    """One event as NDJSON: progress never mixes with the result."""
    print(json.dumps(event, ensure_ascii=False), file=sys.stderr, flush=True)  # noqa: T201


def _to_stdout(event: dict[str, Json]) -> None:
    print(json.dumps(event, ensure_ascii=False), flush=True)  # noqa: T201

"""`residency run`: start a run and follow it; show a run that ended."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Literal

import click
from pydantic import BaseModel, ConfigDict, Field

from compliance.canonical import Json, parse_canonical, parse_json, sha256_hex
from compliance.cli import Result, command, table
from compliance.errors import InputError
from compliance.files import read_bytes
from compliance.identity import parse_envelope
from compliance.roster import Roster
from compliance.validation import load_model
from server.commands import HOME

_FILE = click.Path(path_type=Path)  # a folder instead of a file is a wrong file, no wrong usage


class _Lenient(BaseModel):
    """What is shown of a record that holds more."""

    model_config = ConfigDict(frozen=True, strict=True)


class _End(_Lenient):
    """Of result.json."""

    schema_: Literal["residency.run/1"] = Field(alias="schema")
    run: str
    study: str
    outcome: str


class _Error(_Lenient):
    code: str
    message: str
    rule: str


class _Event(_Lenient):
    """Of a line of events.jsonl."""

    event: str
    site: str = ""
    error: _Error | None = None


@click.group()
def run() -> None:
    """Runs of a study.

    \b
    Example: residency run start study.json --answers answers/
    """


@run.command("start")
@click.argument("study", type=_FILE)
@HOME
@click.option("--answers", type=click.Path(path_type=Path), required=True, help="Folder of the sites' signed answers.")
@click.option("--bundle", type=_FILE, help="An app bundle built elsewhere; sites refuse any that is not the release's.")
@command("residency.run.start/1")
def run_start(study: Path, home: Path, answers: Path, bundle: Path | None) -> Result:
    """Start a run, show its rounds, and wait for its end. Exit 8 when it fails, with each site's reason.

    \b
    Example: residency run start study.json --answers answers/ --home ./server
    """
    from server.bundle_build import build_bundle  # noqa: PLC0415 - loads Flower
    from server.desk import error_of, follow, start_run  # noqa: PLC0415

    content = read_bytes(bundle, "bundle") if bundle else build_bundle()[0]
    started = start_run(home, study, answers, content)
    result = follow(home, started, _show)
    fields, lines = summary(started.folder.path, result)
    return Result({**fields, "bundle_sha256": sha256_hex(content)}, lines, error_of(result))


@run.command("show")
@click.argument("folder", type=click.Path(path_type=Path))
@command("residency.run.show/1")
def run_show(folder: Path) -> Result:
    """Outcome, rounds and sites of a run.

    \b
    Example: residency run show server/runs/thyroid-20261121-101500-1
    """
    file = folder / "result.json"
    if not file.exists():
        raise InputError("RSD-8213", f"{folder} holds no finished run", found="no result.json", limit="result.json")
    return Result(*summary(folder, parse_canonical(read_bytes(file, "result"), str(file))))


def summary(folder: Path, result: dict[str, Json]) -> tuple[dict[str, Json], list[str]]:
    """What a run was: for JSON and for people. A site's outcome is that of the last roster.

    Raises InputError RSD-8213 when a file of the run does not have its form.
    """
    end = load_model(_End, result, "RSD-8213", str(folder / "result.json"))
    rosters = sorted((folder / "rosters").glob("*.json"))
    rows: list[dict[str, Json]] = []
    if rosters:
        payload = parse_canonical(parse_envelope(read_bytes(rosters[-1], "roster"), "roster").payload, "roster")
        last = load_model(Roster, payload, "RSD-8213", str(rosters[-1]))
        rows = [
            {
                "name": w.site,
                "jurisdiction": w.jurisdiction,
                "outcome": w.outcome,
                "code": w.reason.code if w.reason else "",
                "reason": w.reason.message if w.reason else "",
                "rule": w.reason.rule if w.reason else "",
            }
            for w in last.rows
        ]
    fields: dict[str, Json] = {
        "run": end.run,
        "study": end.study,
        "outcome": end.outcome,
        "rounds": len(rosters),
        "sites": rows or _absent(folder),
        "folder": str(folder),
    }
    shown = [[r["name"], r["jurisdiction"], r["outcome"], r["code"]] for r in fields["sites"]]
    head = f"run {end.run}: {end.outcome} after {len(rosters)} rounds"
    return fields, [head, *table(["site", "where", "outcome", "code"], shown)]


def _absent(folder: Path) -> list[dict[str, Json]]:
    """A run that ended before its first roster: the reasons stand in its events."""
    out: list[dict[str, Json]] = []
    file = folder / "events.jsonl"
    for line in read_bytes(file, "events").splitlines():
        event = load_model(_Event, parse_json(line, str(file)), "RSD-8213", str(file))
        e = event.error
        if event.event in {"absent", "refused"} and e:
            out.append(
                {"name": event.site, "jurisdiction": "", "outcome": "refused", "code": e.code,
                 "reason": e.message, "rule": e.rule}
            )  # fmt: skip
    return out


def _show(event: dict[str, Json]) -> None:
    """One event as NDJSON on stderr: progress never mixes with the result."""
    print(json.dumps(event, ensure_ascii=False), file=sys.stderr, flush=True)  # noqa: T201

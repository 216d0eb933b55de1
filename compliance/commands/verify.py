"""`residency verify`: a release bundle, a log, or what was made from one, offline, with trust.json from outside."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import click

from compliance.cli import Result, command
from compliance.clock import now, parse_time
from compliance.errors import NoTrustAnchor
from compliance.files import read_bytes
from compliance.release import manifest
from compliance.release.bundle_folder import read_folder
from compliance.release.report import Report
from compliance.release.verify import verify_bundle, verify_integrity
from compliance.release.verify_file import DOSSIER, EXPORT, SQLITE, TILES, Given, judge, read_given, refuse_options
from compliance.trust.root import load_anchor

_FILE = click.Path(path_type=Path)
# A folder that holds one of these is no bundle, and is judged as nothing else than what the name says.
_IN_FOLDERS = {"export.json": EXPORT, "log.db": SQLITE, "checkpoint": TILES, "dossier.json": DOSSIER}
_OF_A_BUNDLE = ("study.json", "evidence", "rosters", "model")


@click.command("verify")
@click.argument("path", type=_FILE)
@click.option("--trust", type=_FILE, help="The consortium's trust.json, from another source.")
@click.option("--at", default=None, help="Judge as of this UTC time (default: now).")
@click.option(
    "--against", type=_FILE, multiple=True,
    help="For a log or what was made from one: a cosigned checkpoint that a peer holds. May be repeated.",
)  # fmt: skip
@click.option(
    "--log", "log", type=_FILE,
    help="For an export or a dossier: the log itself (a home, a log.db, a bundle, or evidence).",
)  # fmt: skip
@command("residency.verify/1")
def verify(path: Path, trust: Path | None, at: str | None, against: tuple[Path, ...], log: Path | None) -> Result:
    """Check a release bundle, a log, an export or a dossier (folders; also a home), or one file made of a log, offline.

    Prints each step, then what is PROVED, what is ASSERTED BY whom, and what is NOT COVERED. Exits 1 if a check is
    false, 5 without a trust file ("integrity only").

    \b
    Example: residency verify out/bundle --trust out/trust.json
    """
    when = parse_time(at, "--at") if at else now()
    # Who fills a bundle could lay a sound log beside its files, and have that judged instead.
    names = () if any(os.path.lexists(path / n) for n in (manifest.PATH, *_OF_A_BUNDLE)) else _IN_FOLDERS
    file = path if path.is_file() else next((f for n in names if (f := path / n).is_file()), None)
    if file is not None:
        form = None if file == path else _IN_FOLDERS[file.name]
        return _result(path, _file(file, form, trust, when, against, log))
    refuse_options({o for o, given in (("--against", against), ("--log", log)) if given}, frozenset(), "a bundle")
    files = read_folder(path)
    if trust is None:
        return _result(path, verify_integrity(files))
    return _result(path, verify_bundle(files, load_anchor(trust), when))


def _file(
    file: Path, form: str | None, trust: Path | None, when: datetime, against: tuple[Path, ...], log: Path | None
) -> Report:
    if trust is None:
        raise NoTrustAnchor(
            "RSD-6015", f"{file.name} cannot be judged without a trust file", found="no --trust",
            limit="trust.json", next="give --trust FILE",
        )  # fmt: skip
    held = tuple((str(p), read_bytes(p, "checkpoint").decode("utf-8", errors="replace")) for p in against)
    return judge(Given(file, read_given(file), load_anchor(trust), when, held, log), form)


def _result(path: Path, report: Report) -> Result:
    lines = report.lines()
    if report.error is None:
        lines.append("")
        lines.append(f"verified: {path}")
    elif report.failed is None:
        lines.append("")
        lines.append(f"integrity only: {path}")
    return replace(Result(error=report.error), fields={"path": str(path), **report.fields()}, lines=lines)

"""`residency verify`: a release bundle, or the evidence of one log, offline, with trust.json from outside."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from compliance.cli import Result, command
from compliance.clock import now, parse_time
from compliance.errors import NoTrustAnchor, UsageError
from compliance.files import read_bytes
from compliance.release.bundle_folder import read_folder
from compliance.release.evidence_check import verify_evidence
from compliance.release.report import Report
from compliance.release.verify import verify_bundle, verify_integrity
from compliance.trust.root import load_anchor


@click.command("verify")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--trust", type=click.Path(path_type=Path), help="The consortium's trust.json, from another source.")
@click.option("--at", default=None, help="Judge as of this UTC time (default: now).")
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    multiple=True,
    help="For the evidence of one log: a cosigned checkpoint that a peer holds. May be repeated.",
)
@command("residency.verify/1")
def verify(path: Path, trust: Path | None, at: str | None, against: tuple[Path, ...]) -> Result:
    """Check a release bundle (a folder) or the evidence of one log (a file), offline.

    Prints each step, then what is PROVED, what is ASSERTED BY whom, and what is NOT COVERED. Exits 1 if a check is
    false, 5 without a trust file ("integrity only").

    \b
    Example: residency verify out/bundle --trust out/trust.json
    """
    when = parse_time(at, "--at") if at else now()
    if path.is_file():
        if trust is None:
            raise NoTrustAnchor(
                "RSD-6015", "the evidence of a log cannot be judged without a trust file", found="no --trust",
                limit="trust.json", next="give --trust FILE",
            )  # fmt: skip
        held = [(str(p), read_bytes(p, "checkpoint").decode("utf-8", errors="replace")) for p in against]
        return _result(path, verify_evidence(read_bytes(path, "evidence"), held, load_anchor(trust), when))
    if against:
        raise UsageError("RSD-9032", "--against goes with the evidence file of one log", found=path, limit="a file")
    files = read_folder(path)
    if trust is None:
        return _result(path, verify_integrity(files))
    return _result(path, verify_bundle(files, load_anchor(trust), when))


def _result(path: Path, report: Report) -> Result:
    lines = report.lines()
    if report.error is None:
        lines.append("")
        lines.append(f"verified: {path}")
    elif report.failed is None:
        lines.append("")
        lines.append(f"integrity only: {path}")
    return replace(Result(error=report.error), fields={"path": str(path), **report.fields()}, lines=lines)

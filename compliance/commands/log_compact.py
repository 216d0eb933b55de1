"""`residency log compact`: entries past their retention lose their text, and keep their leaf."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from compliance.cli import Result, command
from compliance.clock import now, parse_time, rfc3339
from compliance.commands.log_home import log_of, signer_of
from compliance.commands.shared import FILE

if TYPE_CHECKING:
    from compliance.log.compaction import Plan
    from compliance.log.store import LogStore


@click.command("compact")
@click.argument("home", type=FILE)
@click.option("--law", "law_file", type=FILE, required=True, help="The adopted law set: its floors and ceilings.")
@click.option(
    "--ceiling", "ceilings", metavar="CLASS=DAYS", multiple=True,
    help="The site's own schedule: erased after so many days at the latest. May be repeated.",
)  # fmt: skip
@click.option("--expired", is_flag=True, help="Also what no ceiling asks to erase, once its floor has passed.")
@click.option("--at", default=None, help="As of this UTC time (default: now); a later one only with --dry-run.")
@click.option("--dry-run", is_flag=True, help="Show what would go, and change nothing.")
@command("residency.log.compact/1")
def compact(
    home: Path, law_file: Path, ceilings: tuple[str, ...], expired: bool, at: str | None, dry_run: bool
) -> Result:
    """Remove the text of entries past their retention; their leaves stay, and what went is logged first.

    Charges, data sources, withdrawals, law sets, open studies, and what nobody has cosigned never go. The largest
    floor governs, also one that only may bind. It cannot be undone; copies in backups are not reached.

    \b
    Example: residency log compact /srv/residency --law law.json --ceiling access=365 --dry-run
    """
    from compliance.commands.audit import own_ceilings  # noqa: PLC0415 - loads the log
    from compliance.commands.law_site import site_law  # noqa: PLC0415 - loads the law engine
    from compliance.law.retention import retention  # noqa: PLC0415
    from compliance.log.compaction import check_moment, plan, schedules  # noqa: PLC0415

    moment = now()
    when = parse_time(at, "--at") if at else moment
    check_moment(when, moment, dry_run=dry_run)
    law, own = site_law(law_file), own_ceilings(ceilings)
    kept = retention(law.packs.values(), rfc3339(when)[:10], adopted=True, own=own)
    rows = schedules(kept, when, expired=expired)
    with _opened(home) as log:
        planned = plan(log, rows, law.digest)
        folded = None if dry_run or not planned.parts else log.compact(planned.parts)
    fields = {
        "at": rfc3339(when),
        "dry_run": dry_run,
        "entries": planned.entries,
        "parts": [{"class": p.record_class, "before": p.before, "ranges": list(p.ranges)} for p in planned.parts],
        "stays": dict(planned.stays),
        "copies_left": folded is False,
    }
    return Result(fields, _lines(planned, dry_run=dry_run, folded=folded))


def _opened(home: Path) -> LogStore:
    import sqlite3  # noqa: PLC0415

    from compliance.log.read_only import look  # noqa: PLC0415
    from compliance.log.store import LogStore  # noqa: PLC0415

    def origin(connection: sqlite3.Connection) -> str:
        return str(connection.execute("SELECT origin FROM log").fetchone()[0])

    signer, file = signer_of(home), log_of(home)
    return LogStore.open(file, look(file, origin), signer.private)


def _lines(planned: Plan, *, dry_run: bool, folded: bool | None) -> list[str]:
    done = "would go" if dry_run else "gone"
    lines = [
        f"{done:10} {sum(b - a + 1 for a, b in p.ranges)} of class {p.record_class}, before {p.before} ({p.policy})"
        for p in planned.parts
    ]
    lines += [f"stays      {many}: {why}" for why, many in sorted(planned.stays.items())]
    if not planned.parts:
        lines.insert(0, "nothing    no entry is past its retention and disposable")
    if folded is False:
        lines.append("not yet    the log is being read: its write-ahead file holds the texts until it is closed once")
    return lines

"""`residency agent subject`: people who withdraw, and what they may have gone into."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

from client.command_options import HOME, at_home
from compliance.cli import Result, command, table
from compliance.files import MOST_BYTES

_GROUNDS = ("consent", "objection", "erasure", "optout")


@click.group()
def subject() -> None:
    """People whose records are in this site's data.

    \b
    Example: residency agent subject withdraw --ground consent --home /srv/residency < ids.txt
    """


@subject.command("withdraw")
@HOME
@click.option("--ground", type=click.Choice(_GROUNDS), required=True, help="Why they are withdrawn; it is logged.")
@command("residency.agent.subject.withdraw/1")
def subject_withdraw(home: Path, ground: str) -> Result:
    """Withdraw the subjects whose identifiers are on stdin, one a line, as in the extract's patient column.

    From the next batch on they are left out, of later extracts too; caches and updates that wait are removed; what was
    spent stays spent. The answer is the same whether or not an extract holds them.

    \b
    Example: residency agent subject withdraw --ground consent --home /srv/residency < ids.txt
    """
    from client import subjects  # noqa: PLC0415 - loads pandas

    opened = at_home(home)
    ids = subjects.read_ids(sys.stdin.buffer.read(MOST_BYTES + 1))
    number = subjects.withdraw(opened, ids, ground)
    lines = [
        f"withdrawal {number} is recorded and in effect: no further batch, here or in later extracts",
        "caches and updates that were not sent are removed; the ledger is unchanged",
        "delete the rows at the source too; what was trained before: residency agent subject affected",
    ]
    return Result({"withdrawal": number, "ground": ground}, lines)


@subject.command("affected")
@HOME
@click.option("--study", default="", help="Only this study: its digest, or the start of it.")
@command("residency.agent.subject.affected/1")
def subject_affected(home: Path, study: str) -> Result:
    """Rounds that got an update from a dataset before a subject of it was withdrawn. Nobody is named.

    Each is only potentially affected: who was drawn into a batch is recorded nowhere. A release is, if its evidence
    holds one of these rosters.

    \b
    Example: residency agent subject affected --home /srv/residency
    """
    from client import subjects  # noqa: PLC0415

    found = subjects.affected(at_home(home), study)
    header = ["withdrawal", "at", "ground", "dataset", "study", "round", "update", "roster"]
    rows = [
        [a.withdrawal, a.at, a.ground, a.dataset, f"{a.name} {a.study[:12]}", a.round, a.update_sha256[:12],
         a.roster_sha256[:12] or "none"]
        for a in found
    ]  # fmt: skip
    lines = table(header, rows) if rows else ["no round is affected by a withdrawal"]
    return Result({"affected": [asdict(a) for a in found]}, lines)

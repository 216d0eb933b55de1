"""`residency agent ledger`: what a site's data sources have spent and may spend."""

from __future__ import annotations

from pathlib import Path

import click

from client.command_options import FILE, HOME, at_home
from client.home import AgentHome
from compliance.cli import Result, command, table
from compliance.privacy.ledger_state import Balance


@click.group()
def ledger() -> None:
    """The privacy ledger of this site's data sources."""


@ledger.command("show")
@HOME
@command("residency.agent.ledger.show/1")
def ledger_show(home: Path) -> Result:
    """What each data source may spend, what is held, what is left.

    \b
    Example: residency agent ledger show --home /srv/residency
    """
    balances, entries = _balances(at_home(home))
    sources = [
        {
            "source": b.source,
            "epsilon_milli": b.charged_milli,
            "held_milli": b.held_milli,
            "limit_milli": b.limit_milli,
            "left_milli": b.left_milli,
            "inverse_delta": b.inverse_delta,
            "entries": entries[b.source],
        }
        for b in balances
    ]
    rows = [
        [b.source, *(f"{m / 1000:.3f}" for m in (b.charged_milli, b.held_milli, b.limit_milli, b.left_milli))]
        for b in balances
    ]
    return Result({"sources": sources}, table(["source", "charged eps", "held", "limit", "left"], rows))


def _balances(home: AgentHome) -> tuple[list[Balance], dict[str, int]]:
    """Of each data source the balance, and the number of entries; nothing before the first study, and nothing made."""
    if not (home.path / "ledger.db").exists():
        return [], {}
    with home.ledger() as opened:
        return [opened.balance(s) for s in opened.sources()], {s: len(opened.show(s)) for s in opened.sources()}


@ledger.command("plan")
@click.argument("study", type=FILE)
@HOME
@command("residency.agent.ledger.plan/1")
def ledger_plan(study: Path, home: Path) -> Result:
    """What a signed study would cost here, and whether policy, law and ledger let it in. Spends nothing.

    \b
    Example: residency agent ledger plan study.json --home /srv/residency
    """
    from client.dry_run import dry_run  # noqa: PLC0415

    return dry_run(at_home(home).path, study)

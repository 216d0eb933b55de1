"""`residency agent ledger`: what a site's data sources have spent and may spend."""

from __future__ import annotations

from pathlib import Path

import click

from client.command_options import FILE, HOME, at_home
from client.home import AgentHome
from client.ledger_plot import Bar, text_plot
from client.ledger_view import bar_of, source_fields, source_lines, write_plot
from compliance.canonical import Json
from compliance.cli import Result, command

_PLOT = click.option("--plot", type=click.Path(path_type=Path), help="Also write the plot here, as SVG.")


@click.group()
def ledger() -> None:
    """The privacy ledger of this site's data sources.

    \b
    Example: residency agent ledger show --home /srv/residency
    """


@ledger.command("show")
@HOME
@_PLOT
@command("residency.agent.ledger.show/1")
def ledger_show(home: Path, plot: Path | None) -> Result:
    """What each data source has spent, what studies hold, what is left: as a table and a plot.

    \b
    Example: residency agent ledger show --home /srv/residency --plot ledger.svg
    """
    sources, bars = _sources(at_home(home))
    if plot:
        write_plot(plot, bars)
    lines = [*source_lines(sources), *([""] if bars else []), *text_plot(bars), *([f"plot {plot}"] if plot else [])]
    return Result({"sources": sources, "plot": str(plot) if plot else None}, lines)


def _sources(home: AgentHome) -> tuple[list[dict[str, Json]], list[Bar]]:
    """Every data source; nothing before the first study, and nothing made."""
    if not (home.path / "ledger.db").exists():
        return [], []
    with home.ledger() as opened:
        names = opened.sources()
        return [source_fields(opened, s) for s in names], [bar_of(opened.balance(s)) for s in names]


@ledger.command("plan")
@click.argument("study", type=FILE)
@HOME
@_PLOT
@command("residency.agent.ledger.plan/1")
def ledger_plan(study: Path, home: Path, plot: Path | None) -> Result:
    """What a signed study would cost here and what would remain, if policy, law and ledger let it in. Spends nothing.

    \b
    Example: residency agent ledger plan study.json --home /srv/residency
    """
    from client.dry_run import dry_run  # noqa: PLC0415

    return dry_run(at_home(home).path, study, plot)

"""What the agent's commands share."""

from __future__ import annotations

from pathlib import Path

import click

from client.home import AgentHome

HOME = click.option(
    "--home", type=click.Path(path_type=Path), default=Path("agent"), show_default=True, help="The agent's folder."
)
FILE = click.Path(path_type=Path)  # what is there is judged when it is read: a wrong file is no wrong usage


def at_home(home: Path) -> AgentHome:
    """The agent's home. Raises InputError RSD-1201 before anything is opened: a store that is opened is also made."""
    opened = AgentHome(home)
    opened.config  # noqa: B018 - reading it is the check
    return opened

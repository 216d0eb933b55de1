"""Flower's door into the installed server: hands the run to the coordinator.

No decision is taken here; `server.coordinator` holds them.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from compliance.errors import EnvironmentFault
from server.grid import FastGrid
from server.lifeline import SERVER_PID, end_with
from strategies import flwr_private, heap

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Coordinate the run's study. Errors of the coordinator end the run as failed, with their text in its status."""
    if server := os.environ.get(SERVER_PID):
        end_with(int(server))
    flwr_private.plain_console()
    flwr_private.hasten_pulls()
    heap.keep()
    coordinator = importlib.import_module("server.coordinator")
    coordinator.run(FastGrid(grid), server_home(), str(context.run_config["study"]))


def server_home() -> Path:
    """The home that the launcher gave to its child. Raises EnvironmentFault RSD-7107 outside of the launcher."""
    home = os.environ.get("RESIDENCY_SERVER_HOME")
    if not home:
        raise EnvironmentFault(
            "RSD-7107",
            "the server's home is not known",
            rule="the server's launcher starts this process",
            found="no RESIDENCY_SERVER_HOME",
            limit="the server's home",
            next="start runs through the server, not by hand",
        )
    return Path(home)

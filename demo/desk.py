"""The commands' process: `python -m demo.desk`. Loads `residency` once, and forks a child for each command.

A child enters the public command at its front door, with its own words; what is saved is the start of an interpreter
and its imports, a hundred times. What stays up (server, agents) and the run that is shown are programs of their own.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from typing import Final

import residency
from demo.forks import Job, serve

GROUPS: Final = ("verify", "key", "consortium", "study", "policy", "law", "agent", "release")
_LATER: Final = (  # what their commands import when they run
    "cedarpy",
    "client.data_commands",
    "client.enrol_commands",
    "client.registration",
    "dp_accounting.pld.privacy_loss_distribution",
    "grpc",
)


class Order(Job):
    """One command: what follows `residency`."""

    words: tuple[str, ...]


def _obey(order: Order) -> None:
    sys.argv = ["residency", *order.words]
    residency.main()


def load() -> None:
    """Import the commands, as objects that no later collection looks at or copies in a child."""
    os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"  # pandas loads pyarrow, whose allocator has a thread
    gc.disable()
    for name in (*(residency.LazyGroup.COMMANDS[group][0].partition(":")[0] for group in GROUPS), *_LATER):
        importlib.import_module(name)
    gc.freeze()
    gc.enable()


def main() -> None:
    """Serve orders."""
    serve(Order, _obey)


if __name__ == "__main__":
    load()
    main()

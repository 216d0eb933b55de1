"""Backup and restore of an operator's home."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from compliance.log import backup
from compliance.log.backup import BackupList, Kind, Made

# The state of the Flower processes is made again at every start, with new tokens.
KIND: Final = Kind("operator", "consortium.json", frozenset({"flower"}))


def make(home: Path, out: Path, *, keys: bool) -> Made:
    """`compliance.log.backup.make` of an operator's home."""
    return backup.make(home, out, KIND, keys=keys)


def restore(file: Path, home: Path) -> BackupList:
    """`compliance.log.backup.restore` of an operator's home."""
    return backup.restore(file, home, KIND, lambda _: None)

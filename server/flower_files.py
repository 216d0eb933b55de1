"""The files that the server keeps for Flower: the control token, the superexec secret, and Flower's own folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compliance.files import read_bytes


@dataclass(frozen=True)
class FlowerFiles:
    """The files that the server keeps for Flower under its home."""

    token: Path
    secret: Path
    home: Path


def flower_files(home: Path) -> FlowerFiles:
    """Where the control token, the superexec secret and Flower's own files lie."""
    folder = home / "flower"
    return FlowerFiles(folder / "control.token", folder / "superexec.secret", folder / "home")


def read_token(home: Path) -> str:
    """The control token of the server at `home`. Raises InputError RSD-2005."""
    return read_bytes(flower_files(home).token, "the control token").decode("ascii")

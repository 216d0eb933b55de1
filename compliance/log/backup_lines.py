"""What the backup commands of agent and operator tell."""

from __future__ import annotations

from pathlib import Path

from compliance.canonical import Json
from compliance.files import quoted
from compliance.log.backup import BackupList, Made


def made_fields(made: Made, out: Path) -> dict[str, Json]:
    """For `--json`."""
    return {**_fields(made.listed), "out": str(out), "left_out": list(made.left_out)}


def made_lines(made: Made, out: Path) -> list[str]:
    """For people."""
    listed = made.listed
    lines = [f"wrote      {out}: {_told(listed)}", f"left out   {', '.join(made.left_out) or 'nothing'}"]
    if listed.keys:
        return [*lines, "it holds PRIVATE KEYS: whoever reads it can sign in this home's name"]
    return [*lines, "no private key is in it: keep a copy of the keys elsewhere"]


def restored_fields(listed: BackupList, home: Path) -> dict[str, Json]:
    """For `--json`."""
    return {**_fields(listed), "home": str(home)}


def restored_lines(listed: BackupList, home: Path, doctor: str) -> list[str]:
    """For people; `doctor` is the command that looks whether the home is whole."""
    lines = [f"restored   {home}, as of {listed.at}: {_told(listed)}"]
    if not listed.keys:
        lines.append("next       put the private keys back where they were: none is in the backup")
    return [*lines, f"next       {doctor} --home {quoted(home)}"]


def _fields(listed: BackupList) -> dict[str, Json]:
    about = {"at": listed.at, "keys": listed.keys, "origin": listed.origin, "size": listed.size, "root": listed.root}
    return {**about, "files": len(listed.files)}


def _told(listed: BackupList) -> str:
    return f"{len(listed.files)} files, log {listed.origin} of {listed.size} entries"

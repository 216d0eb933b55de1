"""The log of a home, an agent's or an operator's, for commands of both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from compliance.errors import InputError

if TYPE_CHECKING:
    from compliance.identity import Signer

_KEYS = ("agent.key", "operator.key")


def log_of(path: Path) -> Path:
    """The log.db of the home at `path`, or `path` itself. Raises InputError RSD-5060 where there is none."""
    file = path / "log.db" if path.is_dir() else path
    if not file.is_file():
        raise InputError(
            "RSD-5060",
            f"{path} holds no log",
            rule="the log of a home is its log.db",
            found="no log.db",
            limit="the home of an agent or operator, or a log.db",
            next="give that folder or file",
        )
    return file


def signer_of(home: Path) -> Signer:
    """The key that signs the log of the home. Raises InputError RSD-5060 for a folder that is no home."""
    from compliance.identity import load_signer  # noqa: PLC0415 - loads cryptography

    found = [home / "keys" / name for name in _KEYS if (home / "keys" / name).is_file()]
    if len(found) != 1:
        raise InputError(
            "RSD-5060",
            f"{home} is no home of an agent or operator",
            rule="a log is written with its own key",
            found=f"{len(found)} of keys/{' and keys/'.join(_KEYS)}",
            limit="one of them",
            next="give the folder that agent enroll or consortium init made",
        )
    return load_signer(found[0])

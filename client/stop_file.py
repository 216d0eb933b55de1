"""The file whose content changes when a subject is withdrawn: no batch is drawn after that."""

from __future__ import annotations

import hashlib
from pathlib import Path

from compliance.errors import RunFailed


def stop_mark(path: str) -> str:
    """Digest of the content of `path`; a file that is not there counts as empty, and so does no path.

    Raises RunFailed RSD-4620 for a file that cannot be read.
    """
    try:
        content = Path(path).read_bytes() if path else b""
    except FileNotFoundError:
        content = b""
    except OSError as e:
        raise _stopped("a file that cannot be read") from e
    return hashlib.sha256(content).hexdigest()


class StopFile:
    """`path` as it was when its content had the digest `mark`; without a mark, as it is now."""

    def __init__(self, path: str, mark: str | None = None) -> None:
        self._path = path
        self._mark = stop_mark(path) if mark is None else mark

    def check(self) -> None:
        """Raises RunFailed RSD-4620 if the content is another one now."""
        if stop_mark(self._path) != self._mark:
            raise _stopped("changed")


def _stopped(found: str) -> RunFailed:
    return RunFailed(
        "RSD-4620", "a subject was withdrawn while the site was training", rule="no further batch with that subject",
        found=found, limit="the content at the start of the task",
        next="nothing: the next round runs without the subject; the charge stays",
    )  # fmt: skip

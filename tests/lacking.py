"""What a test needs beyond Python: on a machine without it the test is skipped, in CI it fails."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

WHOLE = "RESIDENCY_TESTS_WHOLE"  # .ci/run sets it, after it has installed what a bare machine lacks


def need(*wanted: str) -> None:
    """Each is a program on the path or an absolute path. Where one is not there, the test is skipped, or fails."""
    for one in wanted:
        if not (Path(one).exists() if one.startswith("/") else shutil.which(one)):
            said = f"{one} is not on this machine; .ci/run installs it"
            if os.environ.get(WHOLE):
                pytest.fail(said)
            pytest.skip(said)

"""Runs `residency ARGS`, an agent's, with a warm process that is a fork of the test run's stem (tests/stem.py)."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

if __name__ == "__main__":
    stem = importlib.import_module("stem")  # of this folder, which a script has first on its path
    sys.path.insert(0, str(Path(__file__).parent.parent))
    stem.adopt()
    from residency import main

    sys.argv[0] = "residency"
    main()

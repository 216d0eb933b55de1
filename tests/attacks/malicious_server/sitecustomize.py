"""Makes the operator's own coordinator a malicious one, in every Python that finds this folder on its path.

A site cannot see what the operator runs: here it sends what its signed study does not allow, by the real server, over
mutual TLS, to real agents.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from pathlib import Path


class _Evil(importlib.abc.MetaPathFinder):
    def find_spec(self, name, _path=None, _target=None):  # type: ignore[no-untyped-def]
        if name != "server.coordinator":
            return None
        return importlib.util.spec_from_file_location(name, Path(__file__).with_name("evil_coordinator.py"))


sys.meta_path.insert(0, _Evil())

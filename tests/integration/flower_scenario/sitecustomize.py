"""Puts the scenario's modules in the place of the domain logic, in the processes that a test starts only."""

import importlib.abc
import importlib.util
import sys
from pathlib import Path

_PLACES = {"server.coordinator": "scenario_coordinator.py", "client.session": "scenario_session.py"}


class _Scenario(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, *_):
        if fullname in _PLACES:
            return importlib.util.spec_from_file_location(fullname, Path(__file__).with_name(_PLACES[fullname]))
        return None


sys.meta_path.insert(0, _Scenario())

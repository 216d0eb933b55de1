"""The long files first: two workers then end at about the same time. (By itself xdist begins with the most tests.)"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

TESTS: Final = Path(__file__).parent
# From a minute and a half down to a quarter of one, in turn one with a federation of processes and one without.
LONGEST: Final = (
    "faults/test_run_kills.py",
    "integration/test_run_in_process.py",
    "unit/client/test_training_noise.py",
    "integration/test_run_federation.py",
    "integration/test_run_withdrawal.py",
    "integration/test_withdrawal_training.py",
    "faults/test_run_cuts.py",
    "unit/privacy/test_accounting.py",
    "integration/test_flower_federation.py",
    "unit/client/test_worker_process.py",
    "integration/test_doctor_live.py",
    "attacks/test_release_books.py",
    "attacks/test_malicious_operator.py",
    "attacks/test_poisoned_records.py",
    "integration/test_governance_link.py",
    "attacks/test_release_tampering.py",
    "attacks/test_governance.py",
    "attacks/test_control_plane.py",
    "unit/demo/test_demo_measurements.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files first, in their order; the others stay as they are. A listed file that is gone is an error."""
    places = {TESTS / name: place for place, name in enumerate(LONGEST)}
    gone = [str(path) for path in places if not path.exists()]
    if gone:
        raise pytest.UsageError(f"tests/conftest.py lists files that are gone: {', '.join(gone)}")
    items.sort(key=lambda item: places.get(item.path, len(places)))

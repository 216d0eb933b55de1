"""The long files first: the workers then end at about the same time. (By itself xdist begins with the most tests.)"""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Final

import pytest

from tests import programs, stem, workers

TESTS: Final = Path(__file__).parent
MEMORY: Final = Path("/dev/shm")  # noqa: S108 - chosen by name, not guessed
ROOM: Final = 4 << 30
# From a minute and a half down to ten seconds, in turn one with a federation of processes and one without.
LONGEST: Final = (
    "integration/test_run_federation.py",
    "unit/client/test_training_noise.py",
    "faults/test_run_kills.py",
    "integration/test_withdrawal_training.py",
    "attacks/test_malicious_operator.py",
    "integration/test_run_in_process.py",
    "integration/test_flower_federation.py",
    "browser/test_desk_browser.py",
    "integration/test_run_evaluation.py",
    "integration/test_doctor_live.py",
    "unit/client/test_worker_process.py",
    "faults/test_run_cuts.py",
    "unit/desk/test_desk_command.py",
    "attacks/test_release_books.py",
    "unit/demo/test_demo_measurements.py",
    "unit/privacy/test_accounting.py",
    "attacks/test_poisoned_records.py",
    "attacks/test_release_tampering.py",
    "integration/test_run_withdrawal.py",
    "integration/test_governance_link.py",
    "attacks/test_governance.py",
    "attacks/test_control_plane.py",
    "faults/test_log_crash.py",
    "integration/test_auditor_walk.py",
    "unit/test_bench_log.py",
)


def _in_memory() -> None:
    """Temporary files lie in memory where it has room: a kill -9 spares them as it spares a disk, and fsync is free."""
    if "TMPDIR" not in os.environ and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= ROOM:
        os.environ["TMPDIR"] = str(MEMORY)  # inherited by every process of a federation
        tempfile.tempdir = None


_in_memory()


def pytest_configure(config: pytest.Config) -> None:
    """The workers of one run share a stem and a collection; a run without workers starts a stem when a test asks."""
    if getattr(config.option, "numprocesses", None):
        config.option.tx = [f"popen//python={workers.start(config.invocation_params.args)}"] * len(config.option.tx)
        stem.start()
        programs.start()


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A site's warm process in this process is a fork of the stem."""
    from client.warm import Warm

    monkeypatch.setattr(Warm.__init__, "__defaults__", Warm.__init__.__defaults__)  # given back at the end
    stem.start()
    stem.adopt()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """A third of collecting would go into looking through what the imports make, which is hardly garbage."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files first, in their order; the others stay as they are. A listed file that is gone is an error."""
    places = {TESTS / name: place for place, name in enumerate(LONGEST)}
    gone = [str(path) for path in places if not path.exists()]
    if gone:
        raise pytest.UsageError(f"tests/conftest.py lists files that are gone: {', '.join(gone)}")
    items.sort(key=lambda item: places.get(item.path, len(places)))

"""The harness's process: one load of the training stack, a child for each measurement, every end of one told."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from compliance.errors import RunFailed
from demo.cast import Folders
from demo.crew import Crew
from demo.data import find_model, find_table, split_table
from demo.measurements import Harness


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return Folders(tmp_path_factory.mktemp("harness"))


@pytest.fixture(scope="module")
def harness(folders: Folders) -> Iterator[Harness]:
    with Crew(folders.out / "logs") as crew:
        yield Harness(crew, folders.harness)


def calibration(folders: Folders) -> dict[str, object]:
    """Constants from twelve public rows."""
    import pandas as pd

    table = folders.harness / "few.csv"
    if not table.exists():
        table.parent.mkdir(parents=True, exist_ok=True)
        split_table(pd.read_csv(find_table())).calibration.head(12).to_csv(table, index=False)
    return {
        "table": str(table), "holdout": str(table), "layers": 1, "model_dir": str(find_model()),
        "cache": str(folders.harness / "cache"), "source": "twelve rows", "threads": 1,
    }  # fmt: skip


def test_a_measurement_is_a_child_of_the_one_process(folders: Folders, harness: Harness) -> None:
    started = harness.measure("calibrate", calibration(folders), nice=7)
    process = psutil.Process(started.process.pid)
    seen: dict[int, int] = {}
    while not started.task.target.exists():
        seen |= {c.pid: c.nice() for c in process.children()}
        assert started.process.poll() is None
        time.sleep(0.02)
    assert started.result()["rows"] == 12
    assert len(seen) == 1
    assert list(seen.values())[-1:] == [os.nice(0) + 7]
    assert process.num_threads() == 1


def test_a_measurement_that_fails_is_named_and_the_next_one_runs(folders: Folders, harness: Harness) -> None:
    broken = harness.measure("calibrate", {**calibration(folders), "table": "/no/such.csv"}, name="broken")
    with pytest.raises(RunFailed, match=r"RSD-8907 the harness's broken failed: .*RSD-2300") as e:
        broken.result()
    assert e.value.found == "exit 1"
    again = harness.measure("calibrate", calibration(folders), name="again")
    assert again.result()["rows"] == 12


def test_a_killed_measurement_is_named(folders: Folders, harness: Harness) -> None:
    spec = {**calibration(folders), "cache": str(folders.harness / "other")}
    harness.measure("calibrate", spec, name="sibling").result()  # it goes on preparing the holdout: not to be hit
    process = psutil.Process(harness.process.pid)
    others = set(process.children())
    started = harness.measure("calibrate", {**spec, "cache": str(folders.harness / "third")}, name="killed")
    while not (mine := set(process.children()) - others):
        assert started.process.poll() is None
    os.kill(mine.pop().pid, signal.SIGKILL)
    with pytest.raises(RunFailed, match="RSD-8907") as e:
        started.result()
    assert e.value.found == "exit -9"


def test_the_end_of_the_process_is_named_too(tmp_path: Path, folders: Folders) -> None:
    with Crew(tmp_path / "logs") as crew:
        harness = Harness(crew, tmp_path)
        started = harness.measure("calibrate", calibration(folders))
        os.kill(started.process.pid, signal.SIGKILL)
        with pytest.raises(RunFailed, match="RSD-8907") as e:
            started.result()
        assert e.value.found == "exit -9"
        with pytest.raises(RunFailed, match="RSD-8907"):
            harness.measure("calibrate", calibration(folders), name="late").result()

"""The figures of `residency bench round`, its gate, and how it counts processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import psutil
import pytest

from bench.round import SIZES
from bench.round_agent import head_of
from bench.round_figures import Idle, Lap, figures, lines
from bench.round_gate import GATE, Gate, wait_at_gate
from bench.round_processes import Processes, cpu_s
from bench.round_world import bench_study
from compliance.errors import RunFailed
from compliance.release.model_files import LayoutFile, check_layout
from compliance.study import Study
from compliance.validation import load_model

LAPS = {
    "0.1M": {
        "stock": [Lap(9.0, 12.0, 0.5), Lap(20.0, 14.0, 0.5), Lap(10.0, 10.0, 0.5)],
        "ours": [Lap(1.0, 0.4, 0.7), Lap(2.0, 0.4, 0.7), Lap(0.5, 0.4, 0.7)],
    },
    "10M": {"stock": [Lap(12.0, 99.0, 3.0)], "ours": [Lap(3.0, 99.0, 3.0)]},
}


def test_figures_are_medians_and_the_cpu_is_that_of_the_small_size():
    found = figures(LAPS, 2, Idle(0.01234567, 499.96, 0.1))
    assert found["seconds_per_round_s"] == {"stock": {"0.1M": 10.0, "10M": 12.0}, "ours": {"0.1M": 1.0, "10M": 3.0}}
    assert found["ratio"] == {"0.1M": 10.0, "10M": 4.0}
    # 36 s over 3 rounds of 2 sites with one message each; 1.2 s over 3 rounds of 2 sites with two
    assert found["cpu_s_per_message"] == {"stock": 6.0, "ours": 0.1}
    assert found["idle"] == {"agent_cores": 0.0123, "agent_rss_mib": 500.0, "server_cores": 0.1}
    assert [s["round_s"] for s in found["samples"]["0.1M"]["stock"]] == [9.0, 20.0, 10.0]
    assert found["rounds"] == {"0.1M": {"stock": 3, "ours": 3}, "10M": {"stock": 1, "ours": 1}}
    assert any("10.0 times quicker" in line for line in lines(found))


def test_the_stand_in_has_the_head_of_the_bench_study_at_every_size():
    raw = bench_study("bench", 3, "ab" * 32)
    papers = [{**{k: v for k, v in d.items() if k != "file"}, "sha256": "cd" * 32} for d in raw["documents"]]
    signed = {"issued": raw["starts"], "software": {"version": "1", "bundle_sha256": "ef" * 32}}
    study = load_model(Study, {**raw, **signed, "documents": papers}, "RSD-2007", "study")
    for size in SIZES.values():
        entries = [e.model_dump(mode="json", exclude_none=True) for e in head_of(size)]
        layout = load_model(LayoutFile, {"schema": "residency.layout/1", "entries": entries}, "RSD-9042", "layout")
        check_layout(layout, study)
        assert layout.size == size


@pytest.fixture
def gate(tmp_path, monkeypatch):
    gate = Gate(tmp_path / "gate")
    monkeypatch.setenv(GATE, str(gate.path))
    yield gate
    gate.close()


def _party(name, told):
    def go():
        told[name] = wait_at_gate(name, answered=2)

    thread = threading.Thread(target=go)
    thread.start()
    return thread


def test_a_gate_waits_for_all_and_lets_all_through_with_what_it_tells(gate):
    told = {}
    threads = [_party(name, told) for name in ("a", "b")]
    last, said = gate.arrived({"a", "b"}, lambda: None)
    assert {who: line["answered"] for who, line in said.items()} == {"a": 2, "b": 2}
    assert told == {}
    assert gate.open(("a", "b"), size=7) >= last
    for thread in threads:
        thread.join(10)
    assert told == {"a": {"size": 7}, "b": {"size": 7}}


def test_a_gate_asks_while_it_waits_whether_there_is_anybody_left(gate):
    def nobody():
        raise RunFailed("RSD-8500", "gone")

    told = {}
    thread = _party("a", told)
    with pytest.raises(RunFailed, match="gone"):
        gate.arrived({"a", "b"}, nobody)
    gate.close()
    thread.join(10)
    assert told == {"a": None}


def test_cpu_counts_what_a_process_started_and_waited_for():
    work = "sum(i * i for i in range(4_000_000))"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {work!r}]); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        alone = sum(psutil.Process(process.pid).cpu_times()[:2])
        assert cpu_s([psutil.Process(process.pid)]) > alone + 0.1
        process.communicate(b"\n")


def test_processes_end_with_what_they_started_and_an_early_end_is_told(tmp_path):
    with Processes(tmp_path / "logs") as processes:
        code = (
            "import subprocess, sys, time; print(subprocess.Popen(['sleep', '600']).pid, flush=True); time.sleep(600)"
        )
        processes.start("stays", (sys.executable, "-c", code))
        processes.wait(lambda: processes.said("stays").endswith("\n"), "its child", 30)
        child = int(processes.said("stays"))
        processes.start("goes", (sys.executable, "-c", "print('no port'); raise SystemExit(3)"))
        with pytest.raises(RunFailed, match="goes ended during the bench") as caught:
            processes.wait(lambda: False, "nothing", 30)
        assert (caught.value.code, "no port" in caught.value.found) == ("RSD-8500", True)
        processes.stop("goes")
        with pytest.raises(RunFailed) as late:
            processes.wait(lambda: False, "nothing", 0.1)
        assert late.value.code == "RSD-8501"
    with pytest.raises(ProcessLookupError):
        _alive(child)


def _alive(pid):
    os.kill(pid, 0)
    if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
        raise ProcessLookupError(pid)

"""The heap is kept for the next large message and given back at rest; measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from strategies import heap

_CHURN = """
import resource, sys
import numpy as np
from strategies import heap
if sys.argv[1] == "keep":
    assert heap.keep()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def message():
    array = np.empty(10_000_000, np.float32)
    array.fill(1)

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() >> 20

message()
before = faults()
for _ in range(4):
    message()
churned, full = faults() - before, resident()
heap.give_back()
print(churned, full - resident())
"""


def _churn(how: str) -> tuple[int, int]:
    done = subprocess.run([sys.executable, "-c", _CHURN, how], capture_output=True, text=True, check=True, timeout=60)
    faults, returned = done.stdout.split()
    return int(faults), int(returned)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_kept_memory_is_not_cleared_again_by_the_kernel_and_goes_back_at_rest() -> None:
    kept, returned = _churn("keep")
    churned, _ = _churn("leave")
    assert kept < 200 < churned
    assert returned >= 30


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap.sys, "platform", "darwin")
    assert not heap.keep()
    assert not heap.give_back()

"""The memory that modes' steps add to a process: `python -m bench.dp_memory`, jobs as JSON on stdin, MiB a line.

One process imports everything once; each job runs in a child of it, forked. A child starts with the anonymous pages of
its parent and without most of the file pages that the parent had mapped (fork(2) leaves them to page faults), so they
are mapped again first (madvise, MADV_POPULATE_READ) and the resident size must then be the parent's. Then the kernel's
high-water mark is reset (`/proc/self/clear_refs`, 5); what it is above that at the end is the job's peak, code pages
and heap that are new to it included. Linux only.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import opacus  # noqa: F401 - what is imported before the fork is not the mode's
import peft as _peft  # noqa: F401 - as above
import torch
import transformers.models.bert.modeling_bert  # noqa: F401 - as above

from bench.dp import modes
from bench.dp_cases import Job

_POPULATE_READ: Final = 22  # linux/mman.h, since 5.14
_PAGE: Final = os.sysconf("SC_PAGESIZE")
_PRESENT: Final = np.uint64(1 << 63)
_ALIKE_KIB: Final = 2048  # the kernel counts pages in batches; the child has run a few lines more
_SELF: Final = Path("/proc/self")

Range = tuple[int, int]


def status_kib(name: str) -> int:
    """A line of this process's `/proc/self/status`."""
    for line in (_SELF / "status").read_text("ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise KeyError(name)


def file_pages() -> list[Range]:
    """The mapped and present pages of files, as (address, bytes)."""
    with (_SELF / "pagemap").open("rb", buffering=0) as pagemap:
        found: list[Range] = []
        for line in (_SELF / "maps").read_text("utf-8").splitlines():
            span, access, _, _, _, *path = line.split(maxsplit=5)
            if access[0] != "r" or not path or not path[0].startswith("/"):
                continue
            start, end = (int(edge, 16) for edge in span.split("-"))
            pagemap.seek(start // _PAGE * 8)
            entries = np.frombuffer(pagemap.read((end - start) // _PAGE * 8), np.uint64)
            found.extend((start + at * _PAGE, count * _PAGE) for at, count in _runs((entries & _PRESENT) != 0))
    return found


def _runs(present: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Iterator[Range]:
    """Start and length of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], present, [False]]).astype(np.int8)))
    for first, end in edges.reshape(-1, 2).tolist():
        yield first, end - first


def map_again(ranges: Sequence[Range]) -> None:
    """In a child: what the parent had mapped of files."""
    madvise = ctypes.CDLL(None).madvise
    for address, size in ranges:
        madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), _POPULATE_READ)


def peak_mib(job: Job, ranges: Sequence[Range], parent_kib: int) -> float:
    """Build the mode, take the steps; how far the resident size rose above what it was before. In a new child."""
    map_again(ranges)
    before = status_kib("VmRSS")
    if abs(before - parent_kib) > _ALIKE_KIB:
        raise RuntimeError(f"the child starts with {before} KiB, its parent has {parent_kib}")
    (_SELF / "clear_refs").write_text("5", "ascii")
    step = modes(job.case)[job.mode]()
    for _ in range(job.steps):
        step()
    return round((status_kib("VmHWM") - before) / 1024, 1)


def _in_a_child(job: Job, ranges: Sequence[Range]) -> int:
    """Print what the child finds; its exit status."""
    parent_kib = status_kib("VmRSS")
    sys.stdout.flush()
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        print(peak_mib(job, ranges, parent_kib), flush=True)  # noqa: T201 - the answer
        code = 0
    except BaseException:  # noqa: BLE001 - a fork of this process ends here, whatever happens
        traceback.print_exc()
    os._exit(code)


def main() -> int:
    """One line a job, until one fails."""
    torch.set_num_threads(1)
    jobs = [Job.read(line) for line in json.load(sys.stdin)]
    ranges = file_pages()
    return next((1 for job in jobs if _in_a_child(job, ranges)), 0)


if __name__ == "__main__":
    sys.exit(main())

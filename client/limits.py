"""What a task's process may do, set by the process itself after the fork and before it reads data.

Linux first: memory (RLIMIT_DATA), processor time, open files, no core dump, no new privileges, death with its parent,
no network where the system allows a namespace of its own, and first place among those that the system kills when memory
ends. Elsewhere the limits that POSIX knows.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from pydantic import Field

from compliance.errors import EnvironmentFault
from compliance.training_spec import Frozen

_SET_PDEATHSIG: Final = 1  # prctl(2)
_SET_NO_NEW_PRIVS: Final = 38
_NEW_USER, _NEW_NET = 0x10000000, 0x40000000  # unshare(2)
_GPU_DEVICES: Final = (Path("/dev/nvidiactl"), Path("/dev/kfd"))
_CGROUPS: Final = Path("/sys/fs/cgroup")
_SHARE: Final = 0.8  # of the machine's memory: the system, the agent and the page cache keep the rest
_CPU_GRACE_S: Final = 5  # from SIGXCPU to SIGKILL
LEAST_MEMORY_MIB: Final = 1024  # the libraries alone take a third of it


class Limits(Frozen):
    """The bounds of one task. `memory_mib`: private memory, the libraries' included; `cpu_s`: of all its threads."""

    memory_mib: int = Field(ge=64, le=1 << 30)
    cpu_s: int = Field(ge=1, le=1 << 40)
    open_files: int = Field(default=1024, ge=64, le=1 << 20)


def apply(limits: Limits, parent: int) -> dict[str, bool]:
    """Bound this process; `parent` is the process that must outlive it. Returns what the system granted, by name.

    On Linux three may be False: `network_namespace` and `killed_first` where the host forbids them, `memory_limit`
    beside a GPU, whose driver maps more than any limit. Raises EnvironmentFault RSD-4601 if another cannot be set.
    """
    linux = sys.platform == "linux"
    try:
        if linux:
            _prctl(_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)
        first, apart = _be_killed_first(), linux and _leave_network()
        lower(resource.RLIMIT_CORE, 0)
        lower(resource.RLIMIT_NOFILE, limits.open_files)
        lower(resource.RLIMIT_CPU, limits.cpu_s, _CPU_GRACE_S)
        bounded = linux and not has_gpu()
        if bounded:
            lower(resource.RLIMIT_DATA, limits.memory_mib << 20)
        if linux:
            _prctl(_SET_NO_NEW_PRIVS, 1)
    except (OSError, ValueError) as e:
        raise EnvironmentFault(
            "RSD-4601", "a task's limits cannot be set", rule="nothing is trained without its limits",
            found=type(e).__name__, limit="setrlimit and prctl",
            next="allow both to the agent's service; residency agent doctor shows what is granted",
        ) from e  # fmt: skip
    return {
        "network_namespace": apart,
        "memory_limit": bounded,
        "no_new_privileges": linux,
        "dies_with_parent": linux,
        "killed_first": first,
    }


def lower(which: int, soft: int, grace: int = 0) -> None:
    """Set a limit to `soft`, hard `grace` above it; never above what holds already."""
    _, hard = resource.getrlimit(which)
    most = soft + grace if hard == resource.RLIM_INFINITY else min(soft + grace, hard)
    resource.setrlimit(which, (min(soft, most), most))


def _prctl(option: int, value: int) -> None:
    if _libc().prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _be_killed_first() -> bool:
    """Raise the score by which the system chooses whom to kill when memory ends; False where it may not be written."""
    try:
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    except OSError:
        return False
    return True


def _leave_network() -> bool:
    """Enter a network namespace with no interface up; False where the system refuses."""
    unshare = _libc().unshare
    return bool(unshare(_NEW_NET) == 0 or unshare(_NEW_USER | _NEW_NET) == 0)


def has_gpu() -> bool:
    """Whether this machine shows the device of a GPU driver. Loads nothing."""
    return any(device.exists() for device in _GPU_DEVICES)


def default_memory_mib() -> int:
    """Four fifths of the memory that this process may have: the machine's, or its control group's if that is less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(LEAST_MEMORY_MIB, int(min([machine, *_group_values("memory.max")]) * _SHARE) >> 20)


def oom_kills() -> int:
    """How many processes the system has killed for want of memory, in our control group and on the machine."""
    counted = 0
    for file in (Path("/proc/vmstat"), *(folder / "memory.events" for folder in _groups())):
        for line in _lines(file):
            name, _, value = line.partition(" ")
            if name == "oom_kill" and value.isdigit():
                counted += int(value)
    return counted


def _groups() -> list[Path]:
    """This process's control group (version 2) and those around it."""
    for line in _lines(Path("/proc/self/cgroup")):
        if line.startswith("0::"):
            own = _CGROUPS / line[3:].lstrip("/")
            return [own, *(p for p in own.parents if p == _CGROUPS or _CGROUPS in p.parents)]
    return []


def _group_values(name: str) -> list[int]:
    return [int(line) for folder in _groups() for line in _lines(folder / name) if line.isdigit()]


def _lines(file: Path) -> list[str]:
    """A file of the kernel; none where it is not there."""
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def isolation() -> dict[str, bool | int]:
    """What this machine grants a task: `apply`'s names and "memory_mib", the default bound; tried in a process.

    Raises EnvironmentFault RSD-4601 if the bounds cannot be set.
    """
    root = str(Path(__file__).resolve().parents[1])
    words = [sys.executable, "-P", "-m", "client.limits"]
    try:
        done = subprocess.run(
            words, env={**os.environ, "PYTHONPATH": root}, capture_output=True, timeout=60, check=True
        )
        found: dict[str, bool | int] = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as e:
        raise EnvironmentFault(
            "RSD-4601", "a task's limits cannot be set", rule="nothing is trained without its limits",
            found=type(e).__name__, limit="setrlimit and prctl", next="allow both to the agent's service",
        ) from e  # fmt: skip
    return found


def _main() -> None:
    memory = default_memory_mib()
    granted = apply(Limits(memory_mib=memory, cpu_s=60), os.getppid())
    print(json.dumps({**granted, "memory_mib": memory}))  # noqa: T201 - the answer to `isolation`


if __name__ == "__main__":
    _main()

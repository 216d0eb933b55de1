"""The accelerator and the limits of a task, as the agent's doctor sees them. torch is loaded in a child only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from client.limits import has_gpu, isolation
from compliance.doctor import GIB, Check
from compliance.errors import EnvironmentFault

_LIMIT_S: Final = 120  # a cold start of torch from a slow disk
_PROBE: Final = """
import json, torch
cuda = torch.cuda.is_available()
name = torch.cuda.get_device_name(0) if cuda else ""
free = torch.cuda.mem_get_info(0)[0] if cuda else 0
works = bool(cuda and (torch.ones(8, device="cuda") * 2).sum().item() == 16.0)
mps = torch.backends.mps.is_available()
print(json.dumps({"torch": str(torch.__version__), "cuda": cuda, "name": name, "free": free, "works": works,
                  "built_for_cuda": torch.version.cuda or "", "mps": mps}))
"""


@dataclass(frozen=True)
class AcceleratorFacts:
    """What torch says in a process of its own. `device`: the driver's device is there, whatever torch says of it."""

    torch: str
    device: bool
    cuda: bool
    name: str
    free: int
    works: bool
    built_for_cuda: str
    mps: bool


def accelerator_facts(program: str = _PROBE, limit_s: float = _LIMIT_S) -> AcceleratorFacts:
    """Ask torch. Raises EnvironmentFault RSD-7202 if it cannot be loaded, or does not answer in time."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", program], capture_output=True, timeout=limit_s, check=True, text=True,
            stdin=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        found = json.loads(done.stdout)
    except subprocess.TimeoutExpired as e:
        raise _no_torch(f"no answer in {limit_s:g} s", "see whether the GPU's driver hangs: dmesg, nvidia-smi") from e
    except (subprocess.CalledProcessError, ValueError) as e:
        text = e.stderr if isinstance(e, subprocess.CalledProcessError) else ""
        last = (text or "").strip().rpartition("\n")[2]
        raise _no_torch(last or type(e).__name__, "install the agent's extra again: residency[agent]") from e
    return AcceleratorFacts(device=has_gpu(), **found)


def _no_torch(found: str, next: str) -> EnvironmentFault:
    return EnvironmentFault(
        "RSD-7202", "torch cannot be used on this machine", rule="training needs torch", found=found,
        limit=f"an answer within {_LIMIT_S} s", next=next,
    )  # fmt: skip


def accelerator(found: AcceleratorFacts) -> Check:
    """A GPU that torch can compute on, or a machine without one; a driver's device that torch cannot use is a fault."""
    torch = f"torch {found.torch}"
    if found.cuda and found.works:
        return Check("accelerator", "ok", f"{found.name}, {found.free / GIB:.1f} GiB free, {torch}")
    if found.cuda:
        return Check("accelerator", "fail", f"{found.name} computes wrongly, {torch}", "a working GPU", "restart the "
                     "machine; if it stays so, have the GPU and its driver checked")  # fmt: skip
    if found.mps:
        return Check("accelerator", "ok", f"MPS, {torch}")
    if found.device:
        advice = (
            "see dmesg and nvidia-smi; restart the driver, or give the container its device"
            if found.built_for_cuda
            else "install a torch that is built for this GPU"
        )
        return Check("accelerator", "fail", f"a GPU is there and {torch} cannot use it", "a usable GPU", advice)
    return Check("accelerator", "ok", f"no GPU, training on the processor, {torch}")


def isolation_check() -> Check:
    """What this machine grants to a task's process."""
    return granted(isolation())


def granted(found: Mapping[str, bool | int]) -> Check:
    """The limits of a task: all of them, or which are missing. A GPU's driver maps more than any limit of memory."""
    limit = "every limit of a task"
    missing = sorted(name for name, value in found.items() if value is False)
    memory = f"{found.get('memory_mib', 0)} MiB a task"
    if not missing:
        return Check("isolation", "ok", memory, limit)
    return Check(
        "isolation", "warn", f"{memory}; not granted: {', '.join(missing)}", limit,
        "allow user namespaces to the agent's user, or keep the machine's other ways out closed by a firewall",
    )  # fmt: skip

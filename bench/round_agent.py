"""A site's agent with a stand-in for the training: `python -m bench.round_agent HOME STUDY=SIZE...`.

Everything but the training is the agent's own: node, checks, ledger, log, decisions, commits, witnessing, the warm
process and a child of it for each attempt. The stand-in is given to the site here, in code: the installed `agent start`
has no flag, variable or file that could.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.round_gate import wait_at_gate
from client.admission import Case
from client.commands import _serve_site
from client.fingerprints import Fingerprints
from client.home import only_agent
from client.limits import Limits
from client.site import open_site
from client.warm import Warm
from client.workbench import Ready, Workbench
from compliance.errors import RunFailed
from compliance.messages import LayoutEntry
from strategies import heap


def head_of(size: int) -> tuple[LayoutEntry, ...]:
    """The head of two labels that has `size` parameters, an even number: the study's model."""
    return LayoutEntry(name="head.weight", shape=(2, size // 2 - 1)), LayoutEntry(name="head.bias", shape=(2,))


class StandIn(Workbench):
    """Waits until the bench lets the site's round through, and answers with what its child drew."""

    def __init__(self, site: str, sizes: dict[str, int]) -> None:
        super().__init__(Fingerprints())
        self._site, self._sizes = site, sizes
        self._warm = Warm(("-m", "bench.round_zygote"))

    def prepare(self, case: Case, cache: Path) -> Ready:
        """A layout of the study's size."""
        del cache
        return Ready(head_of(self._sizes[case.study.name]), "cpu")

    def train(
        self, case: Case, cache: Path, round_: int, attempt: int, base: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], dict[str, bool]]:
        """Wait at the gate; then one task of the warm process."""
        del cache
        if wait_at_gate(self._site, round=round_, attempt=attempt) is None:
            raise RunFailed("RSD-8503", "the bench has ended", found="no bench", limit="a bench that waits")
        deadline = float(case.study.round_deadline_s)
        _, drawn = self._warm.run({}, base, Limits(memory_mib=self.memory_mib, cpu_s=int(deadline)), deadline)
        return drawn, {"noise": True}


def main(home: Path, sizes: dict[str, int]) -> None:
    """Serve the site at `home` until SIGTERM."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    site = open_site(home)
    site.workbench = StandIn(site.name, sizes)
    heap.keep()
    with only_agent(home):
        _serve_site(home, stop, 1, None)


if __name__ == "__main__":
    main(Path(sys.argv[1]), {name: int(size) for name, _, size in (word.partition("=") for word in sys.argv[2:])})

"""A federation whose agents run below `tests/egress_watch.py`: what each sends is noted before it is sent."""

from __future__ import annotations

import json
from pathlib import Path

from tests.egress import Sent
from tests.federation import TRAINING, Live


class Watched(Live):
    """`Live`, with the agents of the training sites under watch."""

    def program(self, name: str) -> tuple[str, ...]:
        """See `Live.program`."""
        if name not in TRAINING:
            return super().program(name)
        return (*super().program(name)[:1], "tests/egress_watch.py", str(self._report_of(name)))

    def _report_of(self, site: str) -> Path:
        return self.output / f"{site}.egress"

    def sent(self, site: str) -> list[Sent]:
        """What the site has sent so far, in order."""
        return [Sent(**json.loads(line)) for line in self._report_of(site).read_text().splitlines()]

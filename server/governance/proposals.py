"""The studies that the operator proposed, each offered to the sites that it lists and to nobody else."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from compliance.canonical import parse_canonical
from compliance.clock import now, parse_time
from compliance.errors import Refused, ResidencyError
from compliance.files import read_bytes
from compliance.governance import MOST_PROPOSALS, StudyReply
from compliance.identity import parse_envelope
from compliance.study import Study
from compliance.trust.home import OperatorHome
from compliance.validation import load_model


@dataclass(frozen=True)
class _Proposed:
    """A study file as it was read; `stamp` changes with the file."""

    stamp: tuple[int, int]
    digest: str
    sites: frozenset[str]
    ends: str


class Proposals:
    """A view of the operator's `studies/` folder that reads each file once. Thread-safe."""

    def __init__(self, home: OperatorHome) -> None:
        self._studies = home.root / "studies"
        self._lock = threading.Lock()
        self._read: dict[Path, _Proposed | None] = {}

    def offered(self, site: str) -> tuple[str, ...]:
        """Digests of the studies that list `site` and whose term is not over, at most `MOST_PROPOSALS`."""
        at = now()
        found = [p.digest for p in self._look().values() if site in p.sites and at <= parse_time(p.ends)]
        return tuple(sorted(found)[:MOST_PROPOSALS])

    def study(self, site: str, digest: str) -> StudyReply:
        """The signed study. Raises Refused RSD-6307 alike for one that does not exist and one for others only."""
        for path, proposed in self._look().items():
            if proposed.digest == digest and site in proposed.sites:
                return StudyReply(study=read_bytes(path, "the study").decode("utf-8").rstrip("\n"))
        raise Refused(
            "RSD-6307",
            "this study was not proposed to this site",
            rule="a study is offered to the sites that it lists",
            found=digest[:12],
            limit="a study that lists the site",
            next="ask the operator: residency study propose",
        )

    def _look(self) -> dict[Path, _Proposed]:
        with self._lock:
            there: dict[Path, _Proposed | None] = {}
            for path in self._studies.glob("*/study.json"):
                try:
                    stat = path.stat()
                except FileNotFoundError:
                    continue
                stamp, known = (stat.st_ino, stat.st_mtime_ns), self._read.get(path)
                there[path] = known if known is not None and known.stamp == stamp else _open(path, stamp)
            self._read = there
            return {path: p for path, p in there.items() if p is not None}


def _open(path: Path, stamp: tuple[int, int]) -> _Proposed | None:
    """What `residency study propose` put there; a file that is no study is offered to nobody."""
    try:
        envelope = parse_envelope(read_bytes(path, "the study"), str(path))
        study = load_model(Study, parse_canonical(envelope.payload, str(path)), "RSD-2007", str(path))
    except ResidencyError:
        return None
    return _Proposed(stamp, envelope.digest, frozenset(s.name for s in study.sites), study.ends)

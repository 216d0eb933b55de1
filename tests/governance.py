"""The governance service of a tiny consortium, in this process on loopback TLS, and the homes of its sites."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from client import enrolment
from client.governance import GovernanceClient
from client.home import AgentHome
from compliance.canonical import canonical
from compliance.identity import parse_envelope, seal
from compliance.log.store import LogStore
from server.calls import CallLog
from server.governance.service import Governance
from server.members import Members
from tests.federation import CONSORTIUM, HEAD_ONLY, JURISDICTIONS, OPERATOR, Consortium, Signed, _people, day, scratch


@functools.cache
def people() -> Consortium:
    """Members with keys, certificates, trust file and policies, but without data or model. Read-only."""
    root = scratch("governance")
    made = _people(root, HEAD_ONLY)
    for site in JURISDICTIONS:
        home = AgentHome(made.home(site))
        enrolment.install_trust(home, made.trust)
        made.install_terms(home)
    return made


@dataclass
class Hub:
    """A copy of the consortium whose operator's doors are open. `ports`: governance, enrolment."""

    made: Consortium
    ports: tuple[int, int] = (0, 0)
    calls: CallLog | None = field(default=None)
    service: Governance | None = field(default=None)

    def open(self) -> None:
        """Open the doors, on the ports of before if there were any."""
        self.calls = CallLog(self.made.hub)
        self.service = Governance(self.made.hub, Members(self.made.hub), self.calls)
        self.ports = self.service.start("127.0.0.1", *self.ports)

    def shut(self) -> None:
        """Close the doors."""
        if self.service is not None and self.calls is not None:
            self.service.stop()
            self.calls.close()
        self.service = self.calls = None

    def home(self, site: str) -> AgentHome:
        """The agent's home, its configuration pointing at these doors."""
        path = self.made.home(site)
        config = AgentHome(path).config.model_dump(mode="json", by_alias=True)
        config["governance"] = f"127.0.0.1:{self.ports[0]}"
        config["enrolment"] = f"127.0.0.1:{self.ports[1]}"
        (path / "agent.json").write_bytes(canonical(config))
        return AgentHome(path)

    def client(self, site: str) -> GovernanceClient:
        """A client with the site's own certificate."""
        return GovernanceClient.of(self.home(site))

    def propose(self, **changes: Any) -> Signed:
        """A study that lies in the operator's folder as `study propose` puts it there."""
        signed = self.made.sign_study(**changes)
        folder = self.made.hub / "studies" / signed.digest[:16]
        folder.mkdir(parents=True)
        (folder / "study.json").write_bytes(signed.data + b"\n")
        return signed

    def next_trust(self, signatories: tuple[str, ...] = tuple(JURISDICTIONS), **changes: Any) -> bytes:
        """Version 2 of the trust file, signed by these sites' signatories."""
        old = self.made.anchor
        record = json.loads(old.envelope.payload)
        record |= {"version": 2, "previous": old.digest, "issued": day(0), **changes}
        return seal(record, *(self.made.signatories[s] for s in signatories)).encode() + b"\n"

    def answers(self, study: str) -> list[str]:
        """Names of the answers that the operator holds."""
        return sorted(p.name for p in (self.made.hub / "studies" / study[:16] / "answers").glob("*.json"))

    def log(self) -> LogStore:
        """The operator's log."""
        trust = self.made.anchor.trust
        return LogStore.open(self.made.hub / "log.db", trust.log_origin(OPERATOR), self.made.operator.private)

    def entries(self, kind: str) -> list[dict[str, Any]]:
        """Bodies of the operator's entries of one kind."""
        with self.log() as log:
            return [e.body for e in log.entries(kind=kind)]

    def noted(self) -> list[tuple[str, str, str]]:
        """(method, site, outcome) of every call in the operator's log; the doors must be shut."""
        return [(c["method"], c["site"], c["outcome"]) for body in self.entries("calls") for c in body["calls"]]


@contextmanager
def hub() -> Iterator[Hub]:
    """A hub with open doors, on a copy of its own."""
    root = Path(shutil.copytree(people().root, scratch("hub") / "world"))
    opened = Hub(replace(people(), root=root))
    opened.open()
    try:
        yield opened
    finally:
        opened.shut()


def digest_of(data: bytes) -> str:
    """Digest of a signed statement."""
    return parse_envelope(data, "statement").digest


__all__ = ["CONSORTIUM", "JURISDICTIONS", "Hub", "digest_of", "hub", "people"]

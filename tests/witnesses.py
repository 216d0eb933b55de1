"""A small consortium with an outside witness: a trust file, logs of the members, and the witness as a real process."""

from __future__ import annotations

import http.client
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from compliance.clock import now, rfc3339
from compliance.identity import Signer, new_signer, save_signer, seal
from compliance.law.model import Party
from compliance.log.store import LogStore
from compliance.log.witness_home import WitnessHome
from compliance.log.witness_protocol import Request
from compliance.trust.root import Anchor, load_anchor
from tests.log_drafts import refusal_body

OPERATOR, SITES, CONSORTIUM, WITNESS = "hub", ("a", "b", "c"), "tiny", "patients-union"


def day(days: float) -> str:
    """RFC 3339 that many days from now."""
    return rfc3339(now() + timedelta(days=days))


@dataclass(frozen=True)
class Small:
    """What the members hold, below `root`: each home has log.db and keys/; the witness's is `witness`."""

    root: Path
    keys: dict[str, Signer]
    signatories: dict[str, Signer]

    @property
    def trust(self) -> Path:
        """The trust file."""
        return self.root / "trust.json"

    @property
    def anchor(self) -> Anchor:
        """The trust file, opened."""
        return load_anchor(self.trust, now())

    @property
    def witness(self) -> Path:
        """The witness's folder."""
        return self.root / "witness"

    def home(self, member: str) -> Path:
        """A member's folder."""
        return self.root / member

    def log(self, member: str, name: str = "log.db") -> LogStore:
        """A member's log, or another file under the member's key."""
        origin = self.anchor.trust.log_origin(member)
        return LogStore.open(self.home(member) / name, origin, self.keys[member].private)

    def write_trust(self, *more: Signer, version: int = 1, previous: str = "", place: str = "DE") -> None:
        """The trust file, with the keys of the members and those of `more`, signed by every site.

        `place`: the jurisdiction of `more`; empty for a trust file of the time before there was one.
        """
        people = [*self.keys.values(), *self.signatories.values(), *more]
        record = {
            "schema": "residency.trust/1",
            "consortium": CONSORTIUM,
            "version": version,
            "previous": previous,
            "issued": day(0),
            "expires": day(300),
            "threshold": 2,
            "operator": {"name": OPERATOR, "jurisdiction": "IE", "node_key": ""},
            "sites": [{"name": n, "jurisdiction": "DE", "node_key": ""} for n in SITES],
            "keys": [s.identity.as_json() for s in people],
        }
        if place:
            names = dict.fromkeys(s.identity.holder for s in more)
            record["witnesses"] = [Party(name=n, jurisdiction=place).model_dump(mode="json") for n in names]
        self.trust.write_bytes(seal(record, *self.signatories.values()).encode() + b"\n")


def small(root: Path) -> Small:
    """A consortium of three sites, whose trust file names the witness."""
    period = (day(-1), day(300))
    keys = {OPERATOR: new_signer("operator", OPERATOR, *period)}
    keys |= {name: new_signer("agent", name, *period) for name in SITES}
    made = Small(root, keys, {name: new_signer("signatory", name, *period) for name in SITES})
    for name, key in keys.items():
        save_signer(key, made.home(name) / "keys")
    made.write_trust(WitnessHome.make(made.witness, WITNESS, 300).signer())
    for name in keys:
        with made.log(name) as log:
            grow(log, 3)
    return made


def grow(log: LogStore, entries: int = 1) -> None:
    """Some entries more."""
    for n in range(entries):
        log.append("refusal", refusal_body(n))


def request(log: LogStore, old: int, size: int | None = None) -> Request:
    """A request for the checkpoint of `size`, proved from `old`."""
    size = log.size if size is None else size
    proof = log.consistency_proof(old, size) if 0 < old < size else ()
    return Request(old, proof, log.checkpoint(size))


@dataclass
class Running:
    """A witness that serves, as a process."""

    process: subprocess.Popen[str]
    port: int

    def post(self, body: bytes) -> tuple[int, str]:
        """Status and body of the answer to one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("POST", "/add-checkpoint", body)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


@contextmanager
def serving(made: Small, *program: str, home: Path | None = None) -> Iterator[Running]:
    """The witness of `made` as a process, ended on the way out; `program` instead of the public command."""
    words = ["log", "witness", "serve", "--home", str(home or made.witness), "--trust", str(made.trust), "--port", "0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, *(program or ("-m", "residency")), *words], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL,
        text=True, env=environment,
    )  # fmt: skip
    try:
        yield Running(process, int(json.loads(_first_line(process))["port"]))
    finally:
        process.terminate()
        process.wait(20)
        if process.stdout is not None:
            process.stdout.close()


def _first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    with selectors.DefaultSelector() as waiting:
        waiting.register(process.stdout, selectors.EVENT_READ)
        until = time.monotonic() + 60
        while time.monotonic() < until and process.poll() is None:
            if waiting.select(0.2):
                line = process.stdout.readline()
                if line:
                    return line
    raise AssertionError(f"the witness did not start: {process.poll()}")

"""A server, two agents and an outside witness, each a process of its own: decided, shown over HTTP, cosigned."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from compliance.canonical import b64decode
from compliance.clock import now
from compliance.identity import seal
from compliance.log import cosign, note
from compliance.log.entry import decode
from compliance.log.evidence import LogEvidence
from compliance.log.witness_home import WitnessHome
from compliance.release.bodies import read_decision
from compliance.trust.root import load_anchor
from compliance.trust.witnesses import outside_keys
from tests.federation import OPERATOR, Live, consortium, residency, scratch
from tests.witnesses import WITNESS, Small, serving

SITES = ("a", "b")
MEMBERS = (OPERATOR, *SITES)


class Witnessed(Live):
    """`Live`, with a witness in the trust file whom the server is told of."""

    port = 0

    def admit(self) -> Small:
        """The next trust file, everywhere; what the witness's process needs."""
        place = Small(self.made.root, {}, {})
        key = WitnessHome.make(place.witness, WITNESS, 300).signer().identity
        record = json.loads(self.made.anchor.envelope.payload)
        record |= {"version": 2, "previous": self.made.anchor.digest}
        record["keys"].append(key.as_json())
        record["witnesses"] = [{"name": WITNESS, "jurisdiction": "AT"}]
        data = seal(record, *self.made.signatories.values()).encode() + b"\n"
        for folder in (self.made.root, self.made.hub, *map(self.made.home, SITES)):
            (folder / "trust.json").write_bytes(data)
        return place

    def start_server(self) -> None:
        """See `Live.start_server`."""
        words = ("--host", "127.0.0.1", "--witness", f"{WITNESS}=127.0.0.1:{self.port}")
        self.spawn(OPERATOR, "server", "start", "--home", self.made.hub, *words)


@pytest.fixture(scope="module")
def ran() -> Iterator[SimpleNamespace]:
    """One short run whose study needs the outside witness: each site's log has one other neutral cosigner."""
    live = Witnessed(consortium())
    plan = consortium().study()
    study = consortium().sign_study(
        model={**plan["model"], "adapters": None},
        sites=[s for s in plan["sites"] if s["name"] in SITES],
        controllers=list(SITES),
        training={**plan["training"], "rounds": 1, "steps": 1},
        quorum={"sites": 2, "witnesses": 2},
    )
    with serving(live.admit()) as witness:
        live.port = witness.port
        try:
            live.start(SITES)
            file, answers = study.write(scratch("study"))
            done = live.end_run(live.begin_run(file, answers), 150)
            status = residency("server", "status", "--home", live.made.hub, "--json")
            yield SimpleNamespace(live=live, done=done, status=status, folder=Path(done.json["folder"]))
        finally:
            live.stop()


def _evidence(ran: SimpleNamespace, member: str) -> LogEvidence:
    return LogEvidence.model_validate_json((ran.folder / "evidence" / f"{member}.json").read_bytes())


def test_the_witness_cosigns_every_log_over_the_network(ran: SimpleNamespace) -> None:
    assert ran.done.code == 0, ran.done.err
    anchor = load_anchor(ran.live.made.trust)
    for member in MEMBERS:
        end = note.parse(_evidence(ran, member).checkpoint)
        assert list(cosign.cosigners(end, outside_keys(anchor.trust, now()))) == [WITNESS]
    place = WitnessHome(ran.live.made.root / "witness")
    with place.store(place.signer()) as memory:
        assert {s.origin.rpartition("/")[2] for s in memory.seen()} == set(MEMBERS)


def test_each_member_decided_once_on_the_witness_and_says_so_in_its_evidence(ran: SimpleNamespace) -> None:
    for member in MEMBERS:
        entries = [decode(b64decode(e.entry, member)) for e in _evidence(ran, member).entries]
        about = [e for e in entries if e.kind == "decision" and e.body["peer"] == WITNESS]
        found = [read_decision(e, member).decision for e in about]
        assert [(d.allow, d.transfer.artifact, d.recipient.jurisdiction) for d in found] == [
            (True, "log_checkpoint", "AT")
        ], member


def test_the_status_of_the_server_says_what_the_witness_may_be_shown(ran: SimpleNamespace) -> None:
    (told,) = ran.status.json["witnesses"]
    assert (told["name"], told["jurisdiction"], told["refused"]) == (WITNESS, "AT", None)
    assert told["addresses"] == [f"http://127.0.0.1:{ran.live.port}"]

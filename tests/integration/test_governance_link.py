"""The agent's link against a real governance service: everything that it does outside of runs."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from client import outbox
from client.books import Books
from client.circulation import Pace
from client.link import Link, LinkTimes
from client.link_view import link_fields, link_state
from client.taken_back import check_not_taken_back
from compliance.canonical import canonical
from compliance.clock import now
from compliance.errors import Refused
from compliance.identity import seal
from compliance.log import note
from compliance.pki import issue_site_certificate, make_csr, read_site_certificate
from tests.federation import CONSORTIUM, OPERATOR, residency
from tests.governance import Hub, hub
from tests.log_drafts import policy_body

QUICK = LinkTimes(look_s=0.05, first_wait_s=0.1, most_wait_s=0.2, pace=Pace(every_s=0.5, grown_s=0.1))


@pytest.fixture
def service() -> Iterator[Hub]:
    with hub() as opened:
        yield opened


def wait(done: Callable[[], object], what: str, limit_s: float = 20) -> None:
    end = time.monotonic() + limit_s
    while not done():
        assert time.monotonic() < end, what
        time.sleep(0.02)


@contextmanager
def linked(service: Hub, *sites: str, times: LinkTimes = QUICK) -> Iterator[dict[str, list[str]]]:
    """Links of these sites, and what each has reported."""
    stop = threading.Event()
    said: dict[str, list[str]] = {site: [] for site in sites}
    links = [Link(service.home(s).path, stop, times, said[s].append) for s in sites]
    for link in links:
        link.start()
    try:
        yield said
    finally:
        for link in links:
            link.leave()
        assert not any(link.is_alive() for link in links)


def entries(service: Hub, site: str, kind: str) -> list[dict[str, object]]:
    books = Books(service.home(site))
    try:
        return [e.body for e in books.log.entries(kind=kind)]
    finally:
        books.close()


def test_a_proposal_arrives_and_the_answer_goes_back(service: Hub) -> None:
    study = service.propose()
    home = service.home("a").path
    with linked(service, "a"):
        inbox = home / "inbox" / "studies" / f"{study.digest}.json"
        wait(inbox.exists, "the proposal")
        assert inbox.read_bytes() == study.data + b"\n"
        books = Books(service.home("a"))
        advice = service.made.advice("a", study.digest)
        outbox.put(books, advice, "advice")
        outbox.put(books, service.made.approval("a", study.digest, advice), "approval")
        books.close()
        wait(lambda: len(service.answers(study.digest)) == 2, "the answers at the operator")
        wait(lambda: not outbox.waiting(home), "the outbox")
    assert {p.name for p in (home / "outbox" / "delivered").iterdir()} == set(service.answers(study.digest))
    assert {"act": "proposed", "study": study.digest, "name": "tiny-one"} in entries(service, "a", "study")
    kinds = [b["artifact"] for e in entries(service, "a", "decision") for b in [e["transfer"]]]  # type: ignore[index]
    assert "answer" in kinds
    fields = link_fields(home)
    assert (fields["governance"]["state"], fields["proposals"]) == ("online", [study.digest])
    assert (len(fields["answers_delivered"]), fields["answers_queued"]) == (2, [])


def test_nothing_leaves_when_the_rules_deny_it(service: Hub) -> None:
    """A law set without a pack for the site's country denies all: not even the question for news goes out."""
    study = service.propose()
    home = service.home("a").path
    service.made.install_terms(service.home("a"), {"packs": [{"id": "jp", "sha256": pack_digest("jp")}]})
    books = Books(service.home("a"))
    outbox.put(books, service.made.advice("a", study.digest), "advice")
    books.close()
    with linked(service, "a") as said:
        wait(lambda: any("RSD-3100" in line for line in said["a"]), "the denial")
        time.sleep(0.3)
    assert not (home / "inbox" / "studies" / f"{study.digest}.json").exists()
    assert service.answers(study.digest) == []
    assert not (service.made.hub / "exchange" / "a.json").exists()
    assert {e["effect"] for e in entries(service, "a", "decision")} == {"deny"}


def pack_digest(name: str) -> str:
    from compliance.law.decide import builtin_packs

    return builtin_packs()[name].digest


def cosigners(service: Hub, site: str) -> set[str]:
    """Who cosigned the newest cosigned checkpoint of a site's log, as its own store has it."""
    books = Books(service.home(site))
    try:
        notes = books.log.cosigned_checkpoints()
        return {s.name.split("/")[2] for n in notes for s in note.parse(n).signatures} - {site} if notes else set()
    finally:
        books.close()


def test_logs_are_cosigned_between_runs_and_come_to_rest(service: Hub) -> None:
    for site in ("a", "b", "c"):
        books = Books(service.home(site))
        books.record("policy", policy_body(1), "")
        books.close()
    with linked(service, "a", "b", "c"):
        for site in ("a", "b", "c"):
            others = {"a", "b", "c", OPERATOR} - {site}
            wait(lambda site=site, others=others: others <= cosigners(service, site), f"cosigned {site}")  # type: ignore[misc]
        wait(lambda: {"a", "b", "c"} <= operator_cosigners(service), "the operator's log")
        wait(lambda: at_rest(service), "an idle consortium asks for no more cosignatures", 30)


def at_rest(service: Hub) -> bool:
    """No log grows for three turns of the exchange; if cosignatures alone caused others, each turn would add some."""
    before = sizes(service)
    time.sleep(3.2 * QUICK.pace.every_s)
    return sizes(service) == before


def operator_cosigners(service: Hub) -> set[str]:
    with service.log() as log:
        return {name.split("/")[2] for name in log.cosigned_sizes()}


def sizes(service: Hub) -> dict[str, int]:
    out = {}
    for site in ("a", "b", "c"):
        books = Books(service.home(site))
        out[site] = books.log.size
        books.close()
    return out


def test_a_successor_of_the_trust_file_is_installed_and_logged(service: Hub) -> None:
    home = service.home("a").path
    successor = service.next_trust()
    (service.made.hub / "trust.json").write_bytes(successor)
    with linked(service, "a"):
        wait(lambda: (home / "trust.json").read_bytes() == successor, "the successor")
        wait(lambda: any(e.get("act") == "trust" for e in entries(service, "a", "consortium")), "its entry")


def test_a_successor_that_the_own_signatory_has_not_signed_is_kept_aside(service: Hub) -> None:
    home = service.home("a").path
    before = (home / "trust.json").read_bytes()
    forged = service.next_trust(signatories=("b", "c", "d"))
    (service.made.hub / "trust.json").write_bytes(forged)
    with linked(service, "a") as said:
        wait(lambda: any("RSD-1228" in line for line in said["a"]), "the report")
        time.sleep(0.5)
    assert (home / "trust.json").read_bytes() == before
    assert (home / "inbox" / "trust.json").read_bytes() == forged
    assert sum("RSD-1228" in line for line in said["a"]) == 1
    assert [e["code"] for e in entries(service, "a", "refusal")] == ["RSD-1228"]


def test_a_certificate_that_ends_soon_is_renewed(service: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from client.node import load_node_key

    home = service.home("b").path
    csr = make_csr(load_node_key(home / "keys" / "node.key"), "b", CONSORTIUM)
    with monkeypatch.context() as then:
        then.setattr("compliance.pki.now", lambda: now() - timedelta(days=60))
        issued = issue_site_certificate(service.made.hub / "tls", csr, "b", CONSORTIUM, 89)
    (home / "certs" / "site.crt").write_bytes(issued)
    with linked(service, "b"):
        wait(lambda: ends(home) - now() > timedelta(days=60), "the new certificate")
        study = service.propose(name="after-renewal")
        wait((home / "inbox" / "studies" / f"{study.digest}.json").exists, "the link goes on with it")
    assert any(e.get("act") == "certificate" for e in entries(service, "b", "consortium"))


def ends(home: Path):  # type: ignore[no-untyped-def]
    return read_site_certificate((home / "certs" / "site.crt").read_bytes()).not_after


def test_a_suspended_site_is_told_why_and_its_answers_wait(service: Hub) -> None:
    study = service.propose()
    home = service.home("a").path
    folder = service.made.hub / "suspended"
    folder.mkdir(exist_ok=True)
    (folder / "a.json").write_text("{}")
    books = Books(service.home("a"))
    outbox.put(books, service.made.advice("a", study.digest), "advice")
    books.close()
    with linked(service, "a") as said:
        wait(lambda: any("RSD-6207" in line for line in said["a"]), "the suspension")
        assert outbox.waiting(home)
        (folder / "a.json").unlink()
        wait(lambda: service.answers(study.digest), "delivered after the suspension was lifted")


def test_a_restored_log_stops_the_exchange(service: Hub) -> None:
    home = service.home("a").path
    books = Books(service.home("a"))
    books.record("policy", policy_body(1), "")
    books.log._database._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copyfile(home / "log.db", home / "old.db")
    books.record("policy", policy_body(2), "")
    books.close()
    with linked(service, "a"):
        wait(lambda: OPERATOR in cosigners(service, "a"), "cosigned once")
    for suffix in ("", "-wal", "-shm"):
        (home / f"log.db{suffix}").unlink(missing_ok=True)
    shutil.copyfile(home / "old.db", home / "log.db")
    with linked(service, "a") as said:
        wait(lambda: any("RSD-1225" in line for line in said["a"]), "the rollback is seen")
    assert [e["code"] for e in entries(service, "a", "refusal")] == ["RSD-1225"]
    assert service.entries("refusal")[0]["code"] == "RSD-5041"


def test_deliver_command_queues_and_delivers(service: Hub, tmp_path: Path) -> None:
    study = service.propose()
    home = service.home("a").path
    file = tmp_path / "advice.json"
    file.write_bytes(service.made.advice("a", study.digest) + b"\n")
    service.shut()
    done = residency("agent", "deliver", file, "--home", home, "--json")
    assert (done.code, done.json["error"]["code"]) == (6, "RSD-6311"), done.out + done.err
    assert done.json["answers"][0]["state"] == "queued"
    assert len(outbox.waiting(home)) == 1
    service.open()
    done = residency("agent", "deliver", file, "--home", home, "--json")
    assert (done.code, done.json["answers"][0]["state"]) == (0, "delivered"), done.out + done.err
    assert len(service.answers(study.digest)) == 1
    other = tmp_path / "other.json"
    other.write_bytes(service.made.advice("b", study.digest) + b"\n")
    done = residency("agent", "deliver", other, "--home", home, "--json")
    assert (done.code, done.json["error"]["code"]) == (4, "RSD-6305")


def test_a_server_that_is_away_for_long_costs_nothing_and_is_found_again(service: Hub) -> None:
    """Many failed connections: no thread, socket or file is left over, and the return is noticed within seconds."""
    home = service.home("a").path
    hasty = LinkTimes(look_s=0.02, first_wait_s=0.005, most_wait_s=0.01, pace=Pace(every_s=60))
    service.shut()
    failed = []
    real = Link._say

    def counting(self: Link, state, error) -> None:  # type: ignore[no-untyped-def]
        if error is not None:
            failed.append(error.code)
        real(self, state, error)

    Link._say = counting  # type: ignore[method-assign]
    try:
        with linked(service, "a", times=hasty):
            wait(lambda: len(failed) > 20, "some failures")
            threads, files = threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))
            wait(lambda: len(failed) > 150, "many failures", 60)
            assert set(failed) == {"RSD-6301"}
            assert threading.active_count() <= threads + 3
            assert len(list(Path("/proc/self/fd").iterdir())) <= files + 10
            service.open()
            began = time.monotonic()
            wait(lambda: (s := link_state(home)) is not None and s.state == "online", "online again")
            assert time.monotonic() - began < 5
    finally:
        Link._say = real  # type: ignore[method-assign]


def test_the_state_file_says_why_the_service_is_away(service: Hub) -> None:
    home = service.home("a").path
    service.shut()
    with linked(service, "a"):
        wait(lambda: link_state(home) is not None, "a state")
    state = link_state(home)
    assert state is not None
    assert (state.state, state.error["code"]) == ("away", "RSD-6301")


def test_the_own_log_is_not_shown_during_a_run(service: Hub) -> None:
    run = service.made.hub / "runs" / "r-1"
    run.mkdir(parents=True)
    (run / "nodes.json").write_bytes(canonical({"a": "1", "b": "2"}))
    with linked(service, "a", "c"):
        wait(lambda: OPERATOR in cosigners(service, "c"), "a site outside the run")
        time.sleep(0.5)
        assert cosigners(service, "a") == set()
        assert not (service.made.hub / "exchange" / "a.json").exists()
        (run / "result.json").write_bytes(canonical({}))
        wait(lambda: OPERATOR in cosigners(service, "a"), "after the run")


def test_a_withdrawal_that_was_queued_holds_at_the_site_whoever_passes_it_on(service: Hub) -> None:
    study = service.propose()
    home = service.home("a")
    body = {"schema": "residency.withdrawal/1", "subject": "study", "digest": study.digest, "site": "a"}
    from tests.federation import day

    data = seal({**body, "at": day(0), "reason": "Incident."}, service.made.signatories["a"]).encode()
    check_not_taken_back(home, study.digest)
    books = Books(home)
    outbox.put(books, data, "withdrawal")
    books.close()
    with pytest.raises(Refused, match="RSD-2208"):
        check_not_taken_back(home, study.digest)
    check_not_taken_back(home, "0" * 64)
    with pytest.raises(Refused, match="RSD-6305"):
        outbox.put(Books(home), service.made.advice("b", study.digest), "advice of b")

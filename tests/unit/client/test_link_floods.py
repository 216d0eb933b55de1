"""What a hostile operator sends through the link: a site's log, memory and inbox stay bounded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, cast

import pytest

from client import link as link_module
from client.books import Books
from client.circulation import Circulation, Pace
from client.governance import GovernanceClient
from client.link import Connected, Link, LinkTimes, check_longer, inbox_full, renewal_due
from client.node import load_node_key
from client.quota import REFUSALS_AN_HOUR, Quota, Refusals, Remembered
from client.standing import Standing
from compliance.canonical import sha256_hex
from compliance.clock import now
from compliance.errors import Refused
from compliance.governance import ExchangeReply, StatusReply
from compliance.messages import CheckpointOffer, CosignedLine
from compliance.pki import SiteCertificate, issue_site_certificate, make_csr, read_site_certificate
from compliance.tls import make_tls
from tests.federation import CONSORTIUM, OPERATOR
from tests.governance import Hub, hub
from tests.log_drafts import policy_body


class Clock:
    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def service() -> Iterator[Hub]:
    with hub() as opened:
        yield opened


class Hostile:
    """An operator's service that says what the test says."""

    def __init__(self, **said: Callable[..., Any]) -> None:
        self.calls: list[str] = []
        self._said = said

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            self.calls.append(name)
            return self._said[name](*args)

        return call


def joined_link(service: Hub, hostile: Hostile, **times: float) -> tuple[Link, Connected, list[str]]:
    said: list[str] = []
    home = service.home("a")
    link = Link(home.path, threading.Event(), LinkTimes(**times), said.append)  # type: ignore[arg-type]
    joined = Connected(home, Pace(), link._refusals, link._logged)
    joined.client.close()
    joined.client = cast("GovernanceClient", hostile)
    return link, joined, said


def status(service: Hub, *studies: str) -> StatusReply:
    trust = service.made.anchor
    return StatusReply(
        at="2026-01-01T00:00:00Z", version="1", bundle_sha256="0" * 64, trust=trust.digest, trust_version=1,
        studies=studies,
    )  # fmt: skip


def refusals(books: Books) -> list[str]:
    return [str(e.body["code"]) for e in books.log.entries(kind="refusal")]


def test_a_bounded_set_forgets_its_oldest() -> None:
    kept = Remembered(3)
    for i in (1, 2, 3, 3, 4):
        kept.add(i)
    assert [i in kept for i in (1, 2, 3, 4)] == [False, True, True, True]
    assert len(kept) == 3


def test_refusals_beyond_the_quota_are_counted_in_one_entry_and_no_kind_is_hidden(service: Hub) -> None:
    clock, books = Clock(), Books(service.home("a"))
    kept = Refusals(Quota(clock=clock))
    for i in range(REFUSALS_AN_HOUR + 30):
        kept.record(books, Refused("RSD-2210", "flood", found=str(i)))
    assert kept.record(books, Refused("RSD-1225", "rare"))
    kept.settle(books)
    assert refusals(books) == ["RSD-2210"] * REFUSALS_AN_HOUR + ["RSD-1225"]
    clock.at = 3601.0
    kept.settle(books)
    kept.settle(books)
    assert refusals(books)[REFUSALS_AN_HOUR:] == ["RSD-1225", "RSD-6313"]
    assert "30 more" in str(books.log.entries(kind="refusal")[-1].body["message"])
    assert kept.record(books, Refused("RSD-2210", "a new hour"))
    for i in range(REFUSALS_AN_HOUR):
        kept.record(books, Refused("RSD-2210", "flood", found=str(i)))
    kept.settle(books, ending=True)
    assert refusals(books)[-1] == "RSD-6313"
    books.close()


def test_invented_studies_fill_neither_log_nor_memory(service: Hub) -> None:
    """Other digests in each status, each answered with a study of another digest; a new connection changes nothing."""
    study = service.made.sign_study()
    hostile = Hostile(study=lambda _: study.data)
    link, joined, said = joined_link(service, hostile)
    invented = [sha256_hex(str(i).encode()) for i in range(1200)]
    link._fetch(joined, status(service, *invented[:1000]))
    assert hostile.calls.count("study") == 100
    for i in range(100, 1200, 100):
        if i == 600:
            joined.books.close()
            joined = joined_link(service, hostile)[1]
            joined.circulation._refusals = link._refusals
        link._fetch(joined, status(service, *invented[i : i + 100]))
    assert refusals(joined.books) == ["RSD-6307"] * REFUSALS_AN_HOUR
    assert len(link._judged) == 1000
    assert len(said) <= REFUSALS_AN_HOUR + 1
    joined.books.close()


def test_troubles_are_reported_once_each_and_so_many_an_hour(service: Hub) -> None:
    link, joined, said = joined_link(service, Hostile())
    for i in range(500):
        for _ in range(2):
            link._trouble(Refused("RSD-6309", "made up by the operator", found=str(i)))
    assert len(said) == len(set(said)) == REFUSALS_AN_HOUR
    joined.books.close()


@pytest.mark.parametrize(("name", "value"), [("_MOST_PROPOSALS", 3), ("_MOST_INBOX", (4 << 20) + 5000)])
def test_genuine_studies_fill_the_inbox_to_its_bound_and_one_refusal_says_so(
    service: Hub, monkeypatch: pytest.MonkeyPatch, name: str, value: int
) -> None:
    studies = {s.digest: s.data for s in (service.made.sign_study(name=f"flood-{i}") for i in range(6))}
    link, joined, _ = joined_link(service, Hostile(study=lambda d: studies[d]))
    folder = service.home("a").path / "inbox" / "studies"
    monkeypatch.setattr(link_module, name, value)
    for digest in studies:  # one at a time: this bound is not that of one status
        link._fetch(joined, status(service, digest))
    link._fetch(joined, status(service, *studies))
    held = sorted(folder.glob("*.json"))
    assert 1 <= len(held) <= 3
    assert refusals(joined.books) == ["RSD-6314"]
    assert inbox_full(folder) is not None
    held[0].unlink()
    link._fetch(joined, status(service, *studies))
    assert len(list(folder.glob("*.json"))) == len(held)
    joined.books.close()


def reply(**changes: Any) -> ExchangeReply:
    empty: dict[str, Any] = {"offers": (), "cosigned": (), "wanted": (), "known": "", "shown": True, "refused": ""}
    return ExchangeReply(**{**empty, **changes})


def test_bad_cosignatures_and_offers_are_looked_at_once_for_each_name(service: Hub) -> None:
    books, clock, kept = Books(service.home("a")), Clock(), Refusals()
    own, trust = books.log.origin, books.anchor.trust
    seen: list[str] = []

    def exchange(_: object) -> ExchangeReply:
        turn = int(clock.at)
        lines = [
            CosignedLine(origin=own, size=1, witness=trust.witness_name(w), line=f"{turn} {i}")
            for i in range(100)
            for w in ("b", f"made-up-{i}")
        ]
        offers = [
            CheckpointOffer(origin=trust.log_origin(o), note=f"offer {turn} {i}", proofs={})
            for i in range(100)
            for o in (OPERATOR, f"made-up-{i}")
        ]
        return reply(cosigned=tuple(lines), offers=tuple(offers))

    for _ in range(40):
        clock.at += 100
        circulation = Circulation(books, Standing(books, {}), Pace(), kept, clock)  # cut off, and connected again
        found = circulation.turn(cast("GovernanceClient", Hostile(exchange=exchange)))
        seen += [e.code for e in found]
    assert len(seen) == 80, "one line and one offer of each turn"
    assert REFUSALS_AN_HOUR <= len(refusals(books)) <= REFUSALS_AN_HOUR + 2
    books.close()


def test_the_same_bad_line_is_refused_once_however_many_others_came(service: Hub) -> None:
    books, kept = Books(service.home("a")), Refusals()
    line = CosignedLine(origin=books.log.origin, size=1, witness=books.anchor.trust.witness_name("b"), line="bad")
    hostile = cast("GovernanceClient", Hostile(exchange=lambda _: reply(cosigned=(line,))))
    for _ in range(3):
        Circulation(books, Standing(books), Pace(), kept).turn(hostile)
    assert len(refusals(books)) == 1
    books.close()


def test_refusals_alone_ask_nobody_for_a_cosignature_and_decisions_are_logged_once(service: Hub) -> None:
    books, logged = Books(service.home("a")), cast("Any", {})
    hostile = Hostile(exchange=lambda r: reply(shown=r.offer is not None))
    clock = Clock()
    circulation = Circulation(books, Standing(books, logged), Pace(), Refusals(), clock)
    circulation.turn(cast("GovernanceClient", hostile))
    clock.at = 1000.0
    circulation.turn(cast("GovernanceClient", hostile))
    before = circulation._shown
    books.record_refusal(Refused("RSD-2210", "x"), "")
    assert not circulation._grown(books.log.size)
    assert circulation._shown == books.log.size > before
    books.record("policy", policy_body(), "")
    assert circulation._grown(books.log.size)
    Standing(books, logged).check("log_checkpoint")
    assert len(books.log.entries(kind="decision")) == 1
    books.close()


# --- certificates ---------------------------------------------------------------------------------------------------


def certificate(days_ago: int, days_left: int) -> SiteCertificate:
    at = now()
    return SiteCertificate("a", "c", b"", at - timedelta(days=days_ago), at + timedelta(days=days_left), 1)


def test_when_a_certificate_is_renewed() -> None:
    assert not renewal_due(certificate(330, 31), now())
    assert renewal_due(certificate(330, 29), now())
    assert not renewal_due(certificate(1, 20), now()), "one that never lasts 30 days is not renewed as it comes"
    assert renewal_due(certificate(11, 9), now())
    with pytest.raises(Refused, match="RSD-6315"):
        check_longer(certificate(0, 9), certificate(5, 9))


def test_a_wrong_certificate_is_refused_before_it_is_logged_and_asked_for_once_a_day(
    service: Hub, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = service.home("a")
    make_tls(tmp_path)
    csr = make_csr(load_node_key(home.path / "keys" / "node.key"), "a", CONSORTIUM)
    foreign = issue_site_certificate(tmp_path, csr, "a", CONSORTIUM, 365)
    good = issue_site_certificate(service.made.hub / "tls", csr, "a", CONSORTIUM, 365)
    issued = [foreign]
    hostile = Hostile(renew=lambda _: issued[-1])
    link, joined, _ = joined_link(service, hostile)
    before = (home.path / "certs" / "site.crt").read_bytes()
    joined.certificate = certificate(350, 9)
    with pytest.raises(Refused, match="RSD-6211"):
        link._renew(joined, status(service))
    link._renew(joined, status(service))
    assert hostile.calls == ["renew"]
    assert joined.books.log.entries(kind="consortium") == []
    assert refusals(joined.books) == ["RSD-6211"]
    assert (home.path / "certs" / "site.crt").read_bytes() == before
    issued.append(good)
    later = link._asked or 0.0
    monkeypatch.setattr("time.monotonic", lambda: later + 24 * 3600 + 1)
    link._renew(joined, status(service))
    assert (home.path / "certs" / "site.crt").read_bytes() == good
    assert [e.body["act"] for e in joined.books.log.entries(kind="consortium")] == ["certificate"]
    assert joined.outdated
    assert read_site_certificate(good).not_after > now()
    joined.books.close()

"""The agent's link to the governance service: connects outward, in a thread of its own, for as long as the agent runs.

It fetches proposals, delivers signed answers, follows trust files that this site's own signatory signed, keeps
checkpoints in circulation, and renews the certificate. Nothing here decides about a study. It holds handles of its own
on log and witness memory, and every change of the site's state is in the site's log first.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Literal

from client import outbox
from client.books import Books
from client.circulation import Circulation, Pace
from client.enrolment import certificate_file, check_certificate, check_trust, install_certificate
from client.governance import GovernanceClient
from client.home import AgentHome
from client.link_view import LinkState
from client.quota import Quota, Refusals, Remembered
from client.standing import Logged, Standing
from compliance.canonical import canonical
from compliance.clock import now, rfc3339
from compliance.errors import InternalBug, PeerUnreachable, Refused, ResidencyError
from compliance.files import read_bytes, write_durably
from compliance.governance import MOST_REPLY, RENEW_DAYS, StatusReply
from compliance.pki import SiteCertificate, make_csr, read_site_certificate
from compliance.study import open_study

_MOST_PROPOSALS: Final = 100  # in the inbox; and digests of one status that are looked at
_MOST_INBOX: Final = 64 << 20  # bytes of proposals in the inbox


@dataclass(frozen=True)
class LinkTimes:
    """Seconds: between two looks, before another try after a failure (doubled up to the most), and the exchange's.

    `again_s`: before a statement that could not be taken is sent again. `renew_s`: between two requests for a
    certificate, whatever came of the first.
    """

    look_s: float = 5.0
    first_wait_s: float = 1.0
    most_wait_s: float = 60.0
    again_s: float = 60.0
    renew_s: float = 24 * 3600.0
    pace: Pace = field(default_factory=Pace)

    def wait_s(self, failures: int) -> float:
        """How long to wait after so many failures in a row."""
        return float(min(self.most_wait_s, self.first_wait_s * 2 ** min(failures, 16)))


def _to_stderr(text: str) -> None:
    print(f"link {text}", file=sys.stderr, flush=True)  # noqa: T201


class Link(threading.Thread):
    """Runs until `stop` is set, and ends then at once, or with the call at hand. Never raises: it reports and retries.

    A server that is away is tried again for ever, at most a minute apart.
    """

    def __init__(
        self,
        home: Path,
        stop: threading.Event,
        times: LinkTimes | None = None,
        report: Callable[[str], None] = _to_stderr,
    ) -> None:
        super().__init__(name="governance-link", daemon=True)
        self._home, self._stopping, self._report = AgentHome(home), stop, report
        self._times = times or LinkTimes()
        self._client: GovernanceClient | None = None
        # None of this is lost with a connection: whoever cuts one off gets nothing twice.
        self._refusals, self._logged = Refusals(), Logged()
        self._reported, self._reports = Remembered(), Quota()
        self._judged = Remembered()  # trust files and studies that were refused, by digest
        self._full = False  # the inbox, which was said
        self._later: dict[str, float] = {}  # statements that wait -> when each is sent again
        self._asked: float | None = None  # when a new certificate was asked for
        self._state = ""

    def run(self) -> None:
        """Connect, look, wait; again after every failure."""
        failures = 0
        while not self._stopping.is_set():
            try:
                with Connected(self._home, self._times.pace, self._refusals, self._logged) as joined:
                    self._client = joined.client
                    try:
                        while not self._stopping.is_set() and not joined.outdated:
                            self._look(joined)
                            failures = 0
                            self._stopping.wait(self._times.look_s)
                    finally:
                        self._refusals.settle(joined.books, ending=self._stopping.is_set())
                continue
            except ResidencyError as e:
                error = e
            except Exception as e:  # noqa: BLE001 - a thread that dies would leave the site without its link
                traceback.print_exc()
                error = _unexpected(e)
            if self._stopping.is_set():
                return  # a call that was cut off by `leave`
            self._say("away", error)
            self._stopping.wait(self._times.wait_s(failures))
            failures += 1

    def leave(self) -> None:
        """End the thread: the call at hand is cut off. Returns within two seconds."""
        self._stopping.set()
        if self._client is not None:
            self._client.close()
        self.join(2.0)

    def _look(self, joined: Connected) -> None:
        joined.standing.check("conformance_report")  # that this agent is there, and its version
        status = joined.client.status()
        self._say("online", None)
        self._refusals.settle(joined.books)
        for step in (self._follow_trust, self._fetch, self._deliver, self._exchange, self._renew):
            if self._stopping.is_set() or joined.outdated:
                return
            try:
                step(joined, status)
            except PeerUnreachable:
                raise
            except ResidencyError as e:
                self._trouble(e)

    def _follow_trust(self, joined: Connected, status: StatusReply) -> None:
        """Install the operator's trust file if it follows ours and our own signatory signed it; else keep it aside."""
        installed = joined.books.anchor
        behind = status.trust_version < installed.trust.version
        if behind or status.trust == installed.digest or status.trust in self._judged:
            return
        data = joined.client.trust()
        write_durably(self._home.path / "inbox" / "trust.json", data)
        try:
            anchor = check_trust(self._home, data, "the operator's trust file")
        except ResidencyError as e:
            self._judged.add(status.trust)
            self._refusals.record(joined.books, e)
            raise
        body = {"act": "trust", "digest": anchor.digest, "version": anchor.trust.version}
        joined.books.record("consortium", body, "")
        write_durably(self._home.path / "trust.json", data)
        joined.outdated = True
        self._report(f"trust file version {anchor.trust.version} installed")

    def _fetch(self, joined: Connected, status: StatusReply) -> None:
        """Put each new proposal into inbox/studies/, once the operator's signature on it is verified, while room is."""
        folder = self._home.path / "inbox" / "studies"
        for digest in status.studies[:_MOST_PROPOSALS]:
            file = folder / f"{digest}.json"
            if digest in self._judged or file.exists():
                continue
            full = inbox_full(folder)
            if full is not None:
                self._refuse_once(joined, full)
                return
            self._full = False
            data = joined.client.study(digest)
            try:
                name = self._proposal(joined, data, digest)
            except ResidencyError as e:
                self._judged.add(digest)
                self._refusals.record(joined.books, e)
                self._trouble(e)
                continue
            joined.books.record("study", {"act": "proposed", "study": digest, "name": name}, "")
            write_durably(file, data + b"\n")
            self._report(f"study {name} is proposed: {file}")

    def _refuse_once(self, joined: Connected, full: Refused) -> None:
        if not self._full:
            self._full = True
            self._refusals.record(joined.books, full)
            self._trouble(full)

    def _proposal(self, joined: Connected, data: bytes, digest: str) -> str:
        study, found = open_study(joined.books.anchor, data, "the proposed study", now())
        if found != digest or study.site(joined.books.name) is None:
            raise Refused(
                "RSD-6307",
                "the operator sent another study than it offered",
                rule="a study is known by its digest, and lists this site",
                found=found[:12],
                limit=digest[:12],
                next="ask the operator",
            )
        return study.name

    def _deliver(self, joined: Connected, status: StatusReply) -> None:
        del status
        at = time.monotonic()
        self._later = {name: until for name, until in self._later.items() if until > at}
        for delivery in outbox.deliver(joined.books, joined.standing, joined.client, self._later):
            if delivery.error is not None and delivery.waits:
                self._later[delivery.file] = at + self._times.again_s
                self._trouble(delivery.error)
            else:
                self._report(f"answer {delivery.file} {delivery.error or 'delivered'}")

    def _exchange(self, joined: Connected, status: StatusReply) -> None:
        del status
        for error in joined.circulation.turn(joined.client):
            self._trouble(error)

    def _renew(self, joined: Connected, status: StatusReply) -> None:
        """A new certificate for the same key, when `renewal_due`; asked for once in `renew_s`, whatever comes back."""
        del status
        waited = self._asked is None or time.monotonic() - self._asked >= self._times.renew_s
        if not waited or not renewal_due(joined.certificate, now()):
            return
        from client.node import load_node_key  # noqa: PLC0415 - loads Flower, which a running agent has loaded

        config = self._home.config
        key = load_node_key(self._home.path / "keys" / "node.key")
        data = joined.client.renew(make_csr(key, config.site, config.consortium))
        self._asked = time.monotonic()
        try:
            made = check_certificate(self._home, data)
            check_longer(made, joined.certificate)
        except ResidencyError as e:
            self._refusals.record(joined.books, e)
            raise
        ends = rfc3339(made.not_after)
        joined.books.record("consortium", {"act": "certificate", "ends": ends}, "")
        install_certificate(self._home, data)
        joined.outdated = True
        self._report(f"certificate renewed until {ends}")

    def _say(self, state: Literal["online", "away"], error: ResidencyError | None) -> None:
        """Report a change of state, once, and keep it for `residency agent status`."""
        told = f"{state} {error.code if error else ''}"
        if told == self._state:
            return
        self._state = told
        self._report(f"{state}{f': {error}' if error else ''}")
        record = LinkState(state=state, since=rfc3339(now()), error=error.as_json() if error else {})
        try:
            write_durably(self._home.path / "link.json", canonical(record.model_dump(mode="json")))
        except ResidencyError as e:
            self._trouble(e)

    def _trouble(self, error: ResidencyError) -> None:
        key = (error.code, error.message, error.found)
        if key in self._reported:
            return
        self._reported.add(key)
        if self._reports.over:
            left_out = self._reports.left_out
            self._reports.restart()
            if left_out:
                self._report(f"trouble: {left_out} more of the last hour are not reported one by one")
        if self._reports.take():
            self._report(f"trouble: {error}")


class Connected:
    """One connection with what it is used with. `outdated`: trust file or certificate have changed; connect again."""

    def __init__(self, home: AgentHome, pace: Pace, refusals: Refusals, logged: Logged) -> None:
        self.outdated = False
        shown = read_bytes(certificate_file(home.path), "the site's certificate")
        self.certificate = read_site_certificate(shown)
        self.client = GovernanceClient.of(home)
        try:
            self.books = Books(home)
        except BaseException:
            self.client.close()
            raise
        self.standing = Standing(self.books, logged)
        self.circulation = Circulation(self.books, self.standing, pace, refusals)

    def __enter__(self) -> Connected:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.books.close()


def inbox_full(folder: Path) -> Refused | None:
    """RSD-6314 if the proposals in `folder` leave no room for another of the largest size; None if they do."""
    sizes = [f.stat().st_size for f in folder.glob("*.json")]
    if len(sizes) < _MOST_PROPOSALS and sum(sizes) + MOST_REPLY <= _MOST_INBOX:
        return None
    return Refused(
        "RSD-6314",
        "no more proposals are fetched: the inbox is full",
        rule="what the operator can store at a site is bounded",
        found=f"{len(sizes)} proposals, {sum(sizes)} bytes",
        limit=f"{_MOST_PROPOSALS} proposals, {_MOST_INBOX - MOST_REPLY} bytes",
        next=f"ask the operator why it proposes so much, and move what is not wanted out of {folder}",
    )


def renewal_due(certificate: SiteCertificate, at: datetime) -> bool:
    """From `RENEW_DAYS` before the end; with one that lasts less than twice that, from half of its life on.

    A certificate that never lasts `RENEW_DAYS` is thus not renewed as soon as it comes.
    """
    life = certificate.not_after - certificate.not_before
    return certificate.not_after - at <= min(timedelta(days=RENEW_DAYS), life / 2)


def check_longer(made: SiteCertificate, present: SiteCertificate) -> None:
    """A renewal is worth installing if it ends later. Raises Refused RSD-6315."""
    if made.not_after <= present.not_after:
        raise Refused(
            "RSD-6315",
            "the new certificate lasts no longer than the present one",
            rule="a renewal ends later than what it replaces",
            found=rfc3339(made.not_after),
            limit=f"later than {rfc3339(present.not_after)}",
            next="ask the operator whether its CA ends soon",
        )


def _unexpected(error: Exception) -> InternalBug:
    return InternalBug(
        "RSD-6312",
        "the link to the governance service met an unexpected error",
        rule="the link goes on",
        found=type(error).__name__,
        limit="no error",
        next="report it, with what the agent printed",
    )

"""The agent's link to the governance service: connects outward, in a thread of its own, for as long as the agent runs.

It fetches proposals, delivers signed answers, follows trust files that this site's own signatory signed, keeps
checkpoints in circulation, and renews the certificate. Nothing here decides about a study. It holds handles of its own
on log and witness memory, and every change of the site's state is in the site's log first.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final, Literal

from client import outbox
from client.books import Books
from client.circulation import Circulation, Pace
from client.enrolment import certificate_file, check_trust, install_certificate
from client.governance import GovernanceClient
from client.home import AgentHome
from client.link_view import LinkState
from client.standing import Standing
from compliance.canonical import canonical
from compliance.clock import now, rfc3339
from compliance.errors import InternalBug, PeerUnreachable, Refused, ResidencyError
from compliance.files import read_bytes, write_durably
from compliance.governance import RENEW_DAYS, StatusReply
from compliance.pki import make_csr, read_site_certificate
from compliance.study import open_study

_REMEMBERED: Final = 1000  # troubles, so that each is reported once


@dataclass(frozen=True)
class LinkTimes:
    """Seconds: between two looks, before another try after a failure (doubled up to the most), and the exchange's."""

    look_s: float = 5.0
    first_wait_s: float = 1.0
    most_wait_s: float = 60.0
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
        self._reported: set[tuple[str, ...]] = set()
        self._judged: set[str] = set()  # trust files and studies that were refused, by digest
        self._state = ""

    def run(self) -> None:
        """Connect, look, wait; again after every failure."""
        failures = 0
        while not self._stopping.is_set():
            try:
                with Connected(self._home, self._times.pace) as joined:
                    self._client = joined.client
                    while not self._stopping.is_set() and not joined.outdated:
                        self._look(joined)
                        failures = 0
                        self._stopping.wait(self._times.look_s)
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
        status = joined.client.status()
        self._say("online", None)
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
            joined.books.record_refusal(e, "")
            raise
        body = {"act": "trust", "digest": anchor.digest, "version": anchor.trust.version}
        joined.books.record("consortium", body, "")
        write_durably(self._home.path / "trust.json", data)
        joined.outdated = True
        self._report(f"trust file version {anchor.trust.version} installed")

    def _fetch(self, joined: Connected, status: StatusReply) -> None:
        """Put each new proposal into inbox/studies/, once the operator's signature on it is verified."""
        for digest in status.studies:
            file = self._home.path / "inbox" / "studies" / f"{digest}.json"
            if digest in self._judged or file.exists():
                continue
            data = joined.client.study(digest)
            try:
                name = self._proposal(joined, data, digest)
            except ResidencyError as e:
                self._judged.add(digest)
                joined.books.record_refusal(e, "")
                self._trouble(e)
                continue
            joined.books.record("study", {"act": "proposed", "study": digest, "name": name}, "")
            write_durably(file, data + b"\n")
            self._report(f"study {name} is proposed: {file}")

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
        for delivery in outbox.deliver(joined.books, joined.standing, joined.client):
            self._report(f"answer {delivery.file} {delivery.error or 'delivered'}")

    def _exchange(self, joined: Connected, status: StatusReply) -> None:
        del status
        for error in joined.circulation.turn(joined.client):
            self._trouble(error)

    def _renew(self, joined: Connected, status: StatusReply) -> None:
        """A new certificate for the same key, from `RENEW_DAYS` before the end of the present one."""
        del status
        if joined.certificate_ends - now() > timedelta(days=RENEW_DAYS):
            return
        from client.node import load_node_key  # noqa: PLC0415 - loads Flower, which a running agent has loaded

        config = self._home.config
        key = load_node_key(self._home.path / "keys" / "node.key")
        data = joined.client.renew(make_csr(key, config.site, config.consortium))
        ends = rfc3339(read_site_certificate(data).not_after)
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
        if key not in self._reported:
            if len(self._reported) >= _REMEMBERED:
                self._reported.clear()
            self._reported.add(key)
            self._report(f"trouble: {error}")


class Connected:
    """One connection with what it is used with. `outdated`: trust file or certificate have changed; connect again."""

    def __init__(self, home: AgentHome, pace: Pace) -> None:
        self.outdated = False
        shown = read_bytes(certificate_file(home.path), "the site's certificate")
        self.certificate_ends = read_site_certificate(shown).not_after
        self.client = GovernanceClient.of(home)
        try:
            self.books = Books(home)
        except BaseException:
            self.client.close()
            raise
        self.standing = Standing(self.books)
        self.circulation = Circulation(self.books, self.standing, pace)

    def __enter__(self) -> Connected:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.books.close()


def _unexpected(error: Exception) -> InternalBug:
    return InternalBug(
        "RSD-6312",
        "the link to the governance service met an unexpected error",
        rule="the link goes on",
        found=type(error).__name__,
        limit="no error",
        next="report it, with what the agent printed",
    )

"""What each method of the governance service does, for a caller that is known. Bounds were judged by the door."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import Any, Final

from compliance.clock import now, rfc3339
from compliance.errors import CheckFailed, Refused
from compliance.files import read_bytes, write_durably
from compliance.governance import (
    AnswerReply,
    AnswerRequest,
    CertificateReply,
    ExchangeReply,
    ExchangeRequest,
    RenewRequest,
    StatusReply,
    StatusRequest,
    StudyReply,
    StudyRequest,
    TrustReply,
    TrustRequest,
)
from compliance.law.model import Party
from compliance.log.store import LogStore
from compliance.log.witness import WitnessStore
from compliance.pki import SITE_DAYS, csr_public_key, issue_site_certificate
from compliance.software import BUNDLE_SHA256, VERSION
from compliance.training_spec import Frozen
from compliance.trust.home import OperatorHome
from compliance.trust.root import Anchor
from server.governance.answers import Answers
from server.governance.door import Operation
from server.governance.exchange import Exchange
from server.governance.proposals import Proposals
from server.law import REPLIES, Standing
from server.members import Members
from server.nodes import normal_public_key

_NO_TRUST: Final = "the consortium has no trust file yet"


class Stores:
    """The operator's log and witness memory, opened when they are first needed. Safe for several threads."""

    def __init__(self, home: OperatorHome) -> None:
        self._home = home
        self._lock = threading.Lock()
        self._log: LogStore | None = None
        self._witness: WitnessStore | None = None

    def log(self) -> LogStore:
        """The operator's log."""
        with self._lock:
            if self._log is None:
                self._log = LogStore.open(self._home.log_file, self._origin(), self._home.signer().private)
            return self._log

    def witness(self) -> WitnessStore:
        """What the operator cosigned of the sites' logs."""
        with self._lock:
            if self._witness is None:
                name = f"{self._origin()}/witness"
                self._witness = WitnessStore(self._home.root / "witness.db", name, self._home.signer().private)
            return self._witness

    def close(self) -> None:
        """Close what was opened; a later call opens it again."""
        with self._lock:
            for store in (self._log, self._witness):
                if store is not None:
                    store.close()
            self._log = self._witness = None

    def _origin(self) -> str:
        config = self._home.config()
        return f"residency/{config.name}/{config.operator.name}"


class Methods:
    """The operations of the governance door, by method name."""

    def __init__(self, home: Path, members: Members, stores: Stores) -> None:
        self._home, self._members, self._stores = OperatorHome(home), members, stores
        self._proposals = Proposals(self._home)
        self._answers = Answers(self._home, self._proposals)
        self._exchange = Exchange(home)
        self._standing = Standing(self._home)

    def operations(self) -> dict[str, Operation]:
        """Method name -> operation, behind the decision on what its reply is."""
        operations: dict[str, Operation] = {
            "Status": self.status,
            "Trust": self.trust,
            "Study": self.study,
            "Answer": self.answer,
            "Exchange": self.exchange,
            "Renew": self.renew,
        }
        return {name: partial(self._decided, name, operation) for name, operation in operations.items()}

    def _decided(self, method: str, operation: Operation, site: str, request: Any) -> Frozen:
        """Raises Refused RSD-3100 if the reply may not go to `site`; then nothing is done."""
        trust = self._anchor().trust
        operator, member = (Party(name=m.name, jurisdiction=m.jurisdiction) for m in (trust.operator, trust.site(site)))
        self._standing.check(self._stores.log(), operator, member, REPLIES[method])
        return operation(site, request)

    def status(self, site: str, request: StatusRequest) -> StatusReply:
        """Time, versions, trust, and what is proposed to this site."""
        del request
        anchor = self._anchor()
        return StatusReply(
            at=rfc3339(now()),
            version=VERSION,
            bundle_sha256=BUNDLE_SHA256,
            trust=anchor.digest,
            trust_version=anchor.trust.version,
            studies=self._proposals.offered(site),
        )

    def trust(self, site: str, request: TrustRequest) -> TrustReply:
        """The trust file, byte for byte."""
        del site, request
        return TrustReply(trust=read_bytes(self._home.trust_file, "the trust file").decode("utf-8"))

    def study(self, site: str, request: StudyRequest) -> StudyReply:
        """A study that was proposed to this site. Raises Refused RSD-6307."""
        return self._proposals.study(site, request.digest)

    def answer(self, site: str, request: AnswerRequest) -> AnswerReply:
        """Keep a signed statement of this site."""
        return self._answers.take(self._anchor(), self._stores.log(), site, request)

    def exchange(self, site: str, request: ExchangeRequest) -> ExchangeReply:
        """Take and hand out checkpoints and cosignatures."""
        return self._exchange.exchange(self._anchor(), self._stores.log(), self._stores.witness(), site, request)

    def renew(self, site: str, request: RenewRequest) -> CertificateReply:
        """A new certificate for the same node key; another key needs another trust file.

        Raises InputError RSD-6201, CheckFailed RSD-6202 (the request), RSD-6310 (another key).
        """
        trust = self._anchor().trust
        csr = request.csr.encode("ascii", "replace")
        key = csr_public_key(csr, site, trust.consortium)
        if key != normal_public_key(trust.site(site).node_key.encode("ascii")):
            raise CheckFailed(
                "RSD-6310",
                "the certificate request is for another key",
                rule="a certificate is renewed for the node key in the trust file",
                found="another key",
                limit=f"the node key of {site}",
                next="enrol again with the new key, and have the next trust file signed",
            )
        self._stores.log().append("consortium", {"act": "renewal", "site": site})
        issued = issue_site_certificate(self._home.tls, csr, site, trust.consortium, SITE_DAYS)
        write_durably(self._home.certificates / f"{site}.crt", issued)
        return CertificateReply(certificate=issued.decode("ascii"))

    def _anchor(self) -> Anchor:
        anchor = self._members.anchor()
        if anchor is None:  # the door has let nobody in by then
            raise Refused("RSD-6210", _NO_TRUST, found="none", limit="a trust file signed by the sites")
        return anchor

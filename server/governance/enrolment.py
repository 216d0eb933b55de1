"""The enrolment door: a site without a certificate hands in its request with its one-time token and gets one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from compliance.clock import now
from compliance.errors import Refused
from compliance.files import read_bytes, write_durably
from compliance.governance import CertificateReply, EnrolRequest
from compliance.law.model import Party
from compliance.log.store import LogStore
from compliance.pki import SITE_DAYS, issue_site_certificate
from compliance.trust.enrol import Invited
from compliance.trust.home import OperatorHome
from compliance.trust.tokens import invited_by, redeem
from server.governance.limits import Limits
from server.law import REPLIES, Standing

WRONG_TOKEN_S: Final = 0.5  # what a wrong token costs whoever guesses
_GUESSES_A_MINUTE: Final = 60  # wrong tokens of all strangers together
_GUESSED: Final = frozenset({"RSD-6212", "RSD-6213", "RSD-6223"})


class Enrolment:
    """Serves Enrol. Nobody is admitted by it: the certificate opens doors only to a member of the trust file."""

    def __init__(self, home: OperatorHome, limits: Limits, log: Callable[[], LogStore]) -> None:
        self._home, self._limits, self._log, self._standing = home, limits, log, Standing(home)
        self._lock = threading.Lock()

    def enrol(self, caller: str, request: EnrolRequest) -> CertificateReply:
        """Keep the request in requests/SITE.json, then log it, issue a certificate and hand it out.

        Asked again with the same request it hands out the same certificate. Raises what `tokens.redeem` raises, and
        Refused RSD-6303 for a wrong token once strangers have sent many; a right one is served all the same.
        """
        del caller  # its share was judged before
        data = request.request.encode("utf-8")
        with self._lock:
            try:
                invited = invited_by(self._home, request.token, now())
            except Refused as e:
                if e.code in _GUESSED:
                    self._limits.take("everybody", "Enrol", _GUESSES_A_MINUTE)
                    time.sleep(WRONG_TOKEN_S)  # under the lock: guesses from many addresses wait for one another
                raise
            self._decide(invited)
            asked = redeem(self._home, request.token, data)
            file = self._home.certificates / f"{asked.site}.{asked.digest[:16]}.crt"
            if not file.exists():
                self._log().append("consortium", {"act": "enrolment", "site": asked.site, "request": asked.digest})
                csr = asked.csr.encode("ascii")
                issued = issue_site_certificate(self._home.tls, csr, asked.site, invited.consortium, SITE_DAYS)
                write_durably(file, issued)
                write_durably(self._home.certificates / f"{asked.site}.crt", issued)
            return CertificateReply(certificate=read_bytes(file, "the certificate").decode("ascii"))

    def _decide(self, invited: Invited) -> None:
        """Raises Refused RSD-3100 if a certificate may not go where the invited site is; its token stays unused."""
        operator = self._home.config().operator
        here = Party(name=operator.name, jurisdiction=operator.jurisdiction)
        there = Party(name=invited.site, jurisdiction=invited.jurisdiction)
        self._standing.check(self._log(), here, there, REPLIES["Enrol"])

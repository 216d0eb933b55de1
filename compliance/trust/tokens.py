"""One-time tokens: what lets a site without a certificate hand in its enrolment request, once.

The operator keeps the SHA-256 of each token. A newer invitation of a site retires the older ones: whoever holds an old
one, lost or stolen, cannot take the place of the site. A token is worth one request by one node key: the mark that it
is used is on disk before anything is handed out, and a site that lost the reply may ask again with the same request.
"""

from __future__ import annotations

import fcntl
import hmac
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from compliance.canonical import canonical, parse_json, sha256_hex
from compliance.clock import now, parse_time, rfc3339
from compliance.errors import Refused
from compliance.files import read_bytes, write_all_new, write_durably
from compliance.trust.enrol import TOKEN, EnrolmentRequest, Invited, check_request
from compliance.trust.home import OperatorHome


def invited_by(place: OperatorHome, token: str, at: datetime) -> Invited:
    """The invitation whose token this is. The time that it takes does not depend on the token.

    Raises Refused RSD-6212 (no such token), RSD-6213 (expired) or RSD-6223 (retired). Whoever calls it bounds how
    often strangers may ask.
    """
    digest = sha256_hex(token.encode("utf-8", errors="replace"))
    found = None
    for path in sorted(place.invitations.glob("*.json")):
        invited = place.read_invited(path)
        if hmac.compare_digest(invited.token_sha256, digest):
            found = invited
    if found is None or re.fullmatch(TOKEN, token) is None:
        raise Refused(
            "RSD-6212",
            "the token is not one that this operator gave out",
            rule="a site enrols with the token of its invitation",
            found="another token",
            limit="the token of an open invitation",
            next="ask the operator for a new invitation: residency consortium invite",
        )
    if at > parse_time(found.token_expires):
        raise Refused(
            "RSD-6213",
            f"the token of the invitation of {found.site} has expired",
            rule="a token holds for some days",
            found=rfc3339(at),
            limit=found.token_expires,
            next="ask the operator for a new invitation: residency consortium invite",
        )
    check_open(place, found)
    return found


def keep_newest(place: OperatorHome, invited: Invited) -> list[str]:
    """Keep what is to be kept of an invitation, and retire all others of its site; their digests. On disk on return.

    If one file cannot be written, nothing has changed. After a crash in between no invitation holds, not two.
    """
    with _alone(place):
        known = [place.read_invited(path) for path in sorted(place.invitations.glob("*.json"))]
        older = [i for i in known if i.site == invited.site and not is_retired(place, i)]
        mark = canonical({"by": invited.invitation, "at": rfc3339(now())})
        kept = place.invitations / f"{invited.invitation}.json"
        write_all_new({**{_mark(place, i): mark for i in older}, kept: canonical(invited.as_json()) + b"\n"})
    return [i.invitation for i in older]


def is_retired(place: OperatorHome, invited: Invited) -> bool:
    """A newer invitation of the same site took its place."""
    return _mark(place, invited).exists()


def check_open(place: OperatorHome, invited: Invited) -> None:
    """Raise Refused RSD-6223 for a retired invitation."""
    if is_retired(place, invited):
        raise Refused(
            "RSD-6223",
            f"a newer invitation of {invited.site} has taken the place of this one",
            rule="of a site's invitations the newest holds",
            found=f"invitation {invited.invitation[:12]}, retired",
            limit="the newest invitation",
            next="enrol with the newest invitation in another --home; a folder that was made with this one and has no"
            " certificate can be removed. If the site has no newer one, tell the operator at once",
        )


def _mark(place: OperatorHome, invited: Invited) -> Path:
    return place.invitations / f"{invited.invitation}.retired"


def redeem(place: OperatorHome, token: str, request: bytes) -> EnrolmentRequest:
    """Take in the request that comes with `token`: it is in requests/SITE.json, and the token used, when this returns.

    The same request by the same node key may come again until the token expires. Nothing is admitted by this: the
    caller logs it and issues a certificate for `request.csr`, and the trust file admits. Raises Refused RSD-6212,
    RSD-6213, RSD-6223, RSD-6214 (used by another request), what `check_request` raises, EnvironmentFault RSD-7001.
    """
    return take_in(place, invited_by(place, token, now()), request)


def take_in(place: OperatorHome, invited: Invited, request: bytes, what: str = "enrolment request") -> EnrolmentRequest:
    """As `redeem`, for a request that reached the operator as a file: its invitation is used up all the same."""
    asked = check_request(request, invited, what)
    mark = place.invitations / f"{invited.invitation}.used"
    with _alone(place):
        check_open(place, invited)
        if not mark.exists():
            write_durably(place.requests / f"{asked.site}.json", request.removesuffix(b"\n") + b"\n")
            record = {"request": asked.digest, "site": asked.site, "at": rfc3339(now())}
            write_durably(mark, canonical(record))
        elif parse_json(read_bytes(mark, "a used token"), str(mark)).get("request") != asked.digest:
            raise Refused(
                "RSD-6214",
                f"the invitation of {invited.site} has been used",
                rule="an invitation is worth one request by one key",
                found="another request",
                limit="the request that came first",
                next="if this site did not send the other request, somebody else had the invitation: tell the operator"
                " at once; then ask for a new one",
            )
        # A repeated request writes nothing: an old one must not take the place of a newer invitation's.
    return asked


@contextmanager
def _alone(place: OperatorHome) -> Iterator[None]:
    """One redemption at a time, among threads and processes."""
    with (place.invitations / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

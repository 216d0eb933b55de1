"""The certificates that the operator has issued: certificates/SITE.crt."""

from __future__ import annotations

from pathlib import Path

from compliance.clock import now, rfc3339
from compliance.errors import InputError
from compliance.files import read_bytes, write_durably
from compliance.pki import SITE_DAYS, issue_site_certificate, read_site_certificate, signed_by
from compliance.trust.enrol import EnrolmentRequest, certified_key, check_request
from compliance.trust.home import OperatorHome
from compliance.trust.root import Member, Trust


def issue(place: OperatorHome, request: EnrolmentRequest, days: int = SITE_DAYS) -> bytes:
    """Issue a certificate (PEM) for the key in `request`, log it, keep it as certificates/SITE.crt, and return it.

    It opens the doors only for a member of the trust file. Raises what `issue_site_certificate` raises.
    """
    consortium = place.config().name
    data = issue_site_certificate(place.tls, request.csr.encode("ascii"), request.site, consortium, days)
    made = read_site_certificate(data)
    place.record(
        {"act": "certificate", "site": request.site, "serial": f"{made.serial:x}", "until": rfc3339(made.not_after)}
    )
    write_durably(certificate_of(place, request.site), data)
    return data


def issue_missing(place: OperatorHome, trust: Trust) -> list[str]:
    """Issue to every member whose request is at hand and that holds no valid certificate; their names."""
    issued = []
    for member in trust.sites:
        request = request_of(place, member.name)
        if request is not None and certified_key(request, trust.consortium) == _key(member) != _held(place, member):
            issue(place, request)
            issued.append(member.name)
    return issued


def request_of(place: OperatorHome, site: str) -> EnrolmentRequest | None:
    """The enrolment request of `site` that the operator holds, read as it was taken in. Raises InputError RSD-6009."""
    path = place.requests / f"{site}.json"
    if not path.exists():
        return None
    data = read_bytes(path, "enrolment request")
    return check_request(data, place.invitation_of(data, str(path)), str(path))


def certificate_of(place: OperatorHome, site: str) -> Path:
    """Where the certificate of `site` lies."""
    return place.certificates / f"{site}.crt"


def _key(member: Member) -> bytes:
    return member.node_key.encode("ascii")


def _held(place: OperatorHome, member: Member) -> bytes:
    """The key of the member's certificate, if it is by our CA and valid now."""
    path = certificate_of(place, member.name)
    if not path.exists():
        return b""
    data, at = read_bytes(path, "a certificate"), now()
    try:
        held = read_site_certificate(data)
    except InputError:
        return b""  # issued anew
    good = held.not_before <= at <= held.not_after and signed_by(data, place.ca_pem().encode("ascii"))
    return held.public_key if good else b""

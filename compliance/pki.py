"""Certificates of sites: cryptography only, no decision about who may take part (that is trust.json's).

A site's TLS client key is its node key, so that whoever presents the certificate holds the key that the trust file
names. The certificate says "the consortium's operator gave this name to this key"; it admits nobody by itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, TypeGuard

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from compliance.clock import now
from compliance.errors import CheckFailed, InputError
from compliance.files import write_durably
from compliance.tls import CLOCK_SLACK, TlsFiles, builder, load_authority, server_certificate, tls_files

SITE_DAYS: Final = 365
MOST_CSR: Final = 4096  # bytes; one of ours has about 600
_URN: Final = re.compile(r"urn:residency:([a-z0-9][a-z0-9-]{0,62}):site:([a-z0-9][a-z0-9-]{0,62})\Z")


@dataclass(frozen=True)
class SiteCertificate:
    """What a certificate of the form that `issue_site_certificate` gives says. `public_key`: PEM SubjectPublicKeyInfo.

    Reading one proves nothing: that our CA signed it is checked by TLS.
    """

    site: str
    consortium: str
    public_key: bytes
    not_before: datetime
    not_after: datetime
    serial: int


def make_csr(key: ec.EllipticCurvePrivateKey, site: str, consortium: str) -> bytes:
    """A PKCS 10 request (RFC 2986, PEM) for `site`, signed by `key`: the site's node key, which stays where it is."""
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(_subject(site))
        .add_extension(_names(site, consortium), critical=False)
        .sign(key, hashes.SHA384())
        .public_bytes(Encoding.PEM)
    )


def public_pem(key: ec.EllipticCurvePrivateKey) -> str:
    """The public half of `key` as PEM SubjectPublicKeyInfo."""
    return _normal(key.public_key()).decode("ascii")


def csr_public_key(csr: bytes, site: str, consortium: str) -> bytes:
    """The public key (PEM) that the request proves possession of, once everything about it has been checked.

    Raises InputError RSD-6201 (no request), CheckFailed RSD-6202 (its signature, its curve, or another name).
    """
    return _normal(_checked(csr, site, consortium))


def issue_site_certificate(tls_folder: Path, csr: bytes, site: str, consortium: str, days: int) -> bytes:
    """A client certificate (PEM) of `site` for the key in `csr`, signed by the CA in `tls_folder`, for `days`.

    Only the key is taken from the request; it never outlives the CA. Raises InputError RSD-6201, RSD-6204 (the CA's key
    is missing or another one), CheckFailed RSD-6202.
    """
    key = _checked(csr, site, consortium)
    authority = load_authority(tls_folder)
    start = now() - CLOCK_SLACK
    end = min(start + CLOCK_SLACK + timedelta(days=days), authority.certificate.not_valid_after_utc)
    return (
        builder(_subject(site), authority.certificate.subject, key, start, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_names(site, consortium), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
        .sign(authority.key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )


def read_site_certificate(data: bytes) -> SiteCertificate:
    """Read a site's certificate, PEM or DER. Raises InputError RSD-6203 for any other certificate or for none.

    Required: one name, the URI urn:residency:CONSORTIUM:site:SITE; extended key usage clientAuth alone; no CA; P-384.
    """
    try:
        load = x509.load_pem_x509_certificate if data.lstrip()[:1] == b"-" else x509.load_der_x509_certificate
        certificate = load(data)
        key = certificate.public_key()
        extensions = certificate.extensions
        names = list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        uses = list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        ca = extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, UnsupportedAlgorithm, x509.ExtensionNotFound, x509.DuplicateExtension) as e:
        raise _no_site_certificate(type(e).__name__) from e
    found = _site_in(names)
    if found is None or uses != [ExtendedKeyUsageOID.CLIENT_AUTH] or ca or not _is_p384(key):
        raise _no_site_certificate("other names, uses or key")
    return SiteCertificate(
        site=found[1],
        consortium=found[0],
        public_key=_normal(key),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        serial=certificate.serial_number,
    )


def signed_by(certificate: bytes, ca: bytes) -> bool:
    """Whether the CA certificate `ca` (PEM) signed `certificate` (PEM). For a file; on the wire TLS checks it."""
    try:
        x509.load_pem_x509_certificate(certificate).verify_directly_issued_by(x509.load_pem_x509_certificate(ca))
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


def renew_server_certificate(tls_folder: Path, hosts: tuple[str, ...], days: int) -> TlsFiles:
    """Replace the server's certificate by one of the same CA and the same key, naming `hosts`, for `days` from now.

    The key stays, so that certificate and key fit one another at every moment. Raises InputError RSD-6204 (the CA or
    its key is missing), RSD-1120 (a host name), EnvironmentFault RSD-7001.
    """
    files = tls_files(tls_folder)
    certificate = server_certificate(load_authority(tls_folder), files, hosts, days)
    write_durably(files.certificate, certificate)
    return files


def _checked(csr: bytes, site: str, consortium: str) -> ec.EllipticCurvePublicKey:
    if len(csr) > MOST_CSR:
        raise _no_csr(f"{len(csr)} bytes")
    try:
        request = x509.load_pem_x509_csr(csr)
        key = request.public_key()
        names = list(request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        proved = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, x509.ExtensionNotFound, x509.DuplicateExtension) as e:
        raise _no_csr(type(e).__name__) from e
    if not proved:
        raise _bad_csr("proof of possession", "a wrong signature", "a signature by the key inside")
    if not _is_p384(key):
        raise _bad_csr("key", "another kind of key", "EC P-384")
    if _site_in(names) != (consortium, site) or request.subject != _subject(site):
        found = _site_in(names)
        raise _bad_csr("name", " of ".join(reversed(found)) if found else "another name", f"{site} of {consortium}")
    return key


def _subject(site: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, site)])


def _names(site: str, consortium: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"urn:residency:{consortium}:site:{site}")])


def _site_in(names: Sequence[x509.GeneralName]) -> tuple[str, str] | None:
    """(consortium, site) if the one name is a URI of our form."""
    if len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier):
        return None
    match = _URN.match(names[0].value)
    return (match[1], match[2]) if match else None


def _is_p384(key: object) -> TypeGuard[ec.EllipticCurvePublicKey]:
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1)


def _normal(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _no_csr(found: str) -> InputError:
    return InputError(
        "RSD-6201",
        "this is no certificate request",
        rule="PKCS 10, RFC 2986, PEM",
        found=found,
        limit=f"a request for a site, at most {MOST_CSR} bytes",
        next="let the site enrol again: residency agent enroll",
    )


def _bad_csr(what: str, found: str, limit: str) -> CheckFailed:
    return CheckFailed(
        "RSD-6202",
        f"the certificate request is not right: {what}",
        rule="a certificate is issued to the holder of a node key, for the site's own name",
        found=found,
        limit=limit,
        next="let the site enrol again: residency agent enroll",
    )


def _no_site_certificate(found: str) -> InputError:
    return InputError(
        "RSD-6203",
        "this is no certificate of a site",
        rule="urn:residency:CONSORTIUM:site:SITE, clientAuth, EC P-384",
        found=found,
        limit="a certificate that the operator issued to a site",
        next="obtain the site's certificate again: residency consortium admit",
    )

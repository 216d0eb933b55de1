"""The consortium's TLS root: a CA of its own and the server's certificate, made where they are used.

The CA says "this is the federation server" and "this key is called so". It vouches for nobody's signature, and its
certificates admit nobody: both are trust.json's part.
"""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from compliance.clock import now
from compliance.errors import InputError
from compliance.files import must_be_private, read_bytes, write_durably

DAYS: Final = 365
CA_DAYS: Final = 3650  # sites pin the CA: a new one means enrolling every site again
CLOCK_SLACK: Final = timedelta(minutes=5)  # a site's clock may be a little behind


@dataclass(frozen=True)
class TlsFiles:
    """Where the CA's certificate, the server's certificate and the two private keys lie (PEM)."""

    ca: Path
    certificate: Path
    key: Path
    ca_key: Path


@dataclass(frozen=True)
class Authority:
    """The CA: what signs certificates."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def tls_files(folder: Path) -> TlsFiles:
    """The names that `make_tls` gives its files."""
    return TlsFiles(folder / "ca.crt", folder / "server.crt", folder / "server.key", folder / "ca.key")


def make_tls(folder: Path, hosts: tuple[str, ...] = (), *, days: int = DAYS, at: datetime | None = None) -> TlsFiles:
    """Make a CA (for `CA_DAYS`, or `days` if that is longer) and a server certificate (for `days`) in `folder`.

    Both are ECDSA P-256 with SHA-256 and begin at `at`. The certificate names localhost, 127.0.0.1 and `hosts` (DNS
    names or IP addresses). Both private keys are readable by their owner only; the CA's is kept, because it signs the
    sites' certificates and the server's next one. Raises InputError RSD-1120 for a host that is neither a DNS name nor
    an address, RSD-6204 where a CA or a part of one lies already: a second root is never made by accident;
    EnvironmentFault RSD-7001.
    """
    files = tls_files(folder)
    for path in (files.ca, files.ca_key, files.certificate, files.key):
        if path.exists():
            raise _no_authority(path, "a CA or a part of one", "an empty folder")
    names = _alternative_names(hosts)
    start = (at or now()) - CLOCK_SLACK
    ca_key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Residency consortium CA")])
    ca = _ca_certificate(name, ca_key, start, start + CLOCK_SLACK + timedelta(days=max(days, CA_DAYS)))
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _server_certificate(Authority(ca, ca_key), key.public_key(), names, start, days)
    write_durably(files.ca_key, _private_pem(ca_key), private=True)
    write_durably(files.key, _private_pem(key), private=True)
    write_durably(files.certificate, certificate)
    write_durably(files.ca, ca.public_bytes(Encoding.PEM))
    return files


def server_certificate(authority: Authority, files: TlsFiles, hosts: tuple[str, ...], days: int) -> bytes:
    """A new certificate (PEM) for the server's present key. Raises InputError RSD-1120, RSD-6204."""
    key = _load_key(files.key)
    return _server_certificate(authority, key.public_key(), _alternative_names(hosts), now() - CLOCK_SLACK, days)


def load_authority(folder: Path) -> Authority:
    """The CA that lies in `folder`. Raises InputError RSD-6204 if a part is missing or the parts do not fit."""
    files = tls_files(folder)
    if not files.ca.exists():
        raise _no_authority(files.ca, "no file", "the consortium's CA")
    try:
        certificate = x509.load_pem_x509_certificate(read_bytes(files.ca, "the CA certificate"))
    except ValueError as e:
        raise _no_authority(files.ca, type(e).__name__, "a PEM certificate") from e
    key = _load_key(files.ca_key)
    if certificate.public_key() != key.public_key():
        raise _no_authority(files.ca_key, "another key", "the key of ca.crt")
    return Authority(certificate, key)


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    if not path.exists():
        raise _no_authority(path, "no file", "the private key made by residency consortium init")
    try:
        key = load_pem_private_key(read_bytes(path, "a private key"), None)
        must_be_private(path)
    except (ValueError, TypeError, UnsupportedAlgorithm) as e:
        raise _no_authority(path, type(e).__name__, "an unencrypted PEM private key") from e
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise _no_authority(path, type(key).__name__, "an EC private key")
    return key


def _no_authority(path: Path, found: str, limit: str) -> InputError:
    return InputError(
        "RSD-6204",
        f"the consortium's TLS root at {path} cannot be used",
        rule="a consortium has one CA, made once by residency consortium init",
        found=found,
        limit=limit,
        next=f"restore {path.name} from the backup of the operator's home; a new CA would lock every site out",
    )


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _server_certificate(
    authority: Authority, key: ec.EllipticCurvePublicKey, names: list[x509.GeneralName], start: datetime, days: int
) -> bytes:
    issuer = authority.certificate
    end = min(start + CLOCK_SLACK + timedelta(days=days), issuer.not_valid_after_utc)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Residency federation server")])
    return (
        builder(subject, issuer.subject, key, start, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
        .sign(authority.key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )


def _ca_certificate(
    name: x509.Name, key: ec.EllipticCurvePrivateKey, start: datetime, end: datetime
) -> x509.Certificate:
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        builder(name, name, key.public_key(), start, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, start: datetime, end: datetime
) -> x509.CertificateBuilder:
    """What every certificate of ours begins with: names, key, a random serial number and its time."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )


def _alternative_names(hosts: tuple[str, ...]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    for host in dict.fromkeys(("localhost", "127.0.0.1", *hosts)):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(_dns_name(host))
    return names


def _dns_name(host: str) -> x509.DNSName:
    labels = host.split(".")
    if not host.isascii() or len(host) > 253 or not all(p.replace("-", "a").isalnum() and len(p) <= 63 for p in labels):
        raise InputError(
            "RSD-1120",
            "this is no host name",
            rule="RFC 1123 names or IP addresses",
            found=ascii(host)[:100],
            limit="fl.example.org or 192.0.2.1",
            next="give the name under which the sites reach the server",
        )
    return x509.DNSName(host)


def certificate_days_left(path: Path, at: datetime) -> int:
    """Whole days from `at` until the certificate ends; negative once it has ended. Raises InputError RSD-1121."""
    try:
        certificate = x509.load_pem_x509_certificate(read_bytes(path, "the certificate"))
    except ValueError as e:
        raise InputError(
            "RSD-1121",
            f"{path} is no certificate",
            rule="PEM, RFC 7468",
            found=type(e).__name__,
            limit="a PEM certificate",
            next="renew it: residency consortium renew",
        ) from e
    return math.floor((certificate.not_valid_after_utc - at) / timedelta(days=1))

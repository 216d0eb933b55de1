"""The server's TLS material: a CA of the consortium's own and a server certificate, made where they are used.

This CA says only "this is the federation server". It vouches for nobody's signature: that is trust.json's part.
"""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from compliance.clock import now
from compliance.errors import InputError
from compliance.files import read_bytes, write_durably

DAYS: Final = 365
_CLOCK_SLACK: Final = timedelta(minutes=5)  # a site's clock may be a little behind


@dataclass(frozen=True)
class TlsFiles:
    """Where the CA certificate, the server certificate and the server's private key lie (PEM)."""

    ca: Path
    certificate: Path
    key: Path


def tls_files(folder: Path) -> TlsFiles:
    """The names that `make_tls` gives its files."""
    return TlsFiles(folder / "ca.crt", folder / "server.crt", folder / "server.key")


def make_tls(folder: Path, hosts: tuple[str, ...] = (), *, days: int = DAYS, at: datetime | None = None) -> TlsFiles:
    """Make a CA and a server certificate in `folder`, both ECDSA P-256 with SHA-256 and valid for `days` from `at`.

    The certificate names localhost, 127.0.0.1 and `hosts` (DNS names or IP addresses). The server's key is readable by
    its owner only. The CA's private key is not kept: a renewal makes a new CA, which every site then pins. Raises
    InputError RSD-1120 for a host that is neither a DNS name nor an address, EnvironmentFault RSD-7001.
    """
    start = (at or now()) - _CLOCK_SLACK
    end = start + _CLOCK_SLACK + timedelta(days=days)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Residency federation server CA")])
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Residency federation server")])
    ca = _ca_certificate(ca_name, ca_key, start, end)
    certificate = (
        _builder(name, ca_name, key.public_key(), start, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(_alternative_names(hosts)), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    files = tls_files(folder)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_durably(files.key, pem, private=True)
    write_durably(files.certificate, certificate.public_bytes(Encoding.PEM))
    write_durably(files.ca, ca.public_bytes(Encoding.PEM))
    return files


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
        _builder(name, name, key.public_key(), start, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, start: datetime, end: datetime
) -> x509.CertificateBuilder:
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
            next="make the server's TLS material again",
        ) from e
    return math.floor((certificate.not_valid_after_utc - at) / timedelta(days=1))

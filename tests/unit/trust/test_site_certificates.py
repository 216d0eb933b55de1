"""Certificates of sites: what is issued, and everything that is no site's certificate."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from compliance.clock import now
from compliance.errors import InputError, ResidencyError
from compliance.pki import (
    csr_public_key,
    issue_site_certificate,
    make_csr,
    public_pem,
    read_site_certificate,
    signed_by,
)
from compliance.tls import make_tls
from tests.desk import node_key

KEY = node_key()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tls")
    make_tls(place)
    return place


def issued(folder: Path, days: int = 30, site: str = "berlin") -> bytes:
    return issue_site_certificate(folder, make_csr(KEY, site, "thyroid"), site, "thyroid", days)


def test_round_trip(folder: Path, tmp_path: Path) -> None:
    data = issued(folder)
    found = read_site_certificate(data)
    assert (found.site, found.consortium, found.public_key) == ("berlin", "thyroid", public_pem(KEY).encode())
    assert found.not_before <= now() <= found.not_after <= now() + timedelta(days=30)
    der = x509.load_pem_x509_certificate(data).public_bytes(serialization.Encoding.DER)
    assert read_site_certificate(der) == found
    assert signed_by(data, (folder / "ca.crt").read_bytes())
    assert not signed_by(data, make_tls(tmp_path / "other").ca.read_bytes())
    assert read_site_certificate(issued(folder)).serial != found.serial


def test_a_certificate_never_outlives_the_ca(folder: Path) -> None:
    ca = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    assert read_site_certificate(issued(folder, days=100_000)).not_after == ca.not_valid_after_utc


def test_it_is_good_for_a_client_only(folder: Path) -> None:
    certificate = x509.load_pem_x509_certificate(issued(folder))
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert (list(usage.value), usage.critical) == ([ExtendedKeyUsageOID.CLIENT_AUTH], True)
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


@pytest.mark.parametrize(
    ("csr", "code"),
    [
        (b"", "RSD-6201"),
        (b"x" * 10_000, "RSD-6201"),
        (b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "RSD-6201"),
        (make_csr(KEY, "leeds", "thyroid"), "RSD-6202"),
        (make_csr(KEY, "berlin", "other"), "RSD-6202"),
        (make_csr(ec.generate_private_key(ec.SECP256R1()), "berlin", "thyroid"), "RSD-6202"),
    ],
)
def test_requests_that_get_no_certificate(folder: Path, csr: bytes, code: str) -> None:
    with pytest.raises(ResidencyError) as e:
        issue_site_certificate(folder, csr, "berlin", "thyroid", 30)
    assert e.value.code == code


def test_a_request_by_somebody_who_lacks_the_key_is_refused() -> None:
    pem = make_csr(KEY, "berlin", "thyroid")
    der = bytearray(x509.load_pem_x509_csr(pem).public_bytes(serialization.Encoding.DER))
    own = x509.load_pem_x509_csr(make_csr(node_key(), "berlin", "thyroid"))
    theirs = (
        x509.load_pem_x509_csr(pem)
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    mine = own.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    forged = bytes(der).replace(theirs, mine)
    assert forged != bytes(der)
    data = x509.load_der_x509_csr(forged).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(ResidencyError) as e:
        csr_public_key(data, "berlin", "thyroid")
    assert (e.value.code, "possession" in e.value.message) == ("RSD-6202", True)


def _certificate(
    names: list[x509.GeneralName], uses: list[x509.ObjectIdentifier], *, ca: bool = False, key: object = KEY
) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "berlin")])
    public = key.public_key()  # type: ignore[attr-defined]
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(public).serial_number(1)
    builder = builder.not_valid_before(now()).not_valid_after(now() + timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=True)
    return builder.sign(node_key(), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


URI, DNS = x509.UniformResourceIdentifier, x509.DNSName
NAME = URI("urn:residency:thyroid:site:berlin")
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


def test_what_is_no_sites_certificate() -> None:
    assert read_site_certificate(_certificate([NAME], [CLIENT])).site == "berlin"
    for names, uses, options in (
        ([DNS("berlin")], [CLIENT], {}),
        ([NAME, DNS("berlin")], [CLIENT], {}),
        ([NAME, URI("urn:residency:thyroid:site:leeds")], [CLIENT], {}),
        ([URI("urn:residency:thyroid:site:berlin:x")], [CLIENT], {}),
        ([URI("urn:residency:thyroid:site:Berlin")], [CLIENT], {}),
        ([URI("urn:residency:thyroid:site:" + "b" * 64)], [CLIENT], {}),
        ([NAME], [SERVER], {}),
        ([NAME], [CLIENT, SERVER], {}),
        ([NAME], [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE], {}),
        ([NAME], [CLIENT], {"ca": True}),
        ([NAME], [CLIENT], {"key": ec.generate_private_key(ec.SECP256R1())}),
        ([NAME], [CLIENT], {"key": ed25519.Ed25519PrivateKey.generate()}),
    ):
        with pytest.raises(InputError) as e:
            read_site_certificate(_certificate(names, uses, **options))  # type: ignore[arg-type]
        assert e.value.code == "RSD-6203", (names, uses, options)


@pytest.mark.parametrize(
    "data", [b"", b"-", b"x" * 100, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"]
)
def test_garbage_is_no_certificate(data: bytes) -> None:
    with pytest.raises(InputError) as e:
        read_site_certificate(data)
    assert e.value.code == "RSD-6203"


def test_the_servers_and_the_cas_own_certificates_are_no_sites(folder: Path) -> None:
    for name in ("ca.crt", "server.crt"):
        with pytest.raises(InputError):
            read_site_certificate((folder / name).read_bytes())


@pytest.mark.parametrize("name", ["ca.crt", "ca.key"])
def test_without_its_ca_nothing_is_issued_and_nothing_made(tmp_path: Path, name: str) -> None:
    make_tls(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InputError) as e:
        issued(tmp_path)
    assert (e.value.code, "backup" in e.value.next) == ("RSD-6204", True)
    assert not (tmp_path / name).exists()

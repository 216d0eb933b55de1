import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from compliance.clock import now
from compliance.errors import InputError
from compliance.pki import renew_server_certificate
from compliance.tls import CA_DAYS, certificate_days_left, make_tls, tls_files


def handshake(files, host, ca=None):
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.certificate, files.key)
    a, b = socket.socketpair()

    def answer():
        try:
            server.wrap_socket(b, server_side=True).close()
        except ssl.SSLError:
            b.close()

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        ssl.create_default_context(cafile=str(ca or files.ca)).wrap_socket(a, server_hostname=host).close()
    finally:
        a.close()
        thread.join()


def test_the_certificate_is_good_for_loopback_and_the_given_hosts(tmp_path):
    files = make_tls(tmp_path, ("fl.example.org", "192.0.2.7", "2001:db8::1"))
    for host in ("localhost", "127.0.0.1", "fl.example.org", "192.0.2.7", "2001:db8::1"):
        handshake(files, host)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(files, "evil.example.org")


def test_another_ca_does_not_vouch_for_the_server(tmp_path):
    files, other = make_tls(tmp_path / "a"), make_tls(tmp_path / "b")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(files, "localhost", other.ca)


def test_both_keys_are_private_and_the_ca_outlives_its_certificates(tmp_path):
    files = make_tls(tmp_path)
    assert files == tls_files(tmp_path)
    assert {p.stat().st_mode & 0o777 for p in (files.key, files.ca_key)} == {0o600}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ca.crt", "ca.key", "server.crt", "server.key"]
    ca = x509.load_pem_x509_certificate(files.ca.read_bytes())
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    assert ca.public_key().curve.name == "secp256r1"
    assert certificate_days_left(files.ca, now()) in {CA_DAYS - 1, CA_DAYS}


@pytest.mark.parametrize("name", ["ca.crt", "ca.key", "server.crt", "server.key"])
def test_a_second_root_is_never_made(tmp_path, name):
    files = make_tls(tmp_path)
    kept = (tmp_path / name).read_bytes()
    for path in (files.ca, files.ca_key, files.certificate, files.key):
        if path.name != name:
            path.unlink()
    with pytest.raises(InputError) as e:
        make_tls(tmp_path)
    assert e.value.code == "RSD-6204"
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {name: kept}


def test_a_renewed_certificate_is_of_the_same_ca_and_key(tmp_path):
    files = make_tls(tmp_path, days=1)
    before = {p: p.read_bytes() for p in (files.ca, files.ca_key, files.key)}
    old = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    assert renew_server_certificate(tmp_path, ("fl.example.org",), 90) == files
    new = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    assert {p: p.read_bytes() for p in before} == before
    assert (new.public_key(), new.serial_number != old.serial_number) == (old.public_key(), True)
    assert certificate_days_left(files.certificate, now()) in {89, 90}
    handshake(files, "fl.example.org")


@pytest.mark.parametrize("name", ["ca.crt", "ca.key", "server.key"])
@pytest.mark.parametrize("damage", ["gone", "garbage", "another"])
def test_a_renewal_needs_the_whole_root(tmp_path, name, damage):
    files = make_tls(tmp_path / "a")
    other = make_tls(tmp_path / "b")
    before = files.certificate.read_bytes()
    path = tmp_path / "a" / name
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(b"garbage" if damage == "garbage" else (other.ca.parent / name).read_bytes())
    if (name, damage) == ("server.key", "another"):
        return  # any EC key may be certified by its owner
    with pytest.raises(InputError) as e:
        renew_server_certificate(tmp_path / "a", (), 90)
    assert e.value.code == "RSD-6204"
    assert files.certificate.read_bytes() == before


def test_days_left(tmp_path):
    start = datetime(2026, 1, 1, tzinfo=UTC)
    path = make_tls(tmp_path / "a", days=30, at=start).certificate
    assert certificate_days_left(path, start) == 30
    assert certificate_days_left(path, start + timedelta(days=29, hours=1)) == 0
    assert certificate_days_left(path, start + timedelta(days=31)) == -1
    assert certificate_days_left(make_tls(tmp_path / "b").certificate, now()) in {364, 365}


def test_no_certificate_and_no_host_name(tmp_path):
    (tmp_path / "x").write_text("text")
    with pytest.raises(InputError) as e:
        certificate_days_left(tmp_path / "x", now())
    assert e.value.code == "RSD-1121"
    for host in ("bad host", "a..b", "", "x" * 254, "münchen.de", "a/b", "*.example.org"):
        with pytest.raises(InputError) as e:
            make_tls(tmp_path, (host,))
        assert e.value.code == "RSD-1120"

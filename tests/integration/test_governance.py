"""The governance service and its client over real TLS on loopback."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from compliance.errors import CheckFailed, InputError, PeerUnreachable, Refused
from compliance.identity import seal
from compliance.software import VERSION
from tests.federation import day
from tests.governance import Hub, digest_of, hub


@pytest.fixture(scope="module")
def service() -> Iterator[Hub]:
    with hub() as opened:
        yield opened


def test_status_tells_trust_versions_and_the_studies_of_this_site_only(service: Hub) -> None:
    with service.client("a") as a, service.client("b") as b:
        for_all = service.propose(name="for-all")
        two = [s for s in for_all.value["sites"] if s["name"] in ("a", "c")]
        narrow = service.propose(name="narrow", sites=two, controllers=["a", "c"])
        status = a.status()
        assert (status.version, status.trust) == (VERSION, service.made.anchor.digest)
        assert {for_all.digest, narrow.digest} <= set(status.studies)
        assert narrow.digest not in b.status().studies
        assert a.study(narrow.digest) == narrow.data
        with pytest.raises(Refused, match="RSD-6307"):
            b.study(narrow.digest)
        with pytest.raises(Refused, match="RSD-6307"):
            b.study("0" * 64)
        assert a.trust() == service.made.trust.read_bytes()


def test_an_answer_is_kept_once_and_logged(service: Hub) -> None:
    study = service.propose(name="answered")
    advice = service.made.advice("a", study.digest)
    with service.client("a") as a:
        first, second = a.answer(advice), a.answer(advice + b"\n")
        assert (first.fresh, second.fresh) == (True, False)
        assert first.digest == second.digest == digest_of(advice)
        approval = service.made.approval("a", study.digest, advice)
        assert a.answer(approval).fresh
    assert service.answers(study.digest) == sorted(
        f"a.{kind}.{digest_of(data)[:12]}.json" for kind, data in (("advice", advice), ("approval", approval))
    )
    logged = [b["digest"] for b in service.entries("answer") if b["study"] == study.digest]
    assert logged == [digest_of(advice), digest_of(approval)]


def test_every_kind_of_statement_is_taken(service: Hub) -> None:
    study = service.propose(name="all-kinds")
    base = {"subject": "study", "digest": study.digest, "site": "b", "at": day(0), "reason": "No ethics opinion."}
    with service.client("b") as b:
        for kind in ("refusal", "withdrawal"):
            b.answer(seal({"schema": f"residency.{kind}/1", **base}, service.made.signatories["b"]).encode())
    assert [n.split(".")[1] for n in service.answers(study.digest)] == ["refusal", "withdrawal"]


def test_what_a_site_can_store_is_bounded(service: Hub) -> None:
    study = service.propose(name="bounded")
    with service.client("c") as c:
        for i in range(20):
            c.answer(service.made.advice("c", study.digest, text=f"Advice {i}."))
        with pytest.raises(Refused, match="RSD-6308"):
            c.answer(service.made.advice("c", study.digest, text="One more."))


def test_renewal_is_for_the_same_key_only(service: Hub) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    from compliance.pki import make_csr, read_site_certificate

    home = service.home("d").path
    key = load_pem_private_key((home / "keys" / "node.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    before = read_site_certificate((home / "certs" / "site.crt").read_bytes())
    with service.client("d") as d:
        after = read_site_certificate(d.renew(make_csr(key, "d", "tiny")))
        assert (after.site, after.public_key) == ("d", before.public_key)
        assert after.serial != before.serial
        with pytest.raises(CheckFailed, match="RSD-6310"):
            d.renew(make_csr(ec.generate_private_key(ec.SECP384R1()), "d", "tiny"))
        with pytest.raises(CheckFailed, match="RSD-6202"):
            d.renew(make_csr(key, "a", "tiny"))
        with pytest.raises(InputError, match="RSD-6201"):
            d.renew(b"nothing")


def test_a_renewed_server_certificate_is_taken_up_without_a_stop(service: Hub) -> None:
    import ssl

    from compliance.pki import renew_server_certificate

    tls = service.made.hub / "tls"
    ca = str(tls / "ca.crt")
    for port in service.ports[1:]:  # the governance door shows its certificate to nobody without one
        before = ssl.get_server_certificate(("127.0.0.1", port), ca_certs=ca)
        renew_server_certificate(tls, ("127.0.0.1",), 10)
        after = ssl.get_server_certificate(("127.0.0.1", port), ca_certs=ca)
        assert before != after
        assert after.strip() == (tls / "server.crt").read_text().strip()
    with service.client("e") as e:
        e.status()
        certificate = (tls / "server.crt").read_bytes()
        (tls / "server.crt").write_bytes(b"half a file")
        with service.client("e") as again:
            again.status()  # what cannot be read leaves the last one in use
        (tls / "server.crt").write_bytes(certificate)


def test_a_closed_door_is_an_unreachable_peer_and_opens_again() -> None:
    with hub() as opened, opened.client("a") as a:
        a.status()
        began = time.monotonic()
        opened.shut()
        assert time.monotonic() - began < 4
        with pytest.raises(PeerUnreachable, match="RSD-6301"):
            a.status()
        opened.open()
        end = time.monotonic() + 20
        while True:
            try:
                a.status()
                break
            except PeerUnreachable:
                assert time.monotonic() < end
                time.sleep(0.1)

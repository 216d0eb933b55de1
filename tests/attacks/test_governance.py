"""Attacks on the governance service and the enrolment door of a real server process, over loopback TLS."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from client import enrolment
from client.governance import enrol
from client.home import AgentHome
from client.node import load_node_key
from compliance.canonical import canonical
from compliance.clock import now, rfc3339
from compliance.errors import CheckFailed, InputError, PeerUnreachable, Refused, ResidencyError
from compliance.governance import METHODS, SERVICE
from compliance.pki import issue_site_certificate, make_csr
from compliance.tls import make_tls
from tests.federation import CONSORTIUM
from tests.governance_server import Server, client_with, connect, invitation, refusal_of, request, serving
from tests.log_drafts import policy_body

FRAMES = 80


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as started:
        yield started


# --- who calls ----------------------------------------------------------------------------------------------------


def test_without_a_certificate_no_method_answers(server: Server) -> None:
    ca = (server.hub.home("a").path / "ca.crt").read_bytes()
    with grpc.secure_channel(f"127.0.0.1:{server.hub.ports[0]}", grpc.ssl_channel_credentials(ca)) as channel:
        for name in METHODS:
            assert refusal_of(channel, name, b"{}") == "UNAVAILABLE"
    with grpc.insecure_channel(f"127.0.0.1:{server.hub.ports[0]}") as channel:
        assert refusal_of(channel, "Status", b"{}") == "UNAVAILABLE"
    assert server.alive()


def test_a_foreign_ca_names_nobody(server: Server, tmp_path: Path) -> None:
    """Same names, same key, another root."""
    key = load_node_key(server.hub.home("a").path / "keys" / "node.key")
    make_tls(tmp_path)
    foreign = issue_site_certificate(tmp_path, make_csr(key, "a", CONSORTIUM), "a", CONSORTIUM, 30)
    with client_with(server, foreign, key) as client, pytest.raises(PeerUnreachable, match="RSD-6301"):
        client.status()


@pytest.mark.parametrize(("site", "code"), [("a", "RSD-6206"), ("zurich", "RSD-6205")])
def test_a_certificate_of_our_ca_alone_admits_nobody(server: Server, site: str, code: str) -> None:
    """The operator's CA can issue anything: a name with another key, a name that the sites never signed."""
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP384R1())
    issued = issue_site_certificate(server.hub.made.hub / "tls", make_csr(key, site, CONSORTIUM), site, CONSORTIUM, 30)
    with client_with(server, issued, key) as client:
        for call in (client.status, client.trust, lambda: client.study("0" * 64), lambda: client.answer(b"{}")):
            with pytest.raises(Refused, match=code):
                call()


def test_an_expired_certificate_and_another_consortium_are_refused(server: Server) -> None:
    key = load_node_key(server.hub.home("a").path / "keys" / "node.key")
    tls = server.hub.made.hub / "tls"
    over = issue_site_certificate(tls, make_csr(key, "a", CONSORTIUM), "a", CONSORTIUM, 0)
    time.sleep(1.1)
    with (
        client_with(server, over, key) as client,
        pytest.raises((Refused, PeerUnreachable), match=r"RSD-6208|RSD-6301"),
    ):
        client.status()
    other = issue_site_certificate(tls, make_csr(key, "a", "other"), "a", "other", 30)
    with client_with(server, other, key) as client, pytest.raises(Refused, match="RSD-6205"):
        client.status()


def test_a_suspension_holds_for_the_connection_that_is_open(server: Server) -> None:
    folder = server.hub.made.hub / "suspended"
    folder.mkdir(exist_ok=True)
    with server.hub.client("d") as d:
        d.status()
        (folder / "d.json").write_text("{}")
        try:
            with pytest.raises(Refused, match="RSD-6207"):
                d.status()
        finally:
            (folder / "d.json").unlink()
        d.status()


def test_a_site_speaks_for_itself_only(server: Server) -> None:
    """Another site's approval, a study of others, another site's log, a cosignature under another name."""
    from client.books import Books
    from compliance.governance import ExchangeRequest
    from compliance.messages import CosignedLine

    study = server.hub.propose(name="of-a")
    advice = server.hub.made.advice("a", study.digest)
    books = Books(server.hub.home("a"))
    books.record("policy", policy_body(1), "")
    offer = books.offer()
    books.close()
    line = CosignedLine(origin=offer.origin, size=1, witness=f"residency/{CONSORTIUM}/a/witness", line="x")
    with server.hub.client("b") as b:
        with pytest.raises(Refused, match="RSD-6305"):
            b.answer(advice)
        with pytest.raises(Refused, match="RSD-6305"):
            b.answer(server.hub.made.approval("a", study.digest, advice))
        assert "RSD-8220" in b.exchange(ExchangeRequest(offer=offer, held={}, given=())).refused
        with pytest.raises(Refused, match="RSD-8220"):
            b.exchange(ExchangeRequest(offer=None, held={}, given=(line,)))
    assert server.hub.answers(study.digest) == []
    forged = json.loads(advice)
    forged["payload"] = forged["payload"][:-4] + "fQ=="
    with server.hub.client("a") as a, pytest.raises((CheckFailed, InputError)):
        a.answer(canonical(forged))
    assert server.hub.answers(study.digest) == []


# --- the enrolment door -------------------------------------------------------------------------------------------


def test_a_token_is_worth_one_request_and_a_certificate_admits_nobody(server: Server, tmp_path: Path) -> None:
    made, asked = invitation(server, "newcomer", tmp_path)
    ca = made.ca_pem.encode()
    address = f"127.0.0.1:{server.hub.ports[1]}"
    with pytest.raises(Refused, match="RSD-6212"):
        enrol(address, ca, "0" * 64, asked)
    first = enrol(address, ca, made.token, asked)
    assert enrol(address, ca, made.token, asked) == first, "a lost reply is answered again"
    stored = server.hub.made.hub / "requests" / "newcomer.json"
    assert stored.read_bytes().rstrip() == asked.rstrip()
    other = request(tmp_path / "newcomer.invitation.json", tmp_path / "thief", "newcomer")
    with pytest.raises(Refused, match="RSD-6214"):
        enrol(address, ca, made.token, other)
    assert stored.read_bytes().rstrip() == asked.rstrip()
    home = AgentHome(tmp_path / "home")
    enrolment.install_certificate(home, first)
    key = load_node_key(home.path / "keys" / "node.key")
    with client_with(server, first, key) as client, pytest.raises(Refused, match="RSD-6205"):
        client.status()


def test_an_expired_token_is_refused(server: Server, tmp_path: Path) -> None:
    made, asked = invitation(server, "tardy", tmp_path)
    kept = server.hub.made.hub / "invitations" / f"{made.digest}.json"
    record = json.loads(kept.read_text())
    kept.write_bytes(canonical({**record, "token_expires": rfc3339(now() - timedelta(seconds=10))}))
    with pytest.raises(Refused, match="RSD-6213"):
        enrol(f"127.0.0.1:{server.hub.ports[1]}", made.ca_pem.encode(), made.token, asked)
    assert not (server.hub.made.hub / "requests" / "tardy.json").exists()


def test_guessing_is_slow_and_bounded(server: Server, tmp_path: Path) -> None:
    """Each guess waits for the one before it, and after some nobody is heard for a while; the other door is open."""
    ca = (server.hub.home("a").path / "ca.crt").read_bytes()
    address = f"127.0.0.1:{server.hub.ports[1]}"
    with pytest.raises(Refused, match="RSD-6212"):
        enrol(address, ca, "1" * 64, b"{}")
    began = time.monotonic()
    for i in range(4):
        with pytest.raises(Refused, match=r"RSD-6212|RSD-6303"):
            enrol(address, ca, f"{i:064d}", b"{}")
    assert time.monotonic() - began >= 4 * 0.45
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda i: _guess(address, ca, i), range(60)))
    assert codes.count("RSD-6303") >= 30
    assert set(codes) <= {"RSD-6212", "RSD-6303", "RSD-6301"}
    assert server.alive()


def _guess(address: str, ca: bytes, i: int) -> str:
    try:
        enrol(address, ca, f"{i + 100:064d}", b"{}")
    except ResidencyError as e:
        return e.code
    return "admitted"


def test_the_enrolment_door_serves_enrol_alone(server: Server) -> None:
    ca = (server.hub.home("a").path / "ca.crt").read_bytes()
    with grpc.secure_channel(f"127.0.0.1:{server.hub.ports[1]}", grpc.ssl_channel_credentials(ca)) as channel:
        for name in METHODS:
            assert refusal_of(channel, name, b"{}") == "UNIMPLEMENTED"
    with server.raw("a") as channel:
        assert refusal_of(channel, "Enrol", b"{}") == "UNIMPLEMENTED"


# --- what is sent -------------------------------------------------------------------------------------------------


def test_a_call_without_a_deadline_or_with_a_long_one_is_refused(server: Server) -> None:
    body = b'{"version":"1"}'
    with server.raw("c") as channel:
        for timeout in (None, 3600.0):
            error = refusal_of(channel, "Status", body, timeout)
            assert isinstance(error, InputError)
            assert error.code == "RSD-6304"
        assert refusal_of(channel, "Status", body) == "answered"


def test_what_is_too_large_is_refused_before_it_is_parsed(server: Server) -> None:
    with server.raw("c") as channel:
        for name, method in METHODS.items():
            error = refusal_of(channel, name, b"[" * min(method.most_bytes + 1, (1 << 20) - 64))
            assert isinstance(error, InputError), (name, error)
            assert error.code == ("RSD-6302" if method.most_bytes < (1 << 20) - 64 else "RSD-2002")
        assert refusal_of(channel, "Answer", b"x" * (2 << 20), 20) == "RESOURCE_EXHAUSTED"
        assert refusal_of(channel, "Answer", b"x" * (32 << 20), 20) == "RESOURCE_EXHAUSTED"
    assert server.alive()


def test_malformed_bodies_are_refused_by_name(server: Server) -> None:
    bodies = (
        b"", b"{", b"null", b"[]", b'{"version":1.5}', b'{"a":1,"a":2}', b'{ "version":"1"}', b"\xff\xfe", b"[" * 200,
        b'{"version":"1","more":1}', b'{"digest":"' + b"g" * 64 + b'"}', b"\x80\x04\x95pickle",
    )  # fmt: skip
    with server.raw("c") as channel:
        for name in ("Study", "Answer", "Exchange"):
            for body in bodies:
                error = refusal_of(channel, name, body)
                assert isinstance(error, InputError), (name, body, error)
                assert error.code in ("RSD-2001", "RSD-2002", "RSD-1210"), (name, body, error)
    assert server.alive()


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes, length: int | None = None) -> bytes:
    size = len(payload) if length is None else length
    return struct.pack(">I", size)[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def garbage(rng: random.Random) -> bytes:
    """Bytes after TLS: noise, broken prefaces, frames with wrong lengths, kinds, flags, streams, compressed headers."""
    settings = frame(4, 0, 0, b"")
    noise = rng.randbytes(rng.randrange(1, 400))
    kinds = [
        noise,
        PREFACE[: rng.randrange(1, len(PREFACE))],
        PREFACE + noise,
        PREFACE + settings + frame(rng.randrange(12), rng.randrange(256), rng.randrange(8), noise),
        PREFACE + settings + frame(1, 4, 1, noise),  # headers that do not decompress
        PREFACE + settings + frame(0, 1, 1, noise, rng.randrange(1 << 24)),  # data of no stream, another length
        PREFACE + settings * 200,
        PREFACE + settings + frame(6, 0, 0, bytes(8)) * 300,  # pings
        PREFACE + settings + frame(8, 0, 0, struct.pack(">I", rng.randrange(1 << 32))),
        PREFACE + settings + b"".join(frame(3, 0, s, bytes(4)) for s in range(1, 199, 2)),
        PREFACE + settings + frame(1, 0, 1, noise) + frame(9, 0, 1, b"\x40" * 9000) * 4,  # endless headers
    ]
    return rng.choice(kinds)


def test_garbage_frames_harm_nobody(server: Server) -> None:
    """Seeded noise at both doors, before and after TLS, with and without a certificate."""
    assert server.alive()
    threads, memory = server.proc("Threads"), server.proc("VmRSS")
    for seed in range(1, FRAMES + 1):
        rng = random.Random(seed)  # noqa: S311 - a seed, to repeat it
        door = seed % 2
        with contextlib.suppress(OSError):
            if seed % 5 == 0:
                with socket.create_connection(("127.0.0.1", server.hub.ports[door]), timeout=2) as plain:
                    plain.sendall(rng.randbytes(rng.randrange(1, 2000)))
                continue
            with connect(server, door, "c" if door == 0 else None) as tls:
                tls.settimeout(0.05)
                data = garbage(rng)
                for i in range(0, len(data), 4096):
                    tls.sendall(data[i : i + 4096])
                tls.recv(4096)
    assert server.alive()
    assert server.proc("Threads") <= threads + 16
    assert server.proc("VmRSS") <= memory + 100_000  # KiB


def test_slow_callers_keep_nobody_out(server: Server) -> None:
    """Connections that never finish TLS, and calls whose body never comes, at both doors."""
    RELEASED.clear()
    held: list[Any] = []
    try:
        ports = [server.hub.ports[i % 2] for i in range(40)]
        held += [socket.create_connection(("127.0.0.1", port), timeout=2) for port in ports]
        stalled = []
        for site in ("a", "b", "c", "d"):
            channel = server.raw(site)
            held.append(channel)
            call = channel.stream_unary(f"/{SERVICE}/Status")
            stalled += [call.future(iter_never(), timeout=10) for _ in range(6)]
        time.sleep(0.5)
        began = time.monotonic()
        assert server.alive()
        assert time.monotonic() - began < 3
        for call in stalled:
            call.cancel()
    finally:
        RELEASED.set()
        for one in held:
            one.close()
    assert server.alive()


RELEASED = threading.Event()


def iter_never() -> Iterator[bytes]:
    """A request that does not come."""
    RELEASED.wait(9)
    yield from ()


def test_a_flood_of_calls_is_bounded_and_others_are_served(server: Server) -> None:
    body = b'{"version":"1"}'
    with server.raw("b") as channel, ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: refusal_of(channel, "Status", body), range(1000)))
        answered = found.count("answered")  # a minute's share, and what came back meanwhile
        codes = {e.code for e in found if isinstance(e, ResidencyError)}
        assert 1 <= answered <= 80
        assert codes == {"RSD-6303"}
        # Beyond the streams that a connection may have open at a time, gRPC itself says no.
        assert {e for e in found if isinstance(e, str)} <= {"answered", "UNAVAILABLE", "RESOURCE_EXHAUSTED"}
        assert server.alive()
    with server.raw("b") as channel:  # a refused call leaves nothing open: the hundredth is refused like the first
        again = [refusal_of(channel, "Status", body) for _ in range(100)]
        assert {e if isinstance(e, str) else e.code for e in again} <= {"answered", "RSD-6303"}
    assert server.proc("Threads") < 150


def test_every_refused_call_stands_in_the_log_without_what_was_sent(server: Server) -> None:
    end = time.monotonic() + 10
    wanted = {"RSD-6205", "RSD-6206", "RSD-6207", "RSD-6302", "RSD-6303", "RSD-6304", "RSD-6305"}
    while True:
        outcomes = {outcome for _, _, outcome in server.hub.noted()}
        if wanted <= outcomes or time.monotonic() > end:
            break
        time.sleep(0.2)
    assert wanted <= outcomes
    assert not any("pickle" in str(e) for e in server.hub.entries("calls"))


def test_the_server_leaves_within_seconds_under_attack(server: Server) -> None:
    """Last in this module: SIGTERM with open, idle and stalled connections ends the process."""
    RELEASED.clear()
    with server.raw("a") as channel, connect(server, 1, None) as idle:
        stalled = channel.stream_unary(f"/{SERVICE}/Status").future(iter_never(), timeout=10)
        time.sleep(0.2)
        began = time.monotonic()
        server.process.terminate()
        assert server.process.wait(15) == 0
        assert time.monotonic() - began < 12
        stalled.cancel()
        RELEASED.set()
        idle.close()

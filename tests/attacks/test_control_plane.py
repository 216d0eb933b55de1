"""The operator's doors under attack: one real server process, callers with every wrong kind of certificate and key."""

from __future__ import annotations

import http.client
import json
import os
import random
import socket
import sqlite3
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.runtime.runtime_http_client import RuntimeHttpClient

from client.fleet import Fleet, fleet_tls
from compliance.clock import now
from compliance.errors import PeerUnreachable, Refused
from compliance.files import write_durably
from compliance.pki import issue_site_certificate, make_csr, public_pem, renew_server_certificate
from compliance.tls import make_tls
from server.control import Control
from server.flower_files import read_token
from tests.desk import ok
from tests.doorstep import CONSORTIUM, Caller, Founded, Server, found, node_key, read_key, wait

ACTIVATE, PULL = "/v1/fleet/activate-node", "/v1/fleet/pull-messages"
FRAMES = 100
GONE = (ssl.SSLError, ConnectionError, http.client.HTTPException)


class Doors:
    """The consortium and its running server."""

    def __init__(self, base: Path) -> None:
        home = base / "hub"
        home.mkdir()
        self.made: Founded = found(base, home, ["a", "b", "c", "honest"])
        self.server = Server(home, base / "server.log")

    def caller(self, name: str, certificate: str = "") -> Caller:
        """A site, with its own or another's certificate."""
        return Caller.site(self.made, name, certificate)

    def activate(self, caller: Caller) -> bytes:
        """The message with which a node announces itself."""
        request = ActivateNodeRequest(public_key=public_pem(caller.key).encode(), heartbeat_interval=30)
        return bytes(request.SerializeToString())

    def good(self, name: str = "honest") -> Any:
        """What a real client of a site gets: None, there is no work."""
        key = self.made.base / f"{name}.key"
        tls = fleet_tls(self.made.tls.ca, self.made.base / f"{name}.crt", key)
        with Fleet(self.server.fleet, tls, read_key(key), threading.Event()) as fleet:
            return fleet.receive()

    def logged(self) -> list[dict[str, Any]]:
        """The calls in the operator's log."""
        connection = sqlite3.connect(f"file:{self.made.home / 'log.db'}?mode=ro", uri=True, timeout=5)
        try:
            rows = [json.loads(row[0]) for row in connection.execute("SELECT data FROM entries")]
        finally:
            connection.close()
        return [call for row in rows if row["kind"] == "calls" for call in row["body"]["calls"]]


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    made = Doors(tmp_path_factory.mktemp("doors"))
    yield made
    assert made.server.stop() == 0, made.server.said()


def test_an_honest_site_is_served(doors: Doors) -> None:
    assert doors.good() is None


def _cut(caller: Caller, address: str) -> bool:
    """Whether TLS itself ends the connection."""
    try:
        caller.call(address, ACTIVATE)
    except GONE:
        return True
    return False


def test_tls_refuses_whoever_has_no_certificate_of_the_consortium(doors: Doors, tmp_path: Path) -> None:
    honest = doors.caller("a")
    bare = ssl.create_default_context(cafile=str(doors.made.tls.ca))
    foreign = make_tls(tmp_path / "foreign")
    csr = make_csr(honest.key, "a", CONSORTIUM)
    (tmp_path / "foreign.crt").write_bytes(issue_site_certificate(tmp_path / "foreign", csr, "a", CONSORTIUM, 9))
    from_elsewhere = fleet_tls(doors.made.tls.ca, tmp_path / "foreign.crt", doors.made.base / "a.key")
    the_servers_own = fleet_tls(doors.made.tls.ca, doors.made.tls.certificate, doors.made.tls.key)
    self_signed = fleet_tls(doors.made.tls.ca, foreign.ca, foreign.ca_key)
    for tls in (bare, from_elsewhere, the_servers_own, self_signed):
        assert _cut(Caller(tls, honest.key), doors.server.fleet)
    assert not _cut(honest, doors.server.fleet)


def test_tls_older_than_1_3_is_refused(doors: Doors) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(doors.made.tls.ca)
    old.load_cert_chain(doors.made.base / "a.crt", doors.made.base / "a.key")
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    assert _cut(Caller(old, doors.caller("a").key), doors.server.fleet)


def test_one_sites_certificate_does_not_carry_anothers_node_key(doors: Doors) -> None:
    thief = doors.caller("a", certificate="b")
    for path in (ACTIVATE, PULL):
        assert thief.call(doors.server.fleet, path, doors.activate(thief)) == (403, "RSD-6206")
    unsigned = doors.caller("a").call(doors.server.fleet, PULL, headers={})
    assert unsigned == (403, "RSD-6206")


def test_a_site_cannot_act_as_anothers_node(doors: Doors) -> None:
    with Control(doors.server.private, doors.made.tls.ca, read_token(doors.made.home)) as control:
        numbers = {n.public_key: n.node_id for n in control.nodes()}
    a, b = doors.caller("a"), doors.caller("b")
    others = PullMessagesRequest(node=Node(node_id=numbers[public_pem(b.key).encode()])).SerializeToString()
    assert a.call(doors.server.fleet, PULL, others)[0] == 401
    assert a.call(doors.server.fleet, ACTIVATE, doors.activate(b))[0] == 401
    # Flower takes the path to authenticate from the URL, which holds the Host header: the door asks for a plain one.
    for host in ("x?", "x#", "x/y?", ""):
        assert a.call(doors.server.fleet, PULL, others, {**a.signed(), "Host": host})[0] == 400


def test_a_certificate_admits_nobody_whom_the_trust_file_does_not_list(doors: Doors) -> None:
    stranger = node_key(doors.made.base / "x.key")
    doors.made.certify("x", stranger, "x")
    assert doors.caller("x").call(doors.server.fleet, ACTIVATE) == (403, "RSD-6205")
    doors.made.certify("x", stranger, "a")  # a former or a stolen enrolment: another key by the name of a member
    assert doors.caller("x").call(doors.server.fleet, ACTIVATE) == (403, "RSD-6206")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/list-nodes",
        "/v1/control/start-run",
        "/v1/control/register-node",
        "/v1/runtime/acquire-task",
        "/v1/fleet/register-node",
        "/v1/fleet/unregister-node",
        "/v1/fleet/pull-messages/",
        "/v1/fleet/../control/start-run",
        "/v1/fleet/%2e%2e/control/start-run",
        "/v1/fleet/pull-messages%3f",
        "/docs",
        "/openapi.json",
        "/health",
        "/v1/responses",
        "/",
    ],
)
def test_from_outside_nothing_is_there_but_a_nodes_methods(doors: Doors, path: str) -> None:
    assert doors.caller("a").call(doors.server.fleet, path)[0] == 404


def _private(doors: Doors, path: str, headers: dict[str, str]) -> int:
    bare = ssl.create_default_context(cafile=str(doors.made.tls.ca))
    return Caller(bare, doors.caller("a").key).call(doors.server.private, path, headers=headers)[0]


def _acquire(doors: Doors, secret: bytes) -> int:
    """What whoever holds `secret` gets when asking for a task; the answer would hold the bundle and a token."""
    interceptors = [
        RuntimeVersionHttpInterceptor(component_name="SuperExec"),
        SuperExecAuthHttpInterceptor(
            master_secret=secret, protected_methods=frozenset({"/flwr.proto.Runtime/AcquireTask"})
        ),
    ]
    ca = doors.made.tls.ca.read_bytes()
    client = RuntimeHttpClient.from_server_address(doors.server.private, False, ca, interceptors)
    try:
        client.AcquireTask(AcquireTaskRequest())
    except httpx.HTTPStatusError as e:
        return e.response.status_code
    finally:
        client.close()
    return 200


def test_the_private_door_wants_its_token_and_its_secret(doors: Doors) -> None:
    for token in ("wrong", read_token(doors.made.home)[:-1], "x" * 10_000):
        with Control(doors.server.private, doors.made.tls.ca, token) as control, pytest.raises(Refused) as e:
            control.nodes()
        assert e.value.code == "RSD-1123"
    for path in ("/v1/control/start-run", "/v1/control/register-node", "/v1/runtime/acquire-task"):
        assert _private(doors, path, {}) == 401
        assert _private(doors, path, {"Host": "x?"}) == 400
    assert _acquire(doors, (doors.made.home / "flower" / "superexec.secret").read_bytes()) == 200
    assert _acquire(doors, b"guessed" * 5) == 401
    for path in ("/docs", "/openapi.json", "/v1/fleet/pull-messages", "/health"):
        assert _private(doors, path, {}) == 404


def test_the_private_door_listens_on_the_loopback_alone(doors: Doors) -> None:
    inode = {int(f.name) for f in Path(f"/proc/{doors.server.process.pid}/fd").iterdir()}
    assert inode
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    port = f"{doors.server.ready['private_port']:04X}"
    assert {row[1] for row in rows if row[3] == "0A" and row[1].endswith(":" + port)} == {f"0100007F:{port}"}


def test_a_replayed_message_is_refused(doors: Doors) -> None:
    a, b = doors.caller("a"), doors.caller("b")
    old = a.signed(now() - timedelta(minutes=10))
    assert a.call(doors.server.fleet, ACTIVATE, doors.activate(a), old)[0] == 401
    assert a.call(doors.server.fleet, ACTIVATE, doors.activate(a), a.signed(now() + timedelta(minutes=10)))[0] == 401
    recorded = a.signed()  # taken from a's own traffic, sent again at once by another member
    assert b.call(doors.server.fleet, ACTIVATE, doors.activate(a), recorded) == (403, "RSD-6206")


def test_a_suspended_site_is_out_at_its_next_call_on_an_open_connection(doors: Doors) -> None:
    b = doors.caller("b")
    connection = b.connect(doors.server.fleet)
    assert b.post(connection, ACTIVATE, doors.activate(b))[0] == 200
    ok("consortium", "revoke", "b", "--reason", "drill", "--home", doors.made.home)
    assert b.post(connection, PULL) == (403, "RSD-6207")
    with pytest.raises(PeerUnreachable) as e:
        doors.good("b")
    assert (e.value.code, "RSD-6207" in e.value.found) == ("RSD-6103", True)
    assert doors.caller("a").call(doors.server.fleet, ACTIVATE, doors.activate(doors.caller("a")))[0] != 403
    ok("consortium", "revoke", "b", "--lift", "--reason", "drill over", "--home", doors.made.home)
    assert b.post(connection, PULL)[0] != 403
    connection.close()


def test_a_site_without_membership_is_out_as_soon_as_the_trust_file_says_so(doors: Doors) -> None:
    c = doors.caller("c")
    connection = c.connect(doors.server.fleet)
    assert c.post(connection, ACTIVATE, doors.activate(c))[0] == 200
    before = (doors.made.home / "trust.json").read_bytes()
    write_durably(doors.made.home / "trust.json", doors.made.without("c"))
    assert c.post(connection, PULL) == (403, "RSD-6205")
    write_durably(doors.made.home / "trust.json", b"damaged")
    for name in ("a", "c"):
        assert doors.caller(name).call(doors.server.fleet, PULL) == (403, "RSD-6210")
    write_durably(doors.made.home / "trust.json", before)
    assert c.post(connection, PULL)[0] != 403
    connection.close()


def _served(doors: Doors) -> bytes:
    """The certificate that the server shows now."""
    with (
        socket.create_connection(("127.0.0.1", doors.server.ready["private_port"]), 5) as raw,
        ssl.create_default_context(cafile=str(doors.made.tls.ca)).wrap_socket(raw, server_hostname="localhost") as tls,
    ):
        return tls.getpeercert(binary_form=True) or b""


def test_a_renewed_certificate_is_taken_up_without_stopping(doors: Doors) -> None:
    a, before = doors.caller("a"), _served(doors)
    connection = a.connect(doors.server.fleet)
    status = a.post(connection, PULL)
    renew_server_certificate(doors.made.home / "tls", (), 100)
    wait(lambda: _served(doors) != before, 10)
    assert a.post(connection, PULL) == status
    connection.close()
    kept = doors.made.tls.certificate.read_bytes()
    write_durably(doors.made.tls.certificate, b"damaged")  # what cannot be used changes nothing
    wait(lambda: "RSD-1121" in doors.server.said() or "RSD-7104" in doors.server.said(), 10)
    assert doors.good() is None
    write_durably(doors.made.tls.certificate, kept)


def _frames(doors: Doors, rng: random.Random, caller: Caller) -> bytes:
    """One hostile request: a wrong head, a wrong length, a wrong body, or noise."""
    body = bytearray(doors.activate(caller))
    for _ in range(rng.randrange(6)):
        body[rng.randrange(len(body))] = rng.randrange(256)
    body = body[: rng.randrange(len(body) + 1)] if rng.random() < 0.5 else body + rng.randbytes(rng.randrange(5000))
    length = rng.choice([len(body), len(body) + 1000, 2**24, 2**24 + 1, 2**63, -1, 0])
    method = rng.choice(["pull-messages", "push-messages", "push-object", "activate-node", "get-run", "x" * 3000])
    head = [f"POST /v1/fleet/{method} HTTP/1.1", "Host: localhost", f"Content-Length: {length}"]
    head += [f"{name}: {value}" for name, value in caller.signed().items()]
    head += ["Content-Type: application/protobuf", "Accept: application/protobuf"]
    if rng.random() < 0.2:
        head.append(rng.choice(["Transfer-Encoding: chunked", "Content-Length: 5", "X: " + "y" * 200_000, "\0: \0"]))
    text = "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + bytes(body)
    return rng.randbytes(rng.randrange(2000)) if rng.random() < 0.15 else text[: rng.randrange(1, len(text) + 1)]


def _throw(doors: Doors, caller: Caller, data: bytes, *, tls: bool) -> None:
    """Send it and leave, whatever comes back."""
    with suppress(OSError, ssl.SSLError), ExitStack() as stack:
        peer = stack.enter_context(socket.create_connection(("127.0.0.1", doors.server.ready["public_port"]), 2))
        peer.settimeout(2)
        if tls:
            peer = stack.enter_context(caller.tls.wrap_socket(peer, server_hostname="localhost"))
        peer.sendall(data)
        peer.settimeout(0.05)
        peer.recv(1000)


def test_garbage_truncated_and_oversized_frames_do_not_bring_the_server_down(doors: Doors) -> None:
    caller = doors.caller("a")
    rng = random.Random(20_261_122)  # noqa: S311 - the same frames each time
    resident = _rss_mib(doors.server.process.pid)
    for _ in range(FRAMES):
        _throw(doors, caller, _frames(doors, rng, caller), tls=rng.random() < 0.8)
    assert doors.server.process.poll() is None
    assert doors.good() is None
    assert _rss_mib(doors.server.process.pid) < resident + 100
    assert "Traceback" not in doors.server.said()


def _rss_mib(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


def test_every_call_is_in_the_log_and_polling_is_not(doors: Doors) -> None:
    doors.good()
    doors.caller("a").call(doors.server.fleet, "/v1/control/start-run")

    def done() -> bool:
        calls = doors.logged()
        outcomes = {(c["surface"], c["method"], c["site"], c["outcome"]) for c in calls}
        return {
            ("fleet", "activate-node", "honest", "ok"),
            ("fleet", "deactivate-node", "honest", "ok"),
            ("fleet", "activate-node", "b", "RSD-6206"),
            ("fleet", "pull-messages", "b", "RSD-6207"),
            ("door", "another path", "a", "http-404"),
            ("control", "start-run", "", "http-401"),
            ("control", "register-node", "", "ok"),
        } <= outcomes

    wait(done, 10)
    kinds = {(c["method"], c["outcome"]) for c in doors.logged()}
    assert not kinds & {("pull-messages", "ok"), ("send-node-heartbeat", "ok"), ("list-nodes", "ok")}

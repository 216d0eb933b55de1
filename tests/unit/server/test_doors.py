import asyncio
import base64

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from compliance.errors import EnvironmentFault, Refused
from compliance.pki import issue_site_certificate, make_csr, public_pem
from compliance.tls import make_tls
from server.doors import FLEET_METHODS, PEER, FleetDoor, PrivateDoor, listen, outcome

HEADERS = ((b"host", b"fl.example.org:8443"), (b"content-length", b"10"))


class Calls:
    def __init__(self):
        self.noted = []

    def note(self, *call):
        self.noted.append(call)


class Members:
    refusal = None

    def site_of(self, certificate):
        if self.refusal:
            raise self.refusal
        return certificate.site


async def _inside(scope, receive, send):
    scope["reached"] = True
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"x"})


def scope(path="/v1/fleet/pull-messages", method="POST", headers=HEADERS, kind="http", peer=None):
    return {"type": kind, "path": path, "method": method, "headers": list(headers), "state": {PEER: peer}}


def fleet_door(members=None):
    return FleetDoor(_inside, Calls(), members or Members(), "flwr-public-key")


def judge(**kw):
    return fleet_door().judge(scope(**kw))


def piece(body, *, more=False):
    return {"type": "http.request", "body": body, "more_body": more}


def serve(door, asked, events=None):
    sent, coming = [], list(events or [piece(b"0123456789")])

    async def send(event):
        sent.append(event)

    async def receive():
        return coming.pop(0)

    asyncio.run(door(asked, receive, send))
    return sent


def test_a_bounded_post_to_a_listed_method_passes():
    assert judge() is None


@given(st.text(max_size=40).filter(lambda p: p.removeprefix("/v1/fleet/") not in FLEET_METHODS))
def test_any_other_path_is_not_found(path):
    assert judge(path=path) == 404


@pytest.mark.parametrize(
    "path", ["/v1/fleet/register-node", "/v1/fleet/unregister-node", "/v1/fleet/", "pull-messages"]
)
def test_registering_is_no_nodes_business(path):
    assert judge(path=path) == 404


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "OPTIONS", "post"])
def test_other_methods_are_refused(method):
    assert judge(method=method) == 405


@pytest.mark.parametrize("host", [b"x?", b"x#", b"x/", b"a b", b"u@h", b"", b"x" * 300, b"\xff"])
def test_a_host_that_would_move_the_path_is_refused(host):
    assert judge(headers=[(b"Host", host), HEADERS[1]]) == 400


def test_a_request_names_one_host():
    assert judge(headers=HEADERS[1:]) == 400
    assert judge(headers=[*HEADERS, (b"Host", b"other")]) == 400
    assert judge(headers=[(b"host", b"[2001:db8::1]:8443"), HEADERS[1]]) is None


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"content-length", b"-1")],
        [(b"content-length", b"1e9")],
        [(b"content-length", b"5"), (b"Content-Length", b"6")],
        [(b"content-length", b"5"), (b"Transfer-Encoding", b"chunked")],
    ],
)
def test_a_request_without_one_plain_length_is_refused(headers):
    assert judge(headers=[HEADERS[0], *headers]) == 411


def test_the_length_is_bounded():
    door = PrivateDoor(_inside, Calls(), max_request_bytes=100)
    for length, status in ((b"100", None), (b"101", 413)):
        asked = scope(path="/v1/control/start-run", headers=[HEADERS[0], (b"content-length", length)])
        assert door.judge(asked) == status


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/v1/control/start-run", ("control", "start-run")),
        ("/v1/runtime/push-object", ("runtime", "push-object")),
        ("/v1/fleet/pull-messages", None),
        ("/v1/control/../fleet/x", None),
        ("/v1/control/", None),
        ("/v1/control/start-run\n", None),
        ("/docs", None),
    ],
)
def test_the_private_door_has_two_interfaces(path, named):
    assert PrivateDoor(_inside, Calls()).method(path) == named


def test_a_refusal_never_reaches_the_app_and_is_noted():
    door = fleet_door()
    refused = scope(path="/v1/control/start-run")
    assert [e.get("status") for e in serve(door, refused)] == [404, None]
    socket_scope = scope(kind="websocket")
    assert serve(door, socket_scope)[-1]["type"] == "websocket.close"
    assert "reached" not in refused
    assert "reached" not in socket_scope
    assert door._calls.noted == [("door", "another path", "", "http-404")]


GONE = {"type": "http.disconnect"}


@pytest.mark.parametrize("name", sorted(FLEET_METHODS))
def test_only_an_object_may_be_large(name):
    for length, status in ((64 * 2**10, None), (64 * 2**10 + 1, 413), (16 * 2**20, 413), (16 * 2**20 + 1, 413)):
        found = judge(path=f"/v1/fleet/{name}", headers=[HEADERS[0], (b"content-length", b"%d" % length)])
        assert found == (None if name == "push-object" and length <= 16 * 2**20 else status)


def test_a_body_that_does_not_arrive_is_given_up(peer):
    key, der = peer
    door, asked = fleet_door(), scope(headers=_with_key(key), peer=der)
    assert door.body_s == 60
    door.body_s = 0.05
    sent, coming = [], [piece(b"01", more=True)]

    async def send(event):
        sent.append(event)

    async def receive():
        return coming.pop() if coming else await asyncio.Event().wait()

    asyncio.run(asyncio.wait_for(door(asked, receive, send), 5))
    assert (sent[0]["status"], dict(sent[0]["headers"])[b"connection"]) == (408, b"close")
    assert "reached" not in asked
    assert door._calls.noted == [("fleet", "pull-messages", "berlin", "http-408")]


def test_an_instruction_never_reaches_the_app(peer):
    key, der = peer
    door, asked = fleet_door(), scope(path="/v1/fleet/push-messages", headers=_with_key(key), peer=der)
    sent = serve(door, asked)
    assert (sent[0]["status"], dict(sent[0]["headers"])[b"residency-refused"]) == (403, b"RSD-6221")
    assert "reached" not in asked
    assert door._calls.noted == [("fleet", "push-messages", "berlin", "RSD-6221")]


def test_one_member_has_its_share_of_connections_and_the_refused_one_together(peer):
    _, der = peer
    members = Members()
    door = fleet_door(members)
    places = [door.arrives(der) for _ in range(16)]
    assert None not in places
    assert door.arrives(der) is None
    members.refusal = Refused("RSD-6207", "no")
    strangers = [door.arrives(one) for one in (der, b"", b"no certificate") * 6]
    assert strangers.count(None) == 2
    members.refusal = None
    places[0]()
    assert door.arrives(der) is not None
    assert set(door._calls.noted) == {
        ("door", "connection", "berlin", "RSD-6222"),
        ("door", "connection", "", "RSD-6222"),
    }
    private = PrivateDoor(_inside, Calls())
    assert None not in [private.arrives(b"") for _ in range(100)]
    assert private.body_s is None


@pytest.mark.parametrize(
    ("coming", "handed_on"),
    [
        ([piece(b"abc"), GONE], [piece(b"abc"), GONE]),
        ([piece(b"ab", more=True), piece(b"", more=True), piece(b"cd"), GONE], [piece(b"abcd"), GONE]),
        ([{"type": "http.request"}, GONE], [piece(b""), GONE]),
        ([piece(b"ab", more=True), GONE, GONE], [GONE, GONE]),
    ],
)
def test_a_body_is_handed_on_whole_and_a_broken_one_never(coming, handed_on):
    got = []

    async def app(scope, receive, send):
        got.extend([await receive(), await receive()])

    serve(PrivateDoor(app, Calls()), scope(path="/v1/runtime/push-object"), coming)
    assert got == handed_on


def test_a_refused_request_is_not_read():
    door, read = fleet_door(), []

    async def receive():
        read.append(1)
        return GONE

    async def send(event):
        assert event["type"].startswith("http.response")

    asyncio.run(door(scope(path="/v1/control/start-run"), receive, send))
    asyncio.run(door(scope(peer=b"no certificate"), receive, send))
    assert read == []


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    """A site's key and its certificate as TLS hands it over (DER)."""
    import ssl

    folder = tmp_path_factory.mktemp("tls")
    make_tls(folder)
    key = ec.generate_private_key(ec.SECP384R1())
    pem = issue_site_certificate(folder, make_csr(key, "berlin", "x"), "berlin", "x", 9)
    return key, ssl.PEM_cert_to_DER_cert(pem.decode())


def _with_key(key):
    return [*HEADERS, (b"Flwr-Public-Key", base64.b64encode(public_pem(key).encode()))]


def test_a_member_with_its_own_key_is_served(peer):
    key, der = peer
    door, asked = fleet_door(), scope(headers=_with_key(key), peer=der)
    assert serve(door, asked)[0]["status"] == 200
    assert asked["reached"]
    assert door._calls.noted == [("fleet", "pull-messages", "berlin", "ok")]


def test_another_key_none_or_two_are_refused(peer):
    key, der = peer
    other = _with_key(ec.generate_private_key(ec.SECP384R1()))
    for headers in (other, HEADERS, [*_with_key(key), *other[2:]], [*HEADERS, (b"flwr-public-key", b"!")]):
        door, asked = fleet_door(), scope(headers=headers, peer=der)
        sent = serve(door, asked)
        assert (sent[0]["status"], dict(sent[0]["headers"])[b"residency-refused"]) == (403, b"RSD-6206")
        assert "reached" not in asked
        assert door._calls.noted == [("fleet", "pull-messages", "berlin", "RSD-6206")]


def test_no_certificate_and_no_member_are_refused(peer):
    key, der = peer
    members = Members()
    assert dict(serve(fleet_door(), scope(headers=_with_key(key)))[0]["headers"])[b"residency-refused"] == b"RSD-6203"
    members.refusal = Refused("RSD-6207", "no")
    sent = serve(fleet_door(members), scope(headers=_with_key(key), peer=der))
    assert dict(sent[0]["headers"])[b"residency-refused"] == b"RSD-6207"


def test_looking_for_work_is_no_call_but_getting_some_is():
    assert outcome("pull-messages", 200, 0) == "poll"
    assert outcome("pull-messages", 200, 1) == "ok"
    assert outcome("send-node-heartbeat", 200, 9) == "poll"
    assert outcome("send-node-heartbeat", 401, 0) == "http-401"
    assert outcome("push-messages", 200, 0) == "ok"
    assert outcome("push-messages", 0, 0) == "aborted"


def test_two_doors_cannot_share_a_port():
    with listen("127.0.0.1", 0, "the public door") as first:
        port = first.getsockname()[1]
        with pytest.raises(EnvironmentFault) as e:
            listen("127.0.0.1", port, "the private door")
    assert (e.value.code, e.value.found) == ("RSD-7101", "port in use")
    assert str(port) in e.value.next


def test_a_foreign_address_is_an_error_of_this_machine():
    with pytest.raises(EnvironmentFault) as e:
        listen("192.0.2.1", 0, "the public door")
    assert e.value.code == "RSD-7101"
    assert e.value.found != "port in use"

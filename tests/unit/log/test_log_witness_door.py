"""The witness's door: bounds on bytes, seconds and connections, over real sockets."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from compliance.errors import EnvironmentFault, InputError, Refused
from compliance.log.witness_protocol import MOST_REQUEST, Answer
from compliance.log.witness_server import MOST_CONNECTIONS, WitnessDoor, tls_context
from compliance.tls import make_tls

LIMIT_S = 0.6


def echo(data: bytes) -> Answer:
    return Answer(200, f"{len(data)}\n")


@contextmanager
def opened(
    answer: Callable[[bytes], Answer] = echo, tls: ssl.SSLContext | None = None, limit_s: float = LIMIT_S
) -> Iterator[WitnessDoor]:
    door = WitnessDoor(("127.0.0.1", 0), answer, tls, limit_s)
    thread = threading.Thread(target=door.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield door
    finally:
        door.shutdown()
        door.server_close()
        thread.join(5)


@pytest.fixture
def door() -> Iterator[WitnessDoor]:
    with opened() as made:
        yield made


def post(door: WitnessDoor, body: bytes, path: str = "/add-checkpoint", **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=10)
    try:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def plain(door: WitnessDoor, data: bytes) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", door.port), timeout=10)
    made.sendall(data)
    return made


def ended(connection: socket.socket) -> bytes:
    """All that still comes; the other side has closed when this returns."""
    data = b""
    try:
        while part := connection.recv(65536):
            data += part
    except ConnectionError:
        pass
    return data


def test_requests_are_answered_also_several_on_one_connection(door: WitnessDoor) -> None:
    assert post(door, b"x" * 10) == (200, b"10\n")
    connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=10)
    for size in (1, 2, 3):
        connection.request("POST", "/add-checkpoint", b"x" * size)
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"%d\n" % size)
    connection.close()


def test_nothing_else_is_there(door: WitnessDoor) -> None:
    assert post(door, b"x", path="/")[0] == 404
    assert post(door, b"x", path="/add-checkpoint/../x")[0] == 404
    for method, status in (("GET", b"404"), ("PUT", b"501"), ("OPTIONS", b"501")):
        with plain(door, f"{method} /add-checkpoint HTTP/1.1\r\nHost: x\r\n\r\n".encode()) as connection:
            answer = ended(connection)
        assert answer.split(b" ")[1] == status
        assert b"Python" not in answer
        assert b"BaseHTTP" not in answer


def test_an_oversized_body_is_refused_unread_and_never_judged() -> None:
    judged = []
    with opened(lambda data: (judged.append(data), echo(data))[1]) as door:
        assert post(door, b"x" * (MOST_REQUEST + 1))[0] == 413
        assert post(door, b"x" * MOST_REQUEST)[0] == 200
        with plain(door, b"POST /add-checkpoint HTTP/1.1\r\nContent-Length: 99999999999999\r\n\r\n") as connection:
            assert ended(connection).split(b" ")[1] == b"413"
    assert [len(data) for data in judged] == [MOST_REQUEST]


@pytest.mark.parametrize(
    "head",
    [
        b"POST /add-checkpoint HTTP/1.1\r\n\r\n",
        b"POST /add-checkpoint HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        b"POST /add-checkpoint HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        b"POST /add-checkpoint HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /add-checkpoint HTTP/1.1\r\nContent-Length: \xb2\r\n\r\n",
    ],
    ids=["no-length", "chunked", "both", "negative", "no-digit"],
)
def test_a_body_without_a_plain_length_is_refused(door: WitnessDoor, head: bytes) -> None:
    with plain(door, head) as connection:
        assert ended(connection).split(b" ")[1] == b"411"
    assert post(door, b"x")[0] == 200


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"POST /add",
        b"POST /add-checkpoint HTTP/1.1\r\n",
        b"POST /add-checkpoint HTTP/1.1\r\nContent-Length: 50\r\n\r\nx",
    ],
    ids=["nothing", "line", "headers", "body"],
)
def test_a_client_that_trickles_is_cut_and_others_are_served(door: WitnessDoor, begun: bytes) -> None:
    start = time.monotonic()
    with plain(door, begun) as connection:
        connection.settimeout(0.1)
        while time.monotonic() - start < 20 * LIMIT_S:
            try:
                connection.sendall(b"x")
                if not connection.recv(10):
                    break
            except TimeoutError:
                assert post(door, b"yy") == (200, b"2\n")
            except ConnectionError:
                break
        else:
            pytest.fail("the connection was not cut")
    assert time.monotonic() - start < 20 * LIMIT_S


def test_too_many_connections_are_closed_and_room_comes_back() -> None:
    with opened(limit_s=60) as door, ExitStack() as stack:
        held = [stack.enter_context(plain(door, b"")) for _ in range(MOST_CONNECTIONS)]
        with plain(door, b"") as one_too_many:
            assert ended(one_too_many) == b""
        held[0].settimeout(0.1)
        with pytest.raises(TimeoutError):  # the others are open still
            held[0].recv(1)
        held[1].close()
        until = time.monotonic() + 30
        while time.monotonic() < until:
            with suppress(http.client.HTTPException, ConnectionError):
                assert post(door, b"xx") == (200, b"2\n")
                break
        else:
            pytest.fail("no room came back")


def test_an_answer_that_breaks_costs_one_connection_only(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(data: bytes) -> Answer:
        raise KeyError(data)

    with opened(broken) as door:
        with plain(door, b"POST /add-checkpoint HTTP/1.1\r\nContent-Length: 6\r\n\r\nsecret") as connection:
            assert ended(connection) == b""
        assert post(door, b"x", path="/")[0] == 404
    told = capsys.readouterr().err
    assert ("KeyError" in told, "secret" in told) == (True, False)


def test_tls_is_spoken_where_it_is_given_and_elsewhere_asked_for(tmp_path: Path) -> None:
    files = make_tls(tmp_path)
    with opened(tls=tls_context(files.certificate, files.key)) as door:
        context = ssl.create_default_context(cafile=files.ca)
        connection = http.client.HTTPSConnection("localhost", door.port, timeout=10, context=context)
        connection.request("POST", "/add-checkpoint", b"xyz")
        assert connection.getresponse().read() == b"3\n"
        connection.close()
        with plain(door, b"POST /add-checkpoint HTTP/1.1\r\nContent-Length: 0\r\n\r\n") as stranger:
            assert b"200" not in ended(stranger)
    for host in ("0.0.0.0", "192.0.2.1", "::"):  # noqa: S104
        with pytest.raises(Refused) as refused:
            WitnessDoor((host, 0), echo, None)
        assert refused.value.code == "RSD-5112"
    with pytest.raises(InputError) as wrong:
        tls_context(files.key, files.certificate)
    assert wrong.value.code == "RSD-5114"


def test_a_port_in_use_is_said(door: WitnessDoor) -> None:
    with pytest.raises(EnvironmentFault) as fault:
        WitnessDoor(("127.0.0.1", door.port), echo, None)
    assert fault.value.code == "RSD-5113"

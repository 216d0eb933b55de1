"""Who opens connections at the desk's door and finishes no TLS handshake keeps no reader out, and few descriptors."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from compliance.desk.handshakes import MOST_HANDSHAKES
from compliance.tls import make_tls
from tests.hello_desk import served

MORE = 3 * MOST_HANDSHAKES
BEGINNING = b"\x16\x03\x01\x02\x00\x01"  # of a ClientHello


def _connected(where: tuple[str, int], ca: Path) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=ca)
    return context.wrap_socket(socket.create_connection(where, timeout=5), server_hostname="localhost")


def _answered(asking: ssl.SSLSocket) -> bool:
    asking.sendall(b"GET / HTTP/1.1\r\nHost: desk\r\nConnection: close\r\n\r\n")
    answer = b""
    while more := asking.recv(1000):
        answer += more
    return answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"hello")


def _page(where: tuple[str, int], ca: Path) -> bool:
    with _connected(where, ca) as asking:
        return _answered(asking)


def _open(held: list[socket.socket]) -> int:
    """How many of them the desk has not closed."""
    count = 0
    for one in held:
        one.setblocking(False)
        try:
            one.recv(1)
        except BlockingIOError:
            count += 1
        except OSError:
            continue
    return count


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names alone


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are counted in /proc")
def test_handshakes_that_never_end_keep_no_reader_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = make_tls(tmp_path, ("localhost",))
    with (
        served(files.certificate, files.key) as where,
        ExitStack() as stack,
        caplog.at_level(logging.ERROR, "residency.desk"),
    ):
        assert _page(where, files.ca)
        before, began = _descriptors(), time.monotonic()
        held: list[socket.socket] = []
        for number in range(MORE):
            held.append(stack.enter_context(socket.create_connection(where, timeout=5)))
            if number % 2:
                held[-1].sendall(BEGINNING)
        assert _page(where, files.ca)
        while _descriptors() - before - MORE > MOST_HANDSHAKES:
            assert time.monotonic() - began < 5
            time.sleep(0.01)
        assert time.monotonic() - began < 8  # before any handshake's own time is over
        assert MOST_HANDSHAKES - 1 <= _open(held) <= MOST_HANDSHAKES
        assert _open(held[:MOST_HANDSHAKES]) == 0  # the oldest went
        for one in held:
            one.close()
        assert _page(where, files.ca)
    told = [r.getMessage() for r in caplog.records if r.name == "residency.desk"]
    assert told == [f"more than {MOST_HANDSHAKES} TLS handshakes at a time: the oldest are closed"]


def test_readers_whose_handshake_is_over_are_not_among_them(tmp_path: Path) -> None:
    files = make_tls(tmp_path, ("localhost",))
    with served(files.certificate, files.key) as where, ExitStack() as stack:
        reading = stack.enter_context(_connected(where, files.ca))
        time.sleep(0.1)  # TLS 1.3: this side is ready before the desk has read the last word of the handshake
        for _ in range(MORE):
            stack.enter_context(socket.create_connection(where, timeout=5))
        assert _page(where, files.ca)
        assert _answered(reading)

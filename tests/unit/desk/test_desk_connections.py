"""Connections that ask for nothing: they end, and no address holds more than its share."""

from __future__ import annotations

import socket
import ssl
import time
from contextlib import ExitStack, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compliance.desk.connections import MOST_OF_ONE, Shares, door
from compliance.tls import make_tls
from tests.hello_desk import served

HEAD = b"GET / HTTP/1.1\r\nHost: desk\r\n"
_PATIENCE = 0.4


def _ended(held):
    """Whether the desk has closed a connection; waits for it a while."""
    held.settimeout(10 * _PATIENCE)
    try:
        return held.recv(1) == b""
    except ConnectionResetError:
        return True


def _ask(where):
    with socket.create_connection(where, timeout=5) as asking:
        asking.sendall(HEAD + b"Connection: close\r\n\r\n")
        return asking.recv(100)


def test_half_open_connections_end_and_readers_are_answered_again():
    with served(head_s=_PATIENCE) as where, ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection(where, timeout=5)) for _ in range(70)]
        for one in held[::2]:
            one.sendall(HEAD)
        assert all(_ended(one) for one in held)
        assert _ask(where).startswith(b"HTTP/1.1 200")


def test_half_a_tls_handshake_ends_too(monkeypatch, tmp_path):
    monkeypatch.setattr("compliance.desk.serve.HANDSHAKE_S", _PATIENCE)
    files = make_tls(tmp_path, ("localhost",))
    with served(files.certificate, files.key, head_s=_PATIENCE) as where, ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection(where, timeout=5)) for _ in range(20)]
        for one in held[::2]:
            one.sendall(b"\x16\x03\x01\x02\x00\x01")  # how a ClientHello begins
        assert all(_ended(one) for one in held)
        context = ssl.create_default_context(cafile=files.ca)
        with context.wrap_socket(socket.create_connection(where, timeout=5), server_hostname="localhost") as asking:
            asking.sendall(HEAD + b"Connection: close\r\n\r\n")
            assert asking.recv(100).startswith(b"HTTP/1.1 200")


def test_a_head_that_drips_buys_no_time():
    with served(head_s=_PATIENCE) as where, socket.create_connection(where, timeout=5) as dripping:
        began = time.monotonic()
        dripping.sendall(HEAD)
        with suppress(OSError):
            while time.monotonic() - began < 10 * _PATIENCE:
                dripping.sendall(b"a: b\r\n")
                time.sleep(_PATIENCE / 8)
        assert time.monotonic() - began < 5 * _PATIENCE


def test_a_connection_that_is_used_stays():
    with served(head_s=_PATIENCE) as where, socket.create_connection(where, timeout=5) as using:
        for _ in range(3):
            using.sendall(HEAD + b"\r\n")
            answer = b""
            while not answer.endswith(b"hello"):  # head and body may come one by one
                answer += (more := using.recv(1000))
                assert more
            time.sleep(_PATIENCE / 2)


@given(st.lists(st.sampled_from(["192.0.2.7", "::ffff:192.0.2.7"]), min_size=5, max_size=9))
def test_an_address_has_its_share_and_gets_it_back(addresses):
    shares = Shares(4)
    places = [shares.enter(address) for address in addresses]
    assert [place is not None for place in places] == [True] * 4 + [False] * (len(addresses) - 4)
    assert shares.enter("192.0.2.8") is not None
    places[0]()
    assert shares.enter(addresses[-1]) is not None
    assert shares.enter(addresses[-1]) is None


def test_a_machine_has_one_share_for_its_whole_network_of_ipv6():
    shares = Shares(2)
    assert [shares.enter(f"2001:db8::{i}") is not None for i in range(1, 4)] == [True, True, False]
    assert shares.enter("2001:db8:0:1::1") is not None
    assert shares.enter("fe80::1%eth0") is not None


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
def test_this_machine_is_not_counted(address):
    shares = Shares(1)
    assert all(shares.enter(address) is not None for _ in range(3))


def test_what_is_over_its_share_is_cut(monkeypatch):
    monkeypatch.setattr("compliance.desk.connections._network", lambda address: address)
    with served(head_s=_PATIENCE) as where, ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection(where, timeout=5)) for _ in range(MOST_OF_ONE)]
        time.sleep(_PATIENCE / 8)
        began = time.monotonic()
        with socket.create_connection(where, timeout=5) as over:
            assert _ended(over)
        assert time.monotonic() - began < _PATIENCE / 2
        for one in held:
            one.close()
        time.sleep(_PATIENCE / 4)
        assert _ask(where).startswith(b"HTTP/1.1 200")


def test_each_server_counts_for_itself():
    assert door().shares is not door().shares

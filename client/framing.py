"""Messages between agent, warm process and task: a JSON header and raw little-endian float32. No pickle."""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from compliance.canonical import parse_json

_HEAD = struct.Struct(">II")  # bytes of the header, bytes of the array
MAX_HEADER = 16 << 20
MAX_ARRAY = 1 << 30

Array = npt.NDArray[np.float32]


class Closed(Exception):
    """The other side is gone."""


def send(sock: socket.socket, header: dict[str, Any], array: Array | None = None, end: float | None = None) -> None:
    """Send one message. Raises Closed, and TimeoutError once the monotonic clock passes `end`."""
    head = json.dumps(header, allow_nan=False).encode()
    body = np.empty(0, "<f4") if array is None else np.ascontiguousarray(array, dtype="<f4").reshape(-1)
    try:
        for part in (_HEAD.pack(len(head), body.nbytes) + head, body.data.cast("B")):
            _limit(sock, end)
            sock.sendall(part)
    except TimeoutError:
        raise
    except OSError as e:
        raise Closed from e


def receive(sock: socket.socket, end: float | None = None) -> tuple[dict[str, Any], Array]:
    """The next message; an empty array if it has none.

    Raises Closed at the end of the stream, ValueError for lengths beyond 16 MiB (header) or 1 GiB (array) or a header
    that is no object, InputError RSD-2002 for one that is no strict JSON, TimeoutError once the monotonic clock passes
    `end`.
    """
    head_size, body_size = _HEAD.unpack(_exactly(sock, _HEAD.size, end))
    if head_size > MAX_HEADER or body_size > MAX_ARRAY or body_size % 4:
        raise ValueError("a frame is longer than any message")
    header = parse_json(bytes(_exactly(sock, head_size, end)), "a worker message")
    if not isinstance(header, dict):
        raise ValueError("a frame's header is no JSON object")  # noqa: TRY004 - the content is wrong, not a caller
    return header, np.frombuffer(_exactly(sock, body_size, end), dtype="<f4").astype(np.float32, copy=False)


def send_socket(sock: socket.socket, passed: socket.socket, end: float | None = None) -> None:
    """Hand an open socket over. Raises Closed, TimeoutError as `send`."""
    try:
        _limit(sock, end)
        socket.send_fds(sock, [b"S"], [passed.fileno()])
    except TimeoutError:
        raise
    except OSError as e:
        raise Closed from e


def receive_socket(sock: socket.socket) -> socket.socket:
    """The socket that `send_socket` handed over. Raises Closed."""
    try:
        _, found, _, _ = socket.recv_fds(sock, 1, 1)
    except OSError as e:
        raise Closed from e
    if not found:
        raise Closed
    return socket.socket(fileno=found[0])


def _limit(sock: socket.socket, end: float | None) -> None:
    """Let the next call on `sock` wait until `end` at most."""
    if end is None:
        sock.settimeout(None)
        return
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    sock.settimeout(left)


def _exactly(sock: socket.socket, size: int, end: float | None) -> bytearray:
    buffer = bytearray(size)
    view = memoryview(buffer)
    at = 0
    while at < size:
        _limit(sock, end)
        try:
            got = sock.recv_into(view[at:])
        except TimeoutError:
            raise
        except OSError as e:
            raise Closed from e
        if not got:
            raise Closed
        at += got
    return buffer

"""Messages between the agent and its worker: a JSON header and raw little-endian float32. No pickle."""

from __future__ import annotations

import json
import socket
import struct
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


def send(sock: socket.socket, header: dict[str, Any], array: Array | None = None) -> None:
    """Send one message. Raises Closed."""
    head = json.dumps(header, allow_nan=False).encode()
    body = b"" if array is None else array.astype("<f4", copy=False).tobytes()
    try:
        sock.sendall(_HEAD.pack(len(head), len(body)) + head)
        sock.sendall(body)
    except OSError as e:
        raise Closed from e


def receive(sock: socket.socket) -> tuple[dict[str, Any], Array]:
    """The next message; an empty array if it has none.

    Raises Closed at the end of the stream, ValueError for lengths beyond 16 MiB (header) or 1 GiB (array) or a header
    that is no object, InputError RSD-2002 for one that is no strict JSON, TimeoutError as the socket is set.
    """
    head_size, body_size = _HEAD.unpack(_exactly(sock, _HEAD.size))
    if head_size > MAX_HEADER or body_size > MAX_ARRAY or body_size % 4:
        raise ValueError("a frame is longer than any message")
    header = parse_json(bytes(_exactly(sock, head_size)), "a worker message")
    if not isinstance(header, dict):
        raise ValueError("a frame's header is no JSON object")  # noqa: TRY004 - the content is wrong, not a caller
    return header, np.frombuffer(_exactly(sock, body_size), dtype="<f4").astype(np.float32, copy=False)


def _exactly(sock: socket.socket, size: int) -> bytearray:
    buffer = bytearray(size)
    view = memoryview(buffer)
    at = 0
    while at < size:
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

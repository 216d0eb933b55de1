"""The server's two doors: ASGI wrappers that let through listed paths only, and the sockets that they listen on."""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias

from compliance.errors import EnvironmentFault

AsgiEvent: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[AsgiEvent]]
Send: TypeAlias = Callable[[AsgiEvent], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[AsgiEvent, Receive, Send], Awaitable[None]]

PUBLIC_PATHS: Final = ("/v1/fleet/",)
PRIVATE_PATHS: Final = ("/v1/control/", "/v1/runtime/")
MAX_REQUEST_BYTES: Final = 16 * 2**20  # Flower sends arrays in pieces of 5 MiB, and a bundle has at most 10 MiB


class Door:
    """Lets POST requests with a listed path prefix and a stated, bounded length through; refuses all others.

    404 for any other path, 405 for another method, 411 without a plain Content-Length, 413 beyond `max_request_bytes`.
    Flower reads a whole request into memory before it knows who sent it, so the bound stands here. Deny by default;
    lifespan events pass.
    """

    def __init__(self, app: AsgiApp, prefixes: tuple[str, ...], *, max_request_bytes: int = MAX_REQUEST_BYTES) -> None:
        self._app = app
        self._prefixes = prefixes
        self._max = max_request_bytes

    async def __call__(self, scope: AsgiEvent, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        status = self.judge(scope)
        if status is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
        else:
            await send({"type": "websocket.close", "code": 1008})

    def judge(self, scope: AsgiEvent) -> int | None:
        """The HTTP status to refuse with, or None to let the request through."""
        if scope["type"] != "http" or not scope["path"].startswith(self._prefixes):
            return 404
        if scope["method"] != "POST":
            return 405
        names = [name.lower() for name, _ in scope["headers"]]
        lengths = [value for name, value in scope["headers"] if name.lower() == b"content-length"]
        if b"transfer-encoding" in names or len(lengths) != 1 or not lengths[0].isdigit():
            return 411
        return 413 if int(lengths[0]) > self._max else None


def listen(host: str, port: int, what: str) -> socket.socket:
    """A listening TCP socket; port 0 takes any free one. Raises EnvironmentFault RSD-7101 with `what` and the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where the protocol is named; with it each call would take 40 ms
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(128)
        sock.set_inheritable(False)
    except OSError as e:
        sock.close()
        in_use = e.errno == errno.EADDRINUSE
        raise EnvironmentFault(
            "RSD-7101",
            f"{what} cannot listen on {host}:{port}",
            rule="each door has a port of its own",
            found="port in use" if in_use else str(e.strerror),
            limit="a free port on an address of this machine",
            next=f"stop the other process (ss -ltnp 'sport = :{port}') or choose another port",
        ) from e
    return sock

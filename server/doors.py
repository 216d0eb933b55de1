"""The server's two HTTP doors: ASGI wrappers that judge each request before Flower sees it, and their sockets."""

from __future__ import annotations

import asyncio
import base64
import binascii
import errno
import re
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from compliance.errors import EnvironmentFault, Refused, ResidencyError
from compliance.pki import SiteCertificate, read_site_certificate
from server.calls import CONTROL, DOOR, FLEET, OK, POLL, RUNTIME

if TYPE_CHECKING:
    from server.calls import CallLog
    from server.members import Members

AsgiEvent: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[AsgiEvent]]
Send: TypeAlias = Callable[[AsgiEvent], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[AsgiEvent, Receive, Send], Awaitable[None]]

MAX_REQUEST_BYTES: Final = 16 * 2**20  # Flower sends arrays in pieces of 5 MiB, and a bundle has at most 10 MiB
MAX_CONNECTIONS: Final = 512
FIRST_REQUEST_S: Final = 30.0  # a connection that asks for nothing in this time is closed
REFUSED: Final = b"residency-refused"  # header of a refusal: its code
PEER: Final = "residency.peer"  # where the peer's certificate (DER) stands in the scope's state

# Registering nodes is the operator's, through the private door.
FLEET_METHODS: Final = frozenset(
    {
        "activate-node",
        "deactivate-node",
        "send-node-heartbeat",
        "pull-messages",
        "push-messages",
        "get-run",
        "get-fab",
        "push-object",
        "pull-object",
        "confirm-message-received",
    }
)
_FLEET: Final = "/v1/fleet/"
_PRIVATE: Final = {"/v1/control/": CONTROL, "/v1/runtime/": RUNTIME}
_METHOD: Final = re.compile(r"[a-z-]{1,40}\Z")
_HOST: Final = re.compile(rb"[A-Za-z0-9.\[\]:-]{1,255}\Z")
_LOOKS: Final = frozenset({"send-node-heartbeat", "send-task-heartbeat", "list-runs", "list-nodes", "get-nodes"})
_ASKS: Final = frozenset({"pull-messages", "acquire-task"})  # without an answer's body: empty-handed


class Door:
    """Lets POST requests to listed methods with a stated, bounded length through; refuses all others, and notes each.

    404 for any other path, 405 for another method, 400 for a Host header that is no plain host, 411 without a plain
    Content-Length, 413 beyond `max_request_bytes`, 403 with the header residency-refused for whoever may not take part.
    Flower reads a whole request into memory before it knows who sent it, so the bound stands here. It also chooses what
    to authenticate by the URL's path, and Starlette makes the URL with the Host header: where it does not check that
    header itself (older versions), a host such as "x?" leads past Flower's authentication. Deny by default; lifespan
    events pass.
    """

    def __init__(self, app: AsgiApp, calls: CallLog, *, max_request_bytes: int = MAX_REQUEST_BYTES) -> None:
        self._app = app
        self._calls = calls
        self._max = max_request_bytes

    def method(self, path: str) -> tuple[str, str] | None:
        """(surface, method) of a path that this door lets through, or None."""
        raise NotImplementedError

    def who(self, scope: AsgiEvent) -> str:
        """Which site calls; empty for the operator's own processes. Raises ResidencyError for whoever may not."""
        raise NotImplementedError

    async def __call__(self, scope: AsgiEvent, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        named, status = self.method(scope["path"]), self.judge(scope)
        surface, method = named or (DOOR, "another path")
        if status is None:
            try:
                site = self.who(scope)
            except ResidencyError as e:
                self._calls.note(surface, method, _claimed(scope), e.code)
                await _refuse(send, 403, e.code)
            else:
                await self._serve((surface, method, site), scope, receive, send)
            return
        self._calls.note(surface, method, _claimed(scope), f"http-{status}")
        await _refuse(send, status)

    def judge(self, scope: AsgiEvent) -> int | None:
        """The HTTP status to refuse with, whoever calls, or None."""
        if self.method(scope["path"]) is None:
            return 404
        if scope["method"] != "POST":
            return 405
        names = [name.lower() for name, _ in scope["headers"]]
        hosts = [value for name, value in scope["headers"] if name.lower() == b"host"]
        lengths = [value for name, value in scope["headers"] if name.lower() == b"content-length"]
        if len(hosts) != 1 or _HOST.match(hosts[0]) is None:
            return 400
        if b"transfer-encoding" in names or len(lengths) != 1 or not lengths[0].isdigit():
            return 411
        return 413 if int(lengths[0]) > self._max else None

    async def _serve(self, call: tuple[str, str, str], scope: AsgiEvent, receive: Receive, send: Send) -> None:
        status, length = 0, 0

        async def watched(event: AsgiEvent) -> None:
            nonlocal status, length
            status = event.get("status", status)
            length += len(event.get("body", b""))
            await send(event)

        try:
            await self._app(scope, await _whole(receive), watched)
        finally:
            self._calls.note(*call, outcome(call[1], status, length))


def outcome(method: str, status: int, length: int) -> str:
    """How a call ended, as the log has it: "ok", "poll" for mere looking, or its HTTP status."""
    if status != 200:
        return f"http-{status}" if status else "aborted"
    return POLL if method in _LOOKS or (method in _ASKS and not length) else OK


class FleetDoor(Door):
    """The public door: the fleet interface for members, each with its own certificate and its own node key.

    `key_header` is where Flower reads the node key with which it authenticates a request.
    """

    def __init__(self, app: AsgiApp, calls: CallLog, members: Members, key_header: str) -> None:
        super().__init__(app, calls)
        self._members = members
        self._key_header = key_header.lower().encode("ascii")

    def method(self, path: str) -> tuple[str, str] | None:
        """Exactly the fleet methods that a node needs."""
        name = path.removeprefix(_FLEET)
        return (FLEET, name) if path.startswith(_FLEET) and name in FLEET_METHODS else None

    def who(self, scope: AsgiEvent) -> str:
        """The member whose certificate the connection showed, asked anew for each request.

        Raises what `Members.site_of` raises, InputError RSD-6203 for another kind of certificate, and Refused RSD-6206
        if the node key with which Flower authenticates the request is not the certificate's.
        """
        certificate = _certificate(scope)
        site = self._members.site_of(certificate)
        keys = [value for name, value in scope["headers"] if name.lower() == self._key_header]
        if len(keys) != 1 or _decoded(keys[0]) != certificate.public_key:
            raise Refused(
                "RSD-6206",
                f"{site} calls with another node key than its certificate's",
                rule="a node key belongs to one site, and so does its certificate",
                found=f"{len(keys)} keys in the request",
                limit="the key of the certificate",
                next="let each site use its own keys/node.key and certs/site.crt",
            )
        return site


class PrivateDoor(Door):
    """The loopback door: control and runtime. Who may call is judged by Flower: the token, or the shared secret."""

    def method(self, path: str) -> tuple[str, str] | None:
        """Any method of the two interfaces."""
        for prefix, surface in _PRIVATE.items():
            if path.startswith(prefix) and _METHOD.match(path[len(prefix) :]):
                return surface, path[len(prefix) :]
        return None

    def who(self, scope: AsgiEvent) -> str:
        """The operator's processes have no site."""
        del scope
        return ""


class PeerProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's HTTP protocol; puts the peer's certificate into the scope, and closes what asks for nothing."""

    app_state: dict[str, Any]

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Called once the TLS handshake is done."""
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        self.app_state = {**self.app_state, PEER: tls.getpeercert(binary_form=True) if tls else None}
        self._patience = self.loop.call_later(FIRST_REQUEST_S, self._close_if_silent)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called once."""
        self._patience.cancel()
        super().connection_lost(exc)

    def _close_if_silent(self) -> None:
        if self.cycle is None:
            self.transport.close()


async def _whole(receive: Receive) -> Receive:
    """Read the body, which the door has bounded, at once, and hand it on in one piece.

    Else each piece of 64 KiB passes through tasks of every middleware: a tenth of a second for a large object. Of a
    body that breaks off only the disconnect is handed on.
    """
    parts: list[bytes] = []
    while True:
        event = await receive()
        if event["type"] != "http.request":
            break
        parts.append(event.get("body", b""))
        if not event.get("more_body", False):
            event = {"type": "http.request", "body": b"".join(parts), "more_body": False}
            break
    ready = [event]

    async def once() -> AsgiEvent:
        return ready.pop() if ready else await receive()

    return once


async def _refuse(send: Send, status: int, code: str = "") -> None:
    headers = [(b"content-length", b"0"), *([(REFUSED, code.encode("ascii"))] if code else [])]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _certificate(scope: AsgiEvent) -> SiteCertificate:
    return _read(scope["state"].get(PEER) or b"")


@lru_cache(maxsize=256)
def _read(der: bytes) -> SiteCertificate:
    return read_site_certificate(der)


def _claimed(scope: AsgiEvent) -> str:
    """The name in the certificate of a refused caller: our CA signed it, so it is a name that we gave."""
    try:
        return _certificate(scope).site
    except ResidencyError:
        return ""


def _decoded(value: bytes) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error:
        return b""


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

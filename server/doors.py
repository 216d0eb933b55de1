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

from compliance.connections import Shares
from compliance.errors import EnvironmentFault, Refused, ResidencyError
from compliance.pki import SiteCertificate, read_site_certificate
from server.calls import CONTROL, DOOR, FLEET, OK, POLL, RUNTIME
from server.connections import MOST_OF_ONE, PEER
from server.fleet_answers import own_answer

if TYPE_CHECKING:
    from server.calls import CallLog
    from server.members import Members

AsgiEvent: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[AsgiEvent]]
Send: TypeAlias = Callable[[AsgiEvent], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[AsgiEvent, Receive, Send], Awaitable[None]]

MAX_REQUEST_BYTES: Final = 16 * 2**20  # Flower sends arrays in pieces of 5 MiB, and a bundle has at most 10 MiB
MAX_HEAD_BYTES: Final = 64 * 2**10  # of any fleet call but push-object; the largest honest one is an error
BODY_S: Final = 60.0  # until the whole of a site's request has arrived: 16 MiB at 2.3 Mbit/s
REFUSED: Final = b"residency-refused"  # header of a refusal: its code

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
    Content-Length, 413 beyond `max_request_bytes`, 408 for a body that does not arrive within `body_s` seconds, 403
    with the header residency-refused for whoever may not take part or asks for what it may not. 403 and 408
    end the connection.
    Flower reads a whole request into memory before it knows who sent it, so the bound stands here. It also chooses what
    to authenticate by the URL's path, and Starlette makes the URL with the Host header: where it does not check that
    header itself (older versions), a host such as "x?" leads past Flower's authentication. Deny by default; lifespan
    events pass.
    """

    body_s: float | None = None

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

    def check(self, method: str, body: bytes) -> None:
        """Judge what is asked for. Raises ResidencyError for what nobody may ask."""

    def most_bytes(self, path: str) -> int:
        """The longest body of a request to `path`."""
        del path
        return self._max

    def arrives(self, certificate: bytes) -> Callable[[], None] | None:
        """Take in a connection whose peer showed `certificate` (DER); what to call when it ends. None: it is cut."""
        del certificate
        return _nothing

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
        return 413 if int(lengths[0]) > self.most_bytes(scope["path"]) else None

    async def _serve(self, call: tuple[str, str, str], scope: AsgiEvent, receive: Receive, send: Send) -> None:
        status, length = 0, 0

        async def watched(event: AsgiEvent) -> None:
            nonlocal status, length
            status = event.get("status", status)
            length += len(event.get("body", b""))
            await send(event)

        try:
            async with asyncio.timeout(self.body_s):
                body = await _whole(receive)
        except TimeoutError:
            self._calls.note(*call, "http-408")
            await _refuse(send, 408)
            return
        try:
            self.check(call[1], body or b"")
        except ResidencyError as e:
            self._calls.note(*call, e.code)
            await _refuse(send, 403, e.code)
            return
        try:
            await self._app(scope, _again(body, receive), watched)
        finally:
            self._calls.note(*call, outcome(call[1], status, length))


def outcome(method: str, status: int, length: int) -> str:
    """How a call ended, as the log has it: "ok", "poll" for mere looking, or its HTTP status."""
    if status != 200:
        return f"http-{status}" if status else "aborted"
    return POLL if method in _LOOKS or (method in _ASKS and not length) else OK


class FleetDoor(Door):
    """The public door: the fleet interface for members, each with its own certificate and its own node key.

    `key_header` is where Flower reads the node key with which it authenticates a request. One certified key has at most
    `MOST_OF_ONE` connections, and all whom the trust file refuses have so many together.
    """

    body_s = BODY_S

    def __init__(self, app: AsgiApp, calls: CallLog, members: Members, key_header: str) -> None:
        super().__init__(app, calls)
        self._members = members
        self._shares = Shares[bytes](MOST_OF_ONE)
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

    def check(self, method: str, body: bytes) -> None:
        """A node pushes answers of its own. Raises Refused RSD-6221 for anything else.

        Flower authenticates the node that the request names, but takes the author from the message in it, and a message
        that answers nothing for an instruction by the server: without this, one site could instruct another.
        """
        if method == "push-messages" and not own_answer(body):
            raise Refused(
                "RSD-6221",
                "a node pushed something else than one answer of its own",
                rule="sites answer the server; only the server gives instructions",
                found="another author or addressee, no question that is answered, or not one message",
                limit="one answer of the calling node to the server",
                next="run the same Residency version on both sides; otherwise ask the site what it runs",
            )

    def most_bytes(self, path: str) -> int:
        """Only an object is large."""
        return self._max if path == f"{_FLEET}push-object" else min(self._max, MAX_HEAD_BYTES)

    def arrives(self, certificate: bytes) -> Callable[[], None] | None:
        """A place for the connection; without one left it is noted and cut, before the peer has asked for anything."""
        site, share = "", b""
        try:
            shown = _read(certificate)
            site = shown.site
            self._members.site_of(shown)
            share = shown.public_key
        except ResidencyError:
            pass  # told at the first request; until then all such connections share one share
        leave = self._shares.enter(share)
        if leave is None:
            self._calls.note(DOOR, "connection", site, "RSD-6222")
        return leave


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


async def _whole(receive: Receive) -> bytes | None:
    """Read the body, which the door has bounded, at once; None for one that breaks off.

    Handed on in pieces of 64 KiB, each would pass through tasks of every middleware: a tenth of a second for a large
    object.
    """
    parts: list[bytes] = []
    while True:
        event = await receive()
        if event["type"] != "http.request":
            return None
        parts.append(event.get("body", b""))
        if not event.get("more_body", False):
            return b"".join(parts)


def _again(body: bytes | None, receive: Receive) -> Receive:
    """What hands on the whole body in one piece, or of one that broke off only the disconnect."""
    event: AsgiEvent = {"type": "http.request", "body": body, "more_body": False}
    ready = [{"type": "http.disconnect"} if body is None else event]

    async def once() -> AsgiEvent:
        return ready.pop() if ready else await receive()

    return once


def _nothing() -> None:
    """Nothing to do."""


async def _refuse(send: Send, status: int, code: str = "") -> None:
    headers = [(b"content-length", b"0")]
    if status in {403, 408}:  # not for a mistake in form: closed while its body still comes, the peer misses the reason
        headers.append((b"connection", b"close"))
    if code:
        headers.append((REFUSED, code.encode("ascii")))
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

"""What stands before every page: the method, the host, the length, the login, the headers; and after every fault."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from compliance.desk.login import LOGIN, Login
from compliance.errors import InputError, InternalBug, Refused, ResidencyError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Answer = Callable[[ResidencyError, int], tuple[bytes, str]]
"""The page about an error: (error, status) -> bytes and media type."""

_LOG: Final = logging.getLogger("residency.desk")
_LONGEST_PATH, _LONGEST_QUERY = 300, 1500  # bytes
_OPEN: Final = frozenset({LOGIN, "/static/desk.css", "/static/desk.svg"})  # what the login page needs
_FROM_ELSEWHERE: Final = frozenset({"/", LOGIN})  # what a page of another site may lead to
_POLICY: Final = (
    "default-src 'none'; style-src 'self'; img-src 'self'; font-src 'self'; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'"
)
_DRAWN: Final = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"  # an image, which styles itself
_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-embedder-policy", b"require-corp"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), interest-cohort=()"),
    (b"cache-control", b"no-store"),
)


class Guard:
    """Around the application. `hosts`: the only values of Host that are answered; None: any, behind a login."""

    def __init__(self, app: App, hosts: frozenset[str] | None, login: Login | None, answer: Answer) -> None:
        self._app, self._hosts, self._login, self._answer = app, hosts, login, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await self._app(scope, receive, send)
            return
        refused = self._refused(scope)
        if refused is not None:
            await self._refuse(*refused, send)
            return
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = _with_headers(message.get("headers", []))
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception as e:  # noqa: BLE001 - the last line of defence: no reader sees a traceback
            frame = traceback.extract_tb(e.__traceback__)[-1]
            _LOG.error("RSD-7000: a bug: %s at %s:%s", type(e).__name__, frame.filename, frame.lineno)
            if not started:
                bug = InternalBug("RSD-7000", "a bug in the desk ended this page", next="report it")
                await self._refuse(bug, 500, {}, send)

    def _refused(self, scope: Scope) -> tuple[ResidencyError, int, dict[bytes, bytes]] | None:
        headers = _Headers(scope)
        method, path = scope["method"], scope["path"]
        may_post = self._login is not None and path == LOGIN
        if method not in {"GET", "HEAD"} and not (method == "POST" and may_post):
            return _method(method), 405, {b"allow": b"GET, HEAD"}
        if len(scope.get("raw_path") or path.encode()) > _LONGEST_PATH or len(scope["query_string"]) > _LONGEST_QUERY:
            return _too_long(), 414, {}
        stranger = self._stranger(headers, path)
        if stranger is not None:
            return (*stranger, {})
        if self._login is None or path in _OPEN:
            return None
        if self._login.knows(headers.one(b"authorization"), headers.one(b"cookie")):
            return None
        wants_page = "text/html" in headers.one(b"accept")
        return _logged_out(), 303 if wants_page else 401, {b"location": LOGIN.encode()} if wants_page else {}

    def _stranger(self, headers: _Headers, path: str) -> tuple[ResidencyError, int] | None:
        """What a browser says that another site had it ask."""
        host, site = headers.one(b"host"), headers.one(b"sec-fetch-site")
        if self._hosts is not None and host not in self._hosts:
            return _host(host, self._hosts), 421
        if site in {"cross-site", "same-site"} and path not in _FROM_ELSEWHERE:
            return _elsewhere(site), 403
        return None

    async def _refuse(self, error: ResidencyError, status: int, more: dict[bytes, bytes], send: Send) -> None:
        data, media = self._answer(error, status)
        headers = [(b"content-type", media.encode()), (b"content-length", str(len(data)).encode()), *more.items()]
        await send({"type": "http.response.start", "status": status, "headers": _with_headers(headers)})
        await send({"type": "http.response.body", "body": data})


class _Headers:
    def __init__(self, scope: Scope) -> None:
        self._rows = scope["headers"]

    def one(self, name: bytes) -> str:
        """The value of a header that may stand once; "" where it stands not at all, or twice."""
        found = [value for key, value in self._rows if key == name]
        return found[0].decode("latin-1") if len(found) == 1 else ""


def _with_headers(given: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    drawn = any(name == b"content-type" and value.startswith(b"image/svg") for name, value in given)
    policy = (_DRAWN if drawn else _POLICY).encode()
    return [*given, *_HEADERS, (b"content-security-policy", policy)]


def _method(method: str) -> Refused:
    return Refused(
        "RSD-9183", "the desk only shows", rule="nothing on the desk changes anything", found=method[:20],
        limit="GET, HEAD", next="use the command line where something is to be done",
    )  # fmt: skip


def _too_long() -> InputError:
    return InputError(
        "RSD-9185", "the address is too long", rule="requests are bounded", found="a longer one",
        limit=f"{_LONGEST_PATH} bytes, and {_LONGEST_QUERY} after the question mark", next="ask for less",
    )  # fmt: skip


def _host(found: str, hosts: frozenset[str]) -> Refused:
    return Refused(
        "RSD-9184", "this is not the desk's address", rule="no other site may lend the desk its name",
        found=found[:80], limit=", ".join(sorted(hosts)), next="open the address that the command printed",
    )  # fmt: skip


def _elsewhere(found: str) -> Refused:
    return Refused(
        "RSD-9191", "a page of another site asked for this", rule="another site may lead to the overview alone",
        found=found, limit="same-origin, or an address that a reader typed", next="begin at the overview",
    )  # fmt: skip


def _logged_out() -> Refused:
    return Refused(
        "RSD-9186", "the desk is shown to who holds its token", rule="anything but loopback needs a login",
        found="no valid login", limit="the token in the token file", next=f"log in at {LOGIN}",
    )  # fmt: skip

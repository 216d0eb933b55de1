"""The desk as an ASGI application: addresses, pages and what a fault looks like."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from compliance.clock import now
from compliance.desk import pages_flow, pages_logs, pages_out, pages_study, render
from compliance.desk.ask import Ask, File, Page, not_found
from compliance.desk.checking import Live, Verdict
from compliance.desk.guard import App, Guard
from compliance.desk.login import LOGIN, Login
from compliance.desk.model import Desk
from compliance.errors import InputError, Refused, ResidencyError
from compliance.release.report import NOT_COVERED

_STATUS: Final[Mapping[str, int]] = {"RSD-9180": 404, "RSD-9185": 400, "RSD-9190": 503}
_HTML: Final = "text/html; charset=utf-8"
_MOST_FORM: Final = 4096  # bytes
_FORM_S: Final = 10.0  # until a form is there
_PAGES: Final[Mapping[str, Callable[[Desk, Ask], Page | File]]] = {
    "/": pages_study.overview,
    "/studies/{digest}": pages_study.study,
    "/search": pages_study.search,
    "/transfers": pages_flow.transfers,
    "/decisions": pages_flow.decisions,
    "/logs/{log}/decisions/{index}": pages_flow.decision,
    "/logs/{log}/decisions/{index}/replay": pages_flow.replay,
    "/rounds": pages_flow.rounds,
    "/rounds/{place}/{round}": pages_flow.round_,
    "/privacy": pages_flow.privacy,
    "/logs": pages_logs.logs,
    "/logs/{log}": pages_logs.log_,
    "/logs/{log}/entries": pages_logs.entries,
    "/logs/{log}/entries/{index}": pages_logs.entry,
    "/charts/transfers.svg": pages_out.transfers_chart,
    "/charts/privacy.svg": pages_out.privacy_chart,
    "/logs/{log}/entries/{index}/proof": pages_logs.proof,
    "/evidence": pages_out.evidence,
    "/evidence/{regime}/{study}": pages_out.dossier,
    "/evidence/{regime}/{study}/{form}": pages_out.dossier_file,
    "/exports/{log}/{form}": pages_out.export,
    "/verify": pages_out.verify,
}


def app(desk: Desk, *, hosts: frozenset[str] | None = None, login: Login | None = None) -> App:
    """The application. `hosts`: the values of Host that are answered; None answers any, so it wants a `login`."""
    own = _Own(desk, login)
    routes = [Route(path, _shown(desk, make)) for path, make in _PAGES.items()]
    routes += [Route("/verify/{place}", own.verify), Route("/static/{name}", own.static)]
    if login is not None:
        routes.append(Route(LOGIN, own.login, methods=["GET", "POST"]))
    faults = {ResidencyError: own.fault, HTTPException: own.fault, 500: own.fault}
    made = Starlette(routes=routes, exception_handlers=faults)
    made.router.redirect_slashes = False
    return Guard(made, hosts, login, own.answer)


def _shown(desk: Desk, make: Callable[[Desk, Ask], Page | File]) -> Callable[[Request], Response]:
    def show(request: Request) -> Response:
        made = make(desk, _ask(request))
        if isinstance(made, Page):
            return Response(render.html(made, desk), media_type=_HTML)
        return Response(made.data, media_type=made.media, headers=made.headers())

    return show


def _ask(request: Request) -> Ask:
    return Ask(dict(request.path_params), dict(request.query_params))


class _Own:
    """What is no plain page: the running check, the login, the stylesheet, faults."""

    def __init__(self, desk: Desk, login: Login | None) -> None:
        self._desk, self._login = desk, login
        self._checking, self._guessing = threading.Semaphore(1), asyncio.Lock()
        self._static = render.static_files()

    def verify(self, request: Request) -> Response:
        """A check that runs while it is read. One at a time: it costs a processor for some seconds."""
        number = _ask(request).number("place")
        place = next((p for p in self._desk.places if p.number == number), None)
        if place is None:
            raise not_found("such place")
        if not self._checking.acquire(blocking=False):
            raise Refused(
                "RSD-9190", "a check is running", rule="one check at a time", found="another reader's check",
                limit="one", next="open the page again in some seconds",
            )  # fmt: skip

        def ended(verdict: Verdict) -> None:
            self._desk.rechecked[number] = verdict
            self._checking.release()

        live = Live(place, self._desk.anchor, now(), ended)
        page = Page("verifying.html", f"Check of {place.name}", "verify", {"live": live, "not_covered": NOT_COVERED},
                    (*pages_study.TOP, ("Verify", "/verify")))  # fmt: skip
        return StreamingResponse(render.stream(page, self._desk), media_type=_HTML)

    def static(self, request: Request) -> Response:
        """The stylesheets and the icon."""
        name = _ask(request).path["name"]
        if name not in self._static:
            raise not_found(f"file {name[:40]!r}")
        data, media = self._static[name]
        return Response(data, media_type=media)

    async def login(self, request: Request) -> Response:
        """The form, and the answer to it: a cookie, which is all that a POST ever changes."""
        assert self._login is not None  # noqa: S101 - the route exists only with a login
        if request.method != "POST":
            return self._form(200, None)
        if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return self._form(
                403, Refused("RSD-9191", "another site sent this form", next="open the login page itself")
            )
        token = await _token(request)
        if self._login.right(token):  # before the others' wrong ones: nobody who guesses keeps a reader out
            answer = RedirectResponse("/", status_code=303)
            answer.headers["set-cookie"] = self._login.cookie()
            return answer
        async with self._guessing:  # one after the other, a second for each
            await asyncio.sleep(1)
        return self._form(401, Refused("RSD-9186", "this is not the token", next="copy it from the token file"))

    def _form(self, status: int, error: ResidencyError | None) -> Response:
        page = Page("login.html", "Log in", "", {"error": error})
        return Response(render.html(page, None), status_code=status, media_type=_HTML)

    async def fault(self, request: Request, error: Exception) -> Response:
        """The page about what went wrong."""
        found, status = _as_error(error, request.url.path)
        data, media = self.answer(found, status)
        return Response(data, status_code=status, media_type=media)

    def answer(self, error: ResidencyError, status: int) -> tuple[bytes, str]:
        """The page about an error; without the menu where nobody is logged in."""
        page = Page("fault.html", HTTPStatus(status).phrase, "", {"error": error, "status": status})
        return render.html(page, None if self._login else self._desk).encode(), _HTML


async def _token(request: Request) -> str:
    data = b""
    try:
        async with asyncio.timeout(_FORM_S):
            async for part in request.stream():
                data += part
                if len(data) > _MOST_FORM:
                    return ""
    except TimeoutError:
        return ""
    return parse_qs(data.decode("latin-1"), max_num_fields=4).get("token", [""])[0].strip()


def _as_error(error: Exception, path: str) -> tuple[ResidencyError, int]:
    if isinstance(error, ResidencyError):
        return error, _STATUS.get(error.code, 500 if error.exit_code in {7, 70} else 422)
    if isinstance(error, HTTPException) and error.status_code == 404:
        return not_found(f"page {path[:80]}"), 404
    if isinstance(error, HTTPException):
        return InputError("RSD-9185", HTTPStatus(error.status_code).phrase, next="ask for less"), error.status_code
    return InputError("RSD-7000", "a bug in the desk ended this page", next="report it"), 500

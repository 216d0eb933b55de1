"""What the desk refuses: to change anything, another site's name, what is not shown, and guesses at its token."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import threading
from pathlib import Path

import httpx
import pytest

from compliance.desk import pages_study
from compliance.desk.app import _PAGES, app
from compliance.desk.checking import Live
from compliance.desk.login import Login, read_token
from compliance.desk.serve import check_door, hosts_of, is_loopback
from compliance.errors import ResidencyError
from tests.desk_world import HOSTS, Reader, desk_of, marked_bundle, write

TOKEN = "a" * 16 + "b" * 16 + "c" * 16


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    return desk_of(write(tmp_path_factory.mktemp("desk") / "bundle", marked_bundle()))


@pytest.fixture(scope="module")
def reader(desk):
    return Reader(app(desk, hosts=HOSTS))


@pytest.fixture
def locked(desk):
    return Reader(app(desk, login=Login(TOKEN, secure=False)), host="desk.example:8443")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
@pytest.mark.parametrize("page", ["/", "/verify/1", "/login", "/exports/1/csv"])
def test_no_method_but_get_and_head_is_answered(reader, method, page):
    answer = reader.send(method, page, content=b"q=1")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"
    assert "RSD-9183" in answer.text


def test_no_page_takes_another_method(desk):
    assert all(path.startswith("/") for path in _PAGES)
    before = desk.books.all("SELECT count(*), sum(sent) FROM decision, (SELECT 1)")
    with pytest.raises(Exception, match="readonly"):
        desk.books.all("DELETE FROM decision")
    assert desk.books.all("SELECT count(*), sum(sent) FROM decision, (SELECT 1)") == before


def test_reading_changes_no_byte_and_no_name(tmp_path):
    folder = write(tmp_path / "bundle", marked_bundle())

    def seen():
        return {p: (p.stat().st_mtime_ns, p.stat().st_mode, p.read_bytes()) for p in tmp_path.rglob("*") if p.is_file()}

    before = seen()
    reader = Reader(app(desk_of(folder), hosts=HOSTS))
    for page in ("/", "/verify/1", "/exports/1/jsonl", "/logs/1/entries/3/proof"):
        assert reader.get(page).status_code == 200
    assert seen() == before


@pytest.mark.parametrize(
    "host", ["evil.example", "desk.test.evil.example", "desk.test:81", "", "127.0.0.1", "DESK.TEST@evil.example"]
)
def test_another_host_is_refused(reader, host):
    answer = reader.get("/", headers={"host": host})
    assert answer.status_code == 421
    assert "RSD-9184" in answer.text
    assert "thyroid-one" not in answer.text


def test_two_hosts_are_none(reader):
    assert reader.get("/", headers=[("host", "desk.test"), ("host", "evil.example")]).status_code == 421


def test_the_port_of_the_scheme_may_be_left_out():
    assert "127.0.0.1" in hosts_of(80, tls=False)
    assert "localhost" in hosts_of(443, tls=True)
    for port, tls in ((8080, False), (443, False), (80, True)):
        assert hosts_of(port, tls=tls) == {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")}


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize("page", ["/verify/1", "/exports/1/csv", "/search?q=site-e", "/static/desk.css", "/nope"])
def test_another_site_asks_for_nothing_but_the_overview(reader, page, site):
    answer = reader.get(page, headers={"sec-fetch-site": site})
    assert answer.status_code == 403
    assert "RSD-9191" in answer.text
    assert "site-e (CN)" not in answer.text
    assert reader.get("/", headers={"sec-fetch-site": site}).status_code == 200


def test_another_site_starts_no_check(desk, monkeypatch):
    started = []
    monkeypatch.setattr("compliance.desk.app.Live", lambda *given: started.append(given))
    Reader(app(desk, hosts=HOSTS)).get("/verify/1", headers={"sec-fetch-site": "cross-site"})
    assert started == []


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_its_own_pages_and_typed_addresses_are_answered(reader, site):
    assert reader.get("/verify", headers={"sec-fetch-site": site}).status_code == 200


def test_a_reader_who_comes_by_a_link_gets_the_login_page(locked):
    sent = {"accept": "text/html", "sec-fetch-site": "cross-site"}
    first = locked.get("/", headers=sent)
    assert (first.status_code, first.headers["location"]) == (303, "/login")
    assert locked.get("/login", headers=sent).status_code == 200


@pytest.mark.parametrize(
    "page",
    ["/", "/nope", "/logs/99", "/static/desk.css", "/charts/transfers.svg", "/verify/1", "/exports/1/csv",
     "/decisions?page=x"],
)  # fmt: skip
def test_every_answer_carries_the_headers(reader, page):
    headers = reader.get(page).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in policy
    assert "script" not in policy
    assert "unsafe-inline" not in policy or headers["content-type"] == "image/svg+xml"
    assert "server" not in headers


@pytest.mark.parametrize(
    "page",
    [
        "/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/logs/..%2f..%2fetc%2fpasswd",
        "/logs/1/entries/%2e%2e", "/studies/..%2f..%2ftrust.json", "/evidence/..%2fgdpr/x/json", "/exports/1/..%2fkey",
        "/logs/", "/verify/%00", "/rounds/1/99999", "/logs/01x", "/logs/-1", "/logs/1/entries/999999999999",
        "/logs/1e1", "/logs/٣", "/rounds/2/1", "/logs/1/decisions/0", "/charts/privacy.svg?study=../x",
    ],
)  # fmt: skip
def test_names_are_looked_up_and_never_opened(reader, page):
    answer = reader.get(page)
    assert answer.status_code in {404, 422}
    assert "RSD-9180" in answer.text
    assert "root:" not in answer.text


@pytest.mark.parametrize(
    ("page", "status"),
    [("/decisions?page=0", 400), ("/decisions?page=-1", 400), ("/decisions?page=1000001", 400),
     ("/decisions?page=٣", 400),
     ("/decisions?rule=" + "x" * 201, 400), ("/search?q=" + "x" * 1600, 414), ("/" + "x" * 400, 414),
     ("/decisions?rule=' OR 1=1 --", 200), ("/search?q=%25", 200), ("/decisions?page=99999", 200)],
)  # fmt: skip
def test_what_is_asked_is_bounded(reader, page, status):
    answer = reader.get(page)
    assert answer.status_code == status
    assert "site-e (CN)" not in answer.text


def test_a_bug_shows_a_code_and_no_traceback(desk, monkeypatch, caplog):
    def broken(*_):
        raise KeyError("secret of the house")

    monkeypatch.setitem(_PAGES, "/", broken)
    monkeypatch.setattr(pages_study, "overview", broken)
    answer = Reader(app(desk, hosts=HOSTS)).get("/")
    assert answer.status_code == 500
    assert "RSD-7000" in answer.text
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    assert [r.levelname for r in caplog.records if r.name == "residency.desk"] == ["ERROR"]
    assert "secret" not in caplog.text


def test_one_check_runs_at_a_time(desk, monkeypatch):
    started, goes_on, run = threading.Event(), threading.Event(), Live._run

    def slow(self, *given):
        started.set()
        goes_on.wait(20)
        run(self, *given)

    monkeypatch.setattr(Live, "_run", slow)
    made, answers = app(desk, hosts=HOSTS), []
    first = threading.Thread(target=lambda: answers.append(Reader(made).get("/verify/1")))
    first.start()
    assert started.wait(20)
    second = Reader(made).get("/verify/1")
    assert second.status_code == 503
    assert "RSD-9190" in second.text
    goes_on.set()
    first.join()
    assert "VERIFIED" in answers[0].text
    assert Reader(made).get("/verify/1").status_code == 200


def test_a_check_that_breaks_off_says_so_and_frees_its_place(desk, monkeypatch):
    def broken(*_):
        raise KeyError("x")

    monkeypatch.setattr("compliance.desk.checking.check", broken)
    reader = Reader(app(desk, hosts=HOSTS))
    for _ in range(2):
        text = reader.get("/verify/1").text
        assert "FALSE: it broke off" in text
        assert "VERIFIED" not in text


@pytest.mark.parametrize(
    "page", ["/", "/logs/1", "/search?q=site-e", "/exports/1/csv", "/charts/transfers.svg", "/static/dossier.css"]
)
def test_without_the_token_nothing_is_shown(locked, page):
    answer = locked.get(page)
    assert answer.status_code == 401
    assert "RSD-9186" in answer.text
    assert "thyroid" not in answer.text
    seen = locked.get(page, headers={"accept": "text/html"})
    assert (seen.status_code, seen.headers["location"]) == (303, "/login")
    assert "thyroid" not in seen.text


def test_the_token_lets_in_by_header_and_by_cookie(locked):
    assert locked.get("/", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    answer = locked.send("POST", "/login", data={"token": TOKEN})
    assert answer.status_code == 303
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly; SameSite=Strict" in cookie
    assert TOKEN not in cookie
    assert locked.get("/", headers={"cookie": cookie.partition(";")[0]}).status_code == 200
    assert "; Secure" in Login(TOKEN, secure=True).cookie()


@pytest.mark.parametrize("token", ["", "b" * 48, TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "ä" * 48])
def test_a_wrong_token_costs_a_second_and_gives_no_cookie(locked, token, monkeypatch):
    waits = []

    async def sleep(seconds):
        waits.append(seconds)

    monkeypatch.setattr("compliance.desk.app.asyncio.sleep", sleep)
    answer = locked.send("POST", "/login", data={"token": token})
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert waits == [1]
    assert locked.get("/", headers={"authorization": f"Bearer {token}".encode()}).status_code == 401


def test_who_guesses_keeps_no_reader_out(desk):
    async def asked():
        transport = httpx.ASGITransport(app=app(desk, login=Login(TOKEN, secure=False)))
        async with httpx.AsyncClient(transport=transport, base_url="http://desk.example") as client:
            wrong = [asyncio.create_task(client.post("/login", data={"token": "b" * 48})) for _ in range(4)]
            await asyncio.sleep(0.1)
            right = await asyncio.wait_for(client.post("/login", data={"token": TOKEN}), 2)
            for guess in wrong:
                guess.cancel()
            await asyncio.gather(*wrong, return_exceptions=True)
            return right.status_code

    assert asyncio.run(asked()) == 303


def test_forged_cookies_are_refused(locked):
    good = locked.send("POST", "/login", data={"token": TOKEN}).headers["set-cookie"].partition(";")[0]
    name, _, value = good.partition("=")
    until, _, signature = value.partition(".")
    later = str(int(until) + 3600)
    other = hmac.new(TOKEN.encode(), later.encode(), hashlib.sha256).hexdigest()
    for forged in (f"{later}.{signature}", f"{later}.{other}", f"{until}.", f"{until}", ".",
                   f"{until}.{signature[:-1]}0x",
                   TOKEN, f"{until}.{signature}.x", "1.2", "\u0661.x"):  # fmt: skip
        assert locked.get("/", headers={"cookie": f"{name}={forged}".encode()}).status_code == 401, forged
    assert (
        Reader(app(desk_of(), login=Login(TOKEN, secure=False))).get("/", headers={"cookie": good}).status_code == 401
    )
    assert locked.get("/", headers={"cookie": good}).status_code == 200


def test_a_cookie_ends(monkeypatch):
    from datetime import timedelta

    from compliance import clock

    login = Login(TOKEN, secure=True)
    cookie = login.cookie().partition(";")[0]
    assert login.knows("", cookie)
    later = clock.now() + timedelta(hours=8, seconds=1)
    monkeypatch.setattr("compliance.desk.login.now", lambda: later)
    assert not login.knows("", cookie)


@pytest.mark.parametrize("site", ["cross-site", "same-site", "none"])
def test_another_site_sends_no_login(locked, site):
    answer = locked.send("POST", "/login", data={"token": TOKEN}, headers={"sec-fetch-site": site})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


def test_a_login_form_has_an_end(locked):
    assert locked.send("POST", "/login", content=b"token=" + b"x" * 100_000).status_code == 401
    assert "token" not in str(locked.get("/login").url)
    assert re.search(r'<input id="token" type="password" name="token"', locked.get("/login").text)


def test_a_login_form_that_does_not_come_is_not_waited_for(locked, monkeypatch):
    monkeypatch.setattr("compliance.desk.app._FORM_S", 0.05)

    async def drip():
        yield b"token="
        await asyncio.sleep(5)
        yield TOKEN.encode()

    assert locked.send("POST", "/login", content=drip()).status_code == 401


def test_only_loopback_does_without_token_and_tls():
    for host in ("127.0.0.1", "::1", "[::1]", "localhost", "127.8.8.8"):
        check_door(host, token=False, tls=False)
        assert is_loopback(host)
    for host in ("0.0.0.0", "::", "192.0.2.7", "desk.example", ""):  # noqa: S104 - this is the test
        for token, tls in ((False, False), (True, False), (False, True)):
            with pytest.raises(ResidencyError) as caught:
                check_door(host, token=token, tls=tls)
            assert caught.value.code == "RSD-9188"
        check_door(host, token=True, tls=True)


@pytest.mark.parametrize(
    ("text", "mode"),
    [(TOKEN, 0o644), (TOKEN, 0o640), ("short", 0o600), ("a b" * 20, 0o600), ("ä" * 40, 0o600), ("x" * 513, 0o600)],
)
def test_a_token_file_is_a_secret(tmp_path: Path, text, mode):
    path = tmp_path / "token"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(ResidencyError) as caught:
        read_token(path)
    assert caught.value.code == "RSD-9187"


def test_a_good_token_file_is_read(tmp_path: Path):
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    assert read_token(path) == TOKEN

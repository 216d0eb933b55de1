"""A real Chromium, and one desk for all tests: a bundle whose study is full of markup, and a tampered copy beside it.

On a machine without a browser these tests are skipped, in CI they fail.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from compliance.desk import serve
from compliance.desk.app import app
from compliance.desk.model import Desk
from compliance.desk.pages_out import draw
from tests.desk_world import desk_of, marked_bundle, with_changed_entry, write
from tests.lacking import need

BROWSER = "/usr/bin/chromium"
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync"]  # fmt: skip


@pytest.fixture(scope="module")  # its event loop runs as long as it is open: no other file's tests may meet it
def chromium() -> Iterator[Browser]:
    """The browser of the system."""
    need(BROWSER)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield browser
        browser.close()


@dataclass(frozen=True)
class Served:
    """A desk and where it is."""

    desk: Desk
    address: str


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The desk on a port of this machine."""
    folder = tmp_path_factory.mktemp("browser")
    desk = desk_of(
        write(folder / "bundle", marked_bundle()), write(folder / "tampered", with_changed_entry(marked_bundle()))
    )
    draw(desk)
    with serve.bind("127.0.0.1", 0) as door:
        server = serve.server(app(desk, hosts=serve.hosts_of(door.getsockname()[1], tls=False)))
        thread = threading.Thread(target=lambda: server.run(sockets=[door]))
        thread.start()
        while not server.started:
            time.sleep(0.02)
        yield Served(desk, serve.address_of("127.0.0.1", door, tls=False).rstrip("/"))
        server.should_exit = True
        thread.join(timeout=20)


@dataclass
class Watched:
    """A page of the browser, and what it said and asked for."""

    page: Page
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def look(chromium: Browser, served: Served) -> Iterator[object]:
    """Opens a page of the desk; at the end nothing was said on the console, and nobody else was asked for anything."""
    opened = []

    def open_page(path: str = "/", width: int = 1280, theme: str = "light") -> Page:
        size = {"width": width, "height": 800}
        context = chromium.new_context(viewport=size, color_scheme=theme, base_url=served.address)  # type: ignore[arg-type]
        watched = Watched(context.new_page())
        watched.page.on("console", lambda m: watched.said.append(m.text))
        watched.page.on("pageerror", lambda e: watched.said.append(str(e)))
        watched.page.on("request", lambda r: watched.asked.append(r.url))
        opened.append(watched)
        watched.page.goto(path)
        return watched.page

    yield open_page
    for watched in opened:
        watched.page.context.close()
        assert watched.said == []
        assert [url for url in watched.asked if not url.startswith(f"{served.address}/")] == []

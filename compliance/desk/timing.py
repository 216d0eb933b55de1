"""How long pages take to make: asked of the application itself, without a network."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from compliance.desk.app import app
from compliance.desk.guard import App, Message, Scope
from compliance.desk.model import Desk, make
from compliance.desk.pages_out import draw
from compliance.desk.sources import read_places
from compliance.trust.root import Anchor


def page_p95_ms(paths: Sequence[Path], anchor: Anchor, rounds: int = 5) -> float:
    """Of all kinds of pages over what is at `paths`, asked `rounds` times each: 95 % took at most so long."""
    desk = make(read_places(paths), anchor)
    draw(desk)
    times = sorted(page_times_ms(desk, rounds))
    return times[min(len(times) - 1, len(times) * 95 // 100)]


def page_times_ms(desk: Desk, rounds: int) -> list[float]:
    """Milliseconds from the request to the last byte. Raises RuntimeError for a page that is not found."""
    made = app(desk)
    return [asyncio.run(_ask(made, address)) for _ in range(rounds) for address in _addresses(desk)]


def _addresses(desk: Desk) -> list[str]:
    """Every kind of page but checks and downloads, lists at their beginning and deep inside."""
    found = ["/", "/transfers", "/decisions", "/decisions?outcome=deny", "/rounds", "/privacy", "/logs", "/evidence"]
    found += ["/verify", "/search?q=decision", "/search?q=2026", "/charts/transfers.svg"]
    found += [f"/studies/{digest}" for digest in list(desk.studies)[:3]]
    for log in list(desk.logs.values())[:3]:
        last, deep = max(log.view.size - 1, 0), max(len(log.view.entries) // 100, 1)
        found += [f"/logs/{log.number}", f"/logs/{log.number}/entries", f"/logs/{log.number}/entries?page={deep}"]
        found += [f"/logs/{log.number}/entries/{i}" for i in {0, last // 2, last}]
    decided = desk.books.all("SELECT log, idx FROM decision ORDER BY log, idx LIMIT 1")
    found += [f"/logs/{r['log']}/decisions/{r['idx']}{end}" for r in decided for end in ("", "/replay")]
    pages = max((desk.books.one("SELECT count(*) FROM decision") or 0) // 100, 1)
    return [*found, f"/decisions?page={pages}"]


async def _ask(made: App, address: str) -> float:
    path, _, query = address.partition("?")
    status = 0
    scope: Scope = {
        "type": "http", "http_version": "1.1", "method": "GET", "scheme": "http", "path": path, "root_path": "",
        "raw_path": path.encode(), "query_string": query.encode(), "headers": [(b"host", b"desk")],
        "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1),
    }  # fmt: skip

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)

    began = time.perf_counter()
    await made(scope, receive, send)
    if status != 200:
        raise RuntimeError(f"{address} was answered with {status}")
    return (time.perf_counter() - began) * 1000

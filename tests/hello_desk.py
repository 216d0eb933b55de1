"""The desk's server with nothing behind it: whoever gets through to it is told hello."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compliance.desk.serve import bind, server


async def _hello(scope: Any, receive: Any, send: Any) -> None:
    del scope, receive
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


@contextmanager
def served(certificate: Path | None = None, key: Path | None = None, **limits: Any) -> Iterator[tuple[str, int]]:
    """Address and port; `limits` as `server` takes them."""
    with bind("127.0.0.1", 0) as listening:
        made = server(_hello, certificate, key, **limits)
        thread = threading.Thread(target=made.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield listening.getsockname()
        finally:
            made.should_exit = True
            thread.join(10)

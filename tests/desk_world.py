"""What the desk is shown in tests: a bundle whose study is full of markup, with denials, and tampered copies of it."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx

from compliance.canonical import b64decode, b64encode
from compliance.desk.guard import App
from compliance.desk.model import Desk, make
from compliance.desk.sources import read_places
from tests import world as worlds
from tests.world_plan import study_json

MARKUP = (
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> & 'quotes' \u202eesrever"
)
HOSTS = frozenset({"desk.test"})


def _marked(plan: worlds.Plan = worlds.ORDINARY) -> dict[str, Any]:
    study = study_json(plan)
    papers = [{**paper, "title": f"{paper['title']} {MARKUP}"} for paper in study["documents"]]
    return {**study, "description": MARKUP, "controllers": [f"Hospital {MARKUP}"], "documents": papers}


@functools.cache
def marked_world() -> worlds.World:
    """A world whose study holds markup in every field that takes free text. Names take none."""
    with patch.object(worlds, "study_json", _marked):
        return worlds.build_world()


@functools.cache
def marked_bundle() -> Mapping[str, bytes]:
    """Its bundle."""
    return marked_world().bundle


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    """The files below a folder."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def with_changed_entry(files: Mapping[str, bytes], member: str = "site-b") -> dict[str, bytes]:
    """One word of one decision in a log changed: a denial that says ALLOW."""
    name = f"evidence/{member}.json"
    log = json.loads(files[name])
    for row in log["entries"]:
        data = b64decode(row["entry"], "entry")
        if b'"effect":"deny"' in data:
            row["entry"] = b64encode(data.replace(b'"effect":"deny"', b'"effect":"allow"'))
            break
    return {**files, name: json.dumps(log).encode()}


def with_cut_log(files: Mapping[str, bytes], member: str = "site-c") -> dict[str, bytes]:
    """The last entries of a log dropped with their leaf hashes: what is left is sound, and its checkpoint is not."""
    name = f"evidence/{member}.json"
    log = json.loads(files[name])
    kept = len(log["leaf_hashes"]) - 2
    rows = [row for row in log["entries"] if row["index"] < kept]
    return {**files, name: json.dumps({**log, "leaf_hashes": log["leaf_hashes"][:kept], "entries": rows}).encode()}


def desk_of(*folders: Path) -> Desk:
    """A desk over folders of that world."""
    with worlds.stopped_clock(worlds.AT):
        return make(read_places(folders), marked_world().anchor)


class Reader:
    """Asks an application as a browser would, without a network. Remembers nothing from one request to the next."""

    def __init__(self, asked: App, host: str = "desk.test") -> None:
        self._app, self._base = asked, f"http://{host}"

    def get(self, address: str, **more: Any) -> httpx.Response:
        """The answer to a GET."""
        return self.send("GET", address, **more)

    def send(self, method: str, address: str, **more: Any) -> httpx.Response:
        """The answer to a request; `more` as httpx takes it."""

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self._app)
            async with httpx.AsyncClient(transport=transport, base_url=self._base) as client:
                return await client.request(method, address, **more)

        return asyncio.run(ask())

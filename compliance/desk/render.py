"""Templates: everything is escaped, nothing may be undefined, free text keeps its direction to itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from importlib import resources
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from compliance.clock import rfc3339
from compliance.desk.ask import Page, address
from compliance.desk.checking import headline
from compliance.desk.model import Desk
from compliance.release.report import Report

MENU: Final = (
    ("overview", "/", "Overview"),
    ("transfers", "/transfers", "Transfers"),
    ("decisions", "/decisions", "Decisions"),
    ("rounds", "/rounds", "Rounds"),
    ("privacy", "/privacy", "Privacy"),
    ("logs", "/logs", "Logs"),
    ("evidence", "/evidence", "Evidence"),
    ("verify", "/verify", "Verify"),
)


@lru_cache(maxsize=1)
def environment() -> Environment:
    """The templates of this package."""
    made = Environment(
        loader=PackageLoader("compliance.desk"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    made.filters |= {"when": _when, "eps": _eps, "address": address, "pretty": _pretty, "count": _count}
    made.globals |= {"menu": MENU, "headline": headline, "asserted": _asserted}
    return made


def static_files() -> dict[str, tuple[bytes, str]]:
    """Name -> bytes and media type of what pages refer to."""
    own = resources.files("compliance.desk") / "static"
    evidence = resources.files("compliance.dossier") / "templates" / "dossier.css"
    css, svg = "text/css; charset=utf-8", "image/svg+xml"
    return {
        "desk.css": ((own / "desk.css").read_bytes(), css),
        "desk.svg": ((own / "desk.svg").read_bytes(), svg),
        "dossier.css": (evidence.read_bytes(), css),
    }


def html(page: Page, desk: Desk | None) -> str:
    """The whole page."""
    return environment().get_template(page.template).render(_fields(page, desk))


def stream(page: Page, desk: Desk) -> Iterator[str]:
    """The page in parts, each as soon as what it shows is known."""
    yield from environment().get_template(page.template).generate(_fields(page, desk))


def _fields(page: Page, desk: Desk | None) -> Mapping[str, Any]:
    wrong = desk.wrong if desk else []
    shared = {"title": page.title, "area": page.area, "crumbs": page.crumbs, "desk": desk, "wrong": wrong}
    return {**shared, **page.fields}


def _when(when: str | datetime) -> Markup:
    """A time as people read it; all times are UTC, and say so."""
    at = when if isinstance(when, str) else rfc3339(when)
    shown = at.replace("T", " ").replace("Z", " UTC")
    return Markup('<time datetime="{}">{}</time>').format(at, shown)


def _eps(milli: int | None) -> str:
    return "no finite bound" if milli is None else f"{milli / 1000:.3f}"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or f'{one}s'}".replace(",", "\u202f")


def _pretty(value: object) -> Markup:
    return Markup(escape(json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True)))  # noqa: S704 - escaped here


def _asserted(report: Report) -> dict[str, list[str]]:
    """Sentence -> who asserts it, each sentence once."""
    found: dict[str, list[str]] = {}
    for who, texts in report.asserted().items():
        for text in texts:
            if who not in found.setdefault(text, []):
                found[text].append(who)
    return found

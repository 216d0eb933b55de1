"""What a reader asks for, within limits, and what a page is made of."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode

from compliance.errors import InputError

PER_PAGE: Final = 50
_MOST_PAGES: Final = 100_000
_LONGEST: Final = 200  # characters of one value
_NOT_IN_A_NAME: Final = re.compile(r"[^A-Za-z0-9._-]")

Crumbs = Sequence[tuple[str, str]]
"""(words, address) from the overview down to the page above this one."""


@dataclass(frozen=True)
class Page:
    """A template with what it shows. `area` is the entry of the menu that it belongs to."""

    template: str
    title: str
    area: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    crumbs: Crumbs = ()


@dataclass(frozen=True)
class File:
    """What is no page: an image, or something to download if it has a `saved_as`."""

    media: str
    data: bytes
    saved_as: str = ""

    def headers(self) -> dict[str, str]:
        """Names may come from a log: they keep only what no header and no disk misreads."""
        name = _NOT_IN_A_NAME.sub("_", self.saved_as)[-_LONGEST:].lstrip(".-")
        return {"content-disposition": f'attachment; filename="{name}"'} if name else {}


@dataclass(frozen=True)
class Ask:
    """The address of a request: the variable parts of its path, and its query. Nothing of it ever becomes a path."""

    path: Mapping[str, Any]
    query: Mapping[str, str]

    def text(self, name: str) -> str:
        """A value of the query, "" without one. Raises InputError RSD-9185 if it is too long."""
        value = self.query.get(name, "").strip()
        if len(value) > _LONGEST:
            raise too_much(f"{name} is too long", f"{len(value)} characters", f"{_LONGEST} characters")
        return value

    def page(self) -> int:
        """Which page of a list, from 1. Raises InputError RSD-9185."""
        value = self.text("page") or "1"
        if not (value.isascii() and value.isdecimal() and 1 <= int(value) <= _MOST_PAGES):
            raise too_much("there is no such page of a list", value, f"1 to {_MOST_PAGES}")
        return int(value)

    def number(self, name: str) -> int:
        """A number in the path. Raises InputError RSD-9180."""
        value = str(self.path[name])
        if not (value.isascii() and value.isdecimal() and len(value) <= 15):
            raise not_found(f"{name} {value[:40]!r}")
        return int(value)


@dataclass(frozen=True)
class Pager:
    """Where in a list a page is; `address` has the filters in it."""

    page: int
    rows: int
    path: str
    filters: Mapping[str, str] = field(default_factory=dict)

    @property
    def pages(self) -> int:
        """How many there are; one for an empty list."""
        return max(1, -(-self.rows // PER_PAGE))

    @property
    def first(self) -> int:
        """Number of the first row shown, from 1."""
        return min((self.page - 1) * PER_PAGE + 1, self.rows)

    @property
    def last(self) -> int:
        """Number of the last row shown."""
        return min(self.page * PER_PAGE, self.rows)

    @property
    def offset(self) -> int:
        """How many rows stand before it."""
        return (self.page - 1) * PER_PAGE

    def address(self, page: int) -> str:
        """The address of another page of the list."""
        return address(self.path, {**self.filters, "page": str(page)})


def address(path: str, query: Mapping[str, str]) -> str:
    """`path` with those values of the query that are not empty."""
    given = {name: value for name, value in query.items() if value}
    return f"{path}?{urlencode(given)}" if given else path


def not_found(what: str) -> InputError:
    """RSD-9180, for what is looked up and is not there."""
    return InputError(
        "RSD-9180", f"the desk shows no {what}", rule="what is shown is looked up, never opened by its name",
        found=what, limit="what the menu and the lists link to", next="go back to the overview, or search",
    )  # fmt: skip


def too_much(message: str, found: str, limit: str) -> InputError:
    """RSD-9185."""
    return InputError("RSD-9185", message, rule="requests are bounded", found=found, limit=limit, next="ask for less")

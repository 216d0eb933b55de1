"""A dossier as a page that prints well: no script, nothing from outside, every value escaped."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from compliance.canonical import b64decode
from compliance.dossier.model import Dossier, Row
from compliance.log.entry import Entry, decode

FILE: Final = "dossier.json"
_MARKS: Final = {"evidence shown": "status-shown", "nothing recorded": "status-none", "NOT COVERED": "status-open"}
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


@dataclass(frozen=True)
class _Part:
    """A run of entries of one log: what is printed, and the first of them to go to."""

    anchor: str
    text: str


@dataclass(frozen=True)
class _Line:
    """One entry in the list of all."""

    anchor: str
    member: str
    index: int
    at: str
    kind: str
    leaf: str


def html(dossier: Dossier, file: str = FILE) -> str:
    """The whole page, with its own style. `file`: the name of the JSON beside it. Judges nothing."""
    return _environment().get_template("dossier.html").render(_context(dossier, file))


def body(dossier: Dossier, file: str = FILE) -> str:
    """The page without head and first heading, for an element of class dossier; its style is dossier.css."""
    return _environment().get_template("body.html").render(_context(dossier, file))


@lru_cache(maxsize=1)
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.tests |= {
        "digest": lambda text: bool(_DIGEST.fullmatch(text)),
        "stamped": lambda text: bool(_TIME.match(text)),
    }
    return made


def _context(dossier: Dossier, file: str) -> dict[str, object]:
    members = {s.origin: s.member for s in dossier.sources}
    entries = [(members.get(o.origin, o.origin), decode(b64decode(o.entry, "an entry"))) for o in dossier.entries]
    decisions = [e.body for _, e in entries if e.kind == "decision"]
    return {
        "dossier": dossier,
        "file": file,
        "marks": _MARKS,
        "counts": {a.id: sum(len(table.rows) for table in a.tables) for a in dossier.articles},
        "decisions": len(decisions),
        "drafts": sum(body.get("draft") is True for body in decisions),
        "shown_by": lambda row: _shown_by(row, members),
        "entries": [_line(member, entry) for member, entry in entries],
    }


def _shown_by(row: Row, members: Mapping[str, str]) -> list[tuple[str, list[_Part]]]:
    """The entries of a row by log, runs of neighbours joined."""
    by_member: dict[str, set[int]] = {}
    for ref in row.rests_on:
        by_member.setdefault(members.get(ref.origin, ref.origin), set()).add(ref.index)
    return [(member, _runs(member, sorted(indices))) for member, indices in by_member.items()]


def _runs(member: str, indices: list[int]) -> list[_Part]:
    found = []
    for _, run in groupby(enumerate(indices), key=lambda pair: pair[1] - pair[0]):
        numbers = [index for _, index in run]
        last = f" to {numbers[-1]}" if len(numbers) > 1 else ""
        found.append(_Part(f"{member}-{numbers[0]}", f"{numbers[0]}{last}"))
    return found


def _line(member: str, entry: Entry) -> _Line:
    anchor = f"{member}-{entry.index}"
    return _Line(anchor, member, entry.index, entry.at, entry.kind, entry.leaf_hash().hex())

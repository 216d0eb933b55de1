"""Kinds of text in law files that are more than a pattern: a day, a citation, a reviewer."""

from __future__ import annotations

import unicodedata
from datetime import date
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

NOBODY = "none"  # the one word for: no counsel has read it
_SAYS_NOBODY = frozenset(
    (
        "anonymous",
        "na",
        "nil",
        "no",
        "nobody",
        "none",
        "null",
        "pending",
        "placeholder",
        "tba",
        "tbd",
        "test",
        "todo",
        "unknown",
        "unnamed",
        "unreviewed",
        "yes",
    )
)
_IN_NAMES = ".,'’-·"
_SHORTEST_CITATION = 4


def _day(value: str) -> str:
    date.fromisoformat(value)
    return value


def _citation(value: str) -> str:
    """A section, article or number stands in it, or it is a title of several words."""
    letters, digits = any(c.isalpha() for c in value), any(c.isdigit() for c in value)
    if len(value) < _SHORTEST_CITATION or not letters or not (digits or len(value.split()) > 1):
        raise ValueError("this is no citation: name the statute, and where in it")
    return value


def _reviewer(value: str) -> str:
    if value != NOBODY and (value != value.strip() or not _is_name(value)):
        raise ValueError("a reviewer is a person's name in two words or more, or exactly none")
    return value


def _is_name(value: str) -> bool:
    """Two words of letters, of any script; none of them, nor all together, a word for nobody."""
    parts = ["".join(c for c in word if c not in _IN_NAMES).casefold() for word in value.split()]
    words = [word for word in parts if word]
    spelt = all(unicodedata.category(c)[0] in "LM" for word in words for c in word)
    return len(words) > 1 and spelt and _SAYS_NOBODY.isdisjoint((*words, "".join(words)))


Day = Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"), AfterValidator(_day)]
Citation = Annotated[str, StringConstraints(strip_whitespace=True), AfterValidator(_citation)]
Reviewer = Annotated[str, AfterValidator(_reviewer)]

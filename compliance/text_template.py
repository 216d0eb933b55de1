"""The grammar of templates: `{column}`, `[optional parts]` and nothing else, so that a template computes nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from compliance.errors import InputError

_TOKEN: Final = re.compile(r"\{([^{}\[\]]+)\}|\[|\]|[^{}\[\]]+|.", re.DOTALL)


@dataclass(frozen=True)
class Part:
    """Literal texts and column names in turn; `optional` if it stood in square brackets."""

    pieces: tuple[tuple[bool, str], ...]  # (is a column, text or name)
    optional: bool


def parse_parts(text: str) -> tuple[Part, ...]:
    """Raises InputError RSD-2306 naming the character at which `text` is no template."""
    parts: list[Part] = []
    pieces: list[tuple[bool, str]] = []
    inside = False
    for match in _TOKEN.finditer(text):
        word, column = match.group(), match.group(1)
        if word == ("]" if inside else "["):
            parts.append(Part(tuple(pieces), optional=inside))
            pieces, inside = [], not inside
        elif column is None and word in "{}[]":
            raise _malformed(word, match.start())
        else:
            pieces.append((column is not None, column or word))
    if inside:
        raise _malformed("the end", len(text))
    found = (*parts, Part(tuple(pieces), optional=False))
    if not columns_of(found):
        raise _malformed("no column", len(text))
    return found


def columns_of(parts: tuple[Part, ...]) -> tuple[str, ...]:
    """The columns named, each once, in order of appearance."""
    names = [text for part in parts for column, text in part.pieces if column]
    return tuple(dict.fromkeys(names))


def _malformed(found: str, at: int) -> InputError:
    return InputError(
        "RSD-2306",
        "the study's template is malformed",
        rule="{column}, and [optional parts] that do not nest",
        found=f"{found} at character {at}",
        limit="matched braces and brackets, at least one column",
        next="correct task.template in the study",
    )

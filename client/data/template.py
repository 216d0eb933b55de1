"""Templates: how a row becomes text. Column substitution and nothing else, so a template can compute nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from client.data.text import canonical_text
from compliance.errors import InputError

_TOKEN = re.compile(r"\{([^{}\[\]]+)\}|\[|\]|[^{}\[\]]+|.", re.DOTALL)


@dataclass(frozen=True)
class _Part:
    """Literal texts and column names in turn; `optional` if it stood in square brackets."""

    pieces: tuple[tuple[bool, str], ...]  # (is a column, text or name)
    optional: bool

    def fill(self, row: Mapping[str, Any]) -> str:
        texts = [canonical_text(row[text]) if column else text for column, text in self.pieces]
        if self.optional and None in texts:
            return ""
        return "".join(t for t in texts if t is not None)


@dataclass(frozen=True)
class Template:
    """A parsed template. `{column}` is the column's value; a `[part]` vanishes if one of its values is missing.

    A missing value outside brackets becomes the empty text. Brackets do not nest; braces and brackets have no escape.
    """

    parts: tuple[_Part, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns named, each once, in order of appearance."""
        names = [text for part in self.parts for column, text in part.pieces if column]
        return tuple(dict.fromkeys(names))

    def render(self, row: Mapping[str, Any]) -> str:
        """The text of one row, without space at its ends."""
        return "".join(part.fill(row) for part in self.parts).strip()


def parse_template(text: str) -> Template:
    """Raises InputError RSD-2306 naming the character at which `text` is no template."""
    parts: list[_Part] = []
    pieces: list[tuple[bool, str]] = []
    inside = False
    for match in _TOKEN.finditer(text):
        word, column = match.group(), match.group(1)
        if word == ("]" if inside else "["):
            parts.append(_Part(tuple(pieces), optional=inside))
            pieces, inside = [], not inside
        elif column is None and word in "{}[]":
            raise _malformed(word, match.start())
        else:
            pieces.append((column is not None, column or word))
    if inside:
        raise _malformed("the end", len(text))
    template = Template((*parts, _Part(tuple(pieces), optional=False)))
    if not template.columns:
        raise _malformed("no column", len(text))
    return template


def render(template: str, row: Mapping[str, Any]) -> str:
    """The text of one row. Raises InputError RSD-2306; KeyError for a column that the row lacks."""
    return parse_template(template).render(row)


def _malformed(found: str, at: int) -> InputError:
    return InputError(
        "RSD-2306", "the study's template is malformed", rule="{column}, and [optional parts] that do not nest",
        found=f"{found} at character {at}", limit="matched braces and brackets, at least one column",
        next="correct task.template in the study",
    )  # fmt: skip

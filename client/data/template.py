"""Templates: how a row becomes text. Column substitution and nothing else, so a template can compute nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from client.data.text import canonical_text
from compliance.text_template import Part, columns_of, parse_parts


@dataclass(frozen=True)
class Template:
    """A parsed template. `{column}` is the column's value; a `[part]` vanishes if one of its values is missing.

    A missing value outside brackets becomes the empty text. Brackets do not nest; braces and brackets have no escape.
    """

    parts: tuple[Part, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns named, each once, in order of appearance."""
        return columns_of(self.parts)

    def render(self, row: Mapping[str, Any]) -> str:
        """The text of one row, without space at its ends."""
        return "".join(_fill(part, row) for part in self.parts).strip()


def _fill(part: Part, row: Mapping[str, Any]) -> str:
    texts = [canonical_text(row[text]) if column else text for column, text in part.pieces]
    if part.optional and None in texts:
        return ""
    return "".join(t for t in texts if t is not None)


def parse_template(text: str) -> Template:
    """Raises InputError RSD-2306 naming the character at which `text` is no template."""
    return Template(parse_parts(text))


def render(template: str, row: Mapping[str, Any]) -> str:
    """The text of one row. Raises InputError RSD-2306; KeyError for a column that the row lacks."""
    return parse_template(template).render(row)

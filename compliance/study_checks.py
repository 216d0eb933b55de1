"""What `study check` and `study sign` find beyond the schema: papers, names and templates that could do no work.

They are no rules of the schema: a study that was signed before one of them was made stays readable as it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from compliance.canonical import Json
from compliance.errors import InputError
from compliance.law.countries import COUNTRIES
from compliance.text_template import columns_of, parse_parts
from compliance.validation import Mistake

_MOST_NAME: Final = 128  # characters of a column's name, as elsewhere in a study
# What a format string would evaluate: a hidden attribute, a conversion, a place by its number, a format. A dot or a
# colon alone is none: extracts have columns such as t.stage and 1:12345.
_FORMAT: Final = re.compile(r".*\._.*|.*![rsa]|[-+]?[0-9.]+|.*:(.?[<>=^][0-9]+.*|[0-9,]*\.[0-9]+[eEfFgG%]?)", re.DOTALL)


def check_mistakes(raw: Json) -> list[Mistake]:
    """The mistakes of a raw study; a field of the wrong shape is left to the schema's report."""
    if not isinstance(raw, dict):
        return []
    return [*_name_mistakes(raw), *_paper_mistakes(raw), *_column_mistakes(raw)]


def _name_mistakes(raw: dict[str, Json]) -> Iterator[Mistake]:
    """The operator and each site are different members. A controller is a legal entity, which may be none of them."""
    operator = _text(raw.get("operator"), "name")
    for i, site in _rows(raw, "sites"):
        if operator is not None and site.get("name") == operator:
            limit = "a name that is not the operator's"
            yield Mistake(f"sites[{i}].name", f"{operator} is the operator's name", found=operator, limit=limit)
    controllers = raw.get("controllers")
    named = controllers if isinstance(controllers, list | tuple) else []
    for i, name in enumerate(named):
        if isinstance(name, str) and not name.strip():
            yield Mistake(f"controllers[{i}]", "no name", found="an empty name", limit="the name of a legal entity")
        elif name in named[:i]:
            yield Mistake(f"controllers[{i}]", f"{name} is listed twice", limit="each controller once")


def _paper_mistakes(raw: dict[str, Json]) -> Iterator[Mistake]:
    """A paper that covers a member counts only for what goes to that member's place, from another member's."""
    operator = raw.get("operator")
    members = [*([operator] if isinstance(operator, dict) else []), *(site for _, site in _rows(raw, "sites"))]
    places = {m["name"]: m["jurisdiction"] for m in members if _text(m, "name") and m.get("jurisdiction") in COUNTRIES}
    for i, paper in _rows(raw, "documents"):
        covered = _text(paper, "covers")
        if covered is None or covered not in places:
            continue
        at, place = f"documents[{i}]", places[covered]
        others = sorted({code for name, code in places.items() if name != covered})
        for field, fits, limit in (
            ("to_jurisdiction", [place], f"{place}, where {covered} is, or left out"),
            ("from_jurisdiction", others, f"{', '.join(others)}, where the other members are, or left out"),
        ):
            code = _text(paper, field)
            if code not in (None, "*", *fits):
                message = f"{code} does not fit {covered}, which the paper covers"
                yield Mistake(f"{at}.{field}", message, found=str(code), limit=limit)


def _column_mistakes(raw: dict[str, Json]) -> Iterator[Mistake]:
    """What the model reads holds neither the answer nor whose record it is."""
    task, group = raw.get("task"), _text(raw.get("privacy"), "group_column")
    if not isinstance(task, dict):
        return
    label = _text(task, "label_column")
    if label is not None and label == group:
        yield Mistake("task.label_column", f"{label} is the group column and says who", limit="another column")
    for field in ("numeric", "categorical"):
        for i, entry in _rows(task, field):
            if group is not None and entry.get("column") == group:
                yield Mistake(f"task.{field}[{i}].column", f"{group} says whose record it is", limit="another column")
    yield from _template_mistakes(_text(task, "template"), label, group)


def _template_mistakes(template: str | None, label: str | None, group: str | None) -> Iterator[Mistake]:
    if template is None:
        return
    try:
        columns = columns_of(parse_parts(template))
    except InputError as e:
        yield Mistake("task.template", f"{e.found}: {e.rule}", found=e.found, limit=e.limit)
        return
    for name in columns:
        if name in (label, group):
            why = "the answer, label_column" if name == label else "whose record it is, group_column"
            yield Mistake("task.template", f"{{{name}}} tells {why}", found=f"{{{name}}}", limit="other columns")
        elif len(name) > _MOST_NAME or not name.strip() or _FORMAT.fullmatch(name):
            message = f"{{{name}}} names no column: it is no format string"
            yield Mistake("task.template", message, found=f"{{{name}}}", limit="the name of a column in braces")


def _rows(raw: dict[str, Json], field: str) -> Iterator[tuple[int, dict[str, Json]]]:
    rows = raw.get(field)
    for i, row in enumerate(rows if isinstance(rows, list | tuple) else ()):
        if isinstance(row, dict):
            yield i, row


def _text(raw: Json, field: str) -> str | None:
    found = raw.get(field) if isinstance(raw, dict) else None
    return found if isinstance(found, str) else None

"""The few tags that the parts of the review page share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def e(value: object) -> str:
    """The value as text of the page: nothing in it is markup."""
    return escape(str(value), quote=True)


def small(text: str) -> str:
    """Escaped, in small letters."""
    return f"<span class='small'>{e(text)}</span>"


def identifier(name: str) -> str:
    """It may go on in the next line after each of its dots and underscores, and nowhere else."""
    return e(name).replace(".", ".<wbr>").replace("_", "_<wbr>")


def listed(parts: Iterable[str]) -> str:
    """Each part, which is markup, in a line of its own; what is longer goes on further right."""
    return "".join(f"<div class='item'>{part}</div>" for part in parts)


def table(head: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]], classes: Sequence[str] = ()) -> str:
    """`head`: title and width of each column, empty for the rest. `rows` hold markup, `classes` one name for each."""
    cols = "".join(f"<col style='width:{width}'>" if width else "<col>" for _, width in head)
    names = "".join(f"<th>{e(name)}</th>" for name, _ in head)
    body = []
    for i, cells in enumerate(rows):
        marked = f" class='{e(classes[i])}'" if classes else ""
        body.append(f"<tr{marked}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return f"<table><colgroup>{cols}</colgroup><thead><tr>{names}</tr></thead><tbody>{''.join(body)}</tbody></table>"

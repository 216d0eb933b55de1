"""The matrix as an SVG of its own: readable without colour, without scripts, styles or references."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from compliance.law.matrix import COUNTED, LETTERS, MEANINGS, NOTHING, STATES, Cell, Legend, Question, State

_SIDE, _LEFT, _TOP, _LINE, _WIDTH = 42, 64, 84, 19, 900  # pixels
_LETTERS = 120  # of a line of the legend
# State -> ground, dashes of the border, ink. The grounds darken with what is asked, also in grey; letters say it too.
_LOOKS: dict[State, tuple[str, str, str]] = {
    "home": ("#f1f6f1", "", "#111111"),
    "papers": ("#f3e2a0", "5 3", "#111111"),
    "basis": ("#dd9c4b", "8 2", "#111111"),
    "never": ("#7d2b25", "1 3", "#ffffff"),
}


def svg(question: Question, rows: Sequence[Sequence[Cell]], legend: Legend) -> str:
    """Exporters down, destinations across; the legend below says what each mark asks."""
    told = _legend_lines(legend)
    width = max(_LEFT + _SIDE * len(rows[0]) + 20, _WIDTH)
    height = _TOP + _SIDE * len(rows) + 72 + _LINE * (len(told) + 1)
    what = f"Who may send {question.artifact} to whom, for {question.purpose}, as of {question.at}"
    drafts = sum(cell.draft for row in rows for cell in row)
    says = f"Rows are exporters, columns destinations. {_counted(rows)} {drafts} cells rest on rules without a counsel."
    body = [
        _text(16, 24, what, size=15),
        _text(16, 44, "from (down), to (across); DRAFT, no counsel" if drafts else "from (down), to (across)"),
        *(_text(_LEFT + _SIDE * i + _SIDE // 2 - 2, _TOP - 10, cell.to, middle=True) for i, cell in enumerate(rows[0])),
        *(part for y, row in enumerate(rows) for part in _row(row, _TOP + _SIDE * y, legend)),
        *_key(_TOP + _SIDE * len(rows) + 14),
        *(_text(16, _TOP + _SIDE * len(rows) + 86 + _LINE * i, line) for i, line in enumerate(told)),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="13" role="img" aria-labelledby="title desc">'
        f'<title id="title">{escape(what)}</title><desc id="desc">{escape(says)}</desc>'
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>{"".join(body)}</svg>\n'
    )


def _counted(rows: Sequence[Sequence[Cell]]) -> str:
    states = [cell.state for row in rows for cell in row]
    return ", ".join(f"{states.count(state)} {MEANINGS[state]}" for state in STATES) + "."


def _row(row: Sequence[Cell], y: int, legend: Legend) -> list[str]:
    out = [_text(24, y + 24, row[0].exporter)]
    for i, cell in enumerate(row):
        x = _LEFT + _SIDE * i
        told = f"{cell.exporter} to {cell.to}: {cell.asks}"
        out.append(_box(x, y, cell.state, told) + _mark(x, y, cell, legend))
    return out


def _mark(x: int, y: int, cell: Cell, legend: Legend) -> str:
    """In the middle of the box; a corner is cut where persons are counted."""
    side = _SIDE - 4
    ink = _LOOKS[cell.state][2]
    corner = f'<path d="M{x + side - 11} {y}h11v11z" fill="{ink}"/>' if cell.counted else ""
    return corner + _text(x + side // 2, y + 24, legend.of(cell), ink=ink, middle=True)


def _key(y: int) -> list[str]:
    out, x = [], 16
    for state in STATES:
        out.append(_box(x, y, state, MEANINGS[state], side=20))
        out.append(_text(x + 10, y + 15, LETTERS[state], ink=_LOOKS[state][2], middle=True))
        out.append(_text(x + 28, y + 15, MEANINGS[state]))
        x += 60 + 8 * len(MEANINGS[state])
    out.append(f'<path d="M21 {y + 32}h11v11z" fill="#111111"/>')
    told = f"{COUNTED}  denied once too many persons are counted, or nobody counts.   .  {NOTHING}."
    return [*out, _text(44, y + 43, told)]


def _box(x: int, y: int, state: State, told: str, side: int = _SIDE - 4) -> str:
    ground, dashes, _ = _LOOKS[state]
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return (
        f'<rect x="{x}" y="{y}" width="{side}" height="{side}" fill="{ground}" stroke="#333333"{dashed}>'
        f"<title>{escape(told)}</title></rect>"
    )


def _legend_lines(legend: Legend) -> list[str]:
    out = []
    for line in legend.lines():
        rest = line
        while len(rest) > _LETTERS:
            cut = rest.rfind(" ", 8, _LETTERS)
            cut = cut if cut > 0 else _LETTERS
            out.append(rest[:cut])
            rest = f"     {rest[cut:].lstrip()}"
        out.append(rest)
    return out


def _text(x: int, y: int, text: str, size: int = 13, ink: str = "", *, middle: bool = False) -> str:
    sized = f' font-size="{size}"' if size != 13 else ""
    inked = f' fill="{ink}"' if ink else ""
    placed = ' text-anchor="middle"' if middle else ""
    return f'<text x="{x}" y="{y}"{sized}{inked}{placed} xml:space="preserve">{escape(text)}</text>'

"""Budgets as bars: for a terminal, and as a small SVG. No library draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

_CELLS: Final = 40
_PARTS: Final = (("spent", "#", "#1f4e79"), ("reserved", "=", "#5b9bd5"), ("this study", "+", "#ed7d31"))
_LEFT: Final = ("left", ".", "#e6e6e6")
_ROW, _BAR, _LABEL, _NOTE = 34, 420, 210, 250  # pixels


@dataclass(frozen=True)
class Bar:
    """One data source, milli-eps. `planned`: what a study would take on top of what is spent and reserved."""

    source: str
    spent: int
    reserved: int
    limit: int
    planned: int = 0

    @property
    def parts(self) -> tuple[int, int, int]:
        """What is taken, in the order of the legend."""
        return self.spent, self.reserved, self.planned

    @property
    def left(self) -> int:
        """What stays free; never negative."""
        return max(self.limit - sum(self.parts), 0)

    @property
    def note(self) -> str:
        """The figures, for people."""
        return f"{self.left / 1000:.3f} of {self.limit / 1000:.3f} left"


def text_plot(bars: Sequence[Bar]) -> list[str]:
    """One line a source with its whole budget as 40 cells, and a legend; nothing for no source.

    Whatever was taken, or is left, shows in at least one cell.
    """
    if not bars:
        return []
    width = max(len(b.source) for b in bars)
    lines = [f"{b.source.ljust(width)}  [{_cells(b)}]  {b.note}" for b in bars]
    shown = [p for i, p in enumerate(_PARTS) if i < 2 or any(b.planned for b in bars)]
    return [*lines, "  ".join(f"{mark} {name}" for name, mark, _ in (*shown, _LEFT))]


def _cells(bar: Bar) -> str:
    whole = max(bar.limit, sum(bar.parts), 1)  # a limit may have been lowered below what is spent
    amounts = (*bar.parts, whole - sum(bar.parts))
    cells = [max(round(a * _CELLS / whole), 1) if a else 0 for a in amounts]
    cells[cells.index(max(cells))] += _CELLS - sum(cells)  # what rounding gave or took, from where it shows least
    return "".join(mark * n for n, (_, mark, _) in zip(cells, (*_PARTS, _LEFT), strict=True))


def svg_plot(bars: Sequence[Bar]) -> str:
    """The same as an SVG document of fixed size, without scripts, styles or references."""
    height, width = _ROW * (len(bars) + 1) + 16, _LABEL + _BAR + _NOTE
    body = "".join(_svg_row(bar, 12 + i * _ROW) for i, bar in enumerate(bars))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13">'
        f"<title>Privacy budget of each data source, in eps</title>"
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>{body}{_svg_legend(12 + len(bars) * _ROW)}</svg>\n'
    )


def _svg_row(bar: Bar, y: int) -> str:
    whole = max(bar.limit, sum(bar.parts), 1)
    out, x = [_svg_box(_LABEL, y, _BAR, _LEFT[2]), _svg_text(8, y, bar.source)], float(_LABEL)
    for amount, (name, _, colour) in zip(bar.parts, _PARTS, strict=True):
        length = amount * _BAR / whole
        if amount:
            out.append(_svg_box(x, y, length, colour, f"{name}: eps {amount / 1000:.3f}"))
        x += length
    return "".join([*out, _svg_text(_LABEL + _BAR + 10, y, bar.note)])


def _svg_legend(y: int) -> str:
    out = []
    for i, (name, _, colour) in enumerate((*_PARTS, _LEFT)):
        x = _LABEL + i * 105
        out += [_svg_box(x, y, 14, colour), _svg_text(x + 20, y, name)]
    return "".join(out)


def _svg_box(x: float, y: int, length: float, colour: str, title: str = "") -> str:
    inner = f"<title>{escape(title)}</title>" if title else ""
    return f'<rect x="{x:.1f}" y="{y}" width="{length:.1f}" height="18" fill="{colour}">{inner}</rect>'


def _svg_text(x: int, y: int, text: str) -> str:
    return f'<text x="{x}" y="{y + 14}">{escape(text)}</text>'

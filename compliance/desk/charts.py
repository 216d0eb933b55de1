"""The two charts, drawn here as SVG: no script, the reader's own fonts. Their data stand in tables beside them."""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from compliance.clock import parse_time
from compliance.desk.curves import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Flow = tuple[str, str, int, int]
"""Exporter's jurisdiction, recipient's, how many allowed, how many denied."""

_LOCK: Final = threading.Lock()  # matplotlib's settings are the process's
_GAP: Final = 0.35


@dataclass(frozen=True)
class _Inks:
    ground: str
    ink: str
    quiet: str
    line: str
    allow: str
    deny: str


_LIGHT: Final = _Inks("#ffffff", "#16202c", "#4c5a6b", "#d5dbe3", "#2f7f9e", "#b3261e")
_DARK: Final = _Inks("#18212b", "#e7edf4", "#a9b6c5", "#33414f", "#5fb3d1", "#ff8a80")


def warm() -> None:
    """Load what draws, which takes a second: at the start, not at the first reader's cost."""
    flows((("DE", "FR", 1, 1),), dark=False)


@lru_cache(maxsize=64)
def flows(rows: tuple[Flow, ...], *, dark: bool) -> bytes:
    """Ribbons from exporters, left, to recipients, right: as wide as they are many; denials are hatched."""
    inks = _DARK if dark else _LIGHT
    with _drawing(inks, (9.0, _height(rows))) as (figure, axes):
        axes.axis("off")
        left = _ends([(a, n + d) for a, _, n, d in rows])
        right = _ends([(b, n + d) for _, b, n, d in rows])
        used: dict[tuple[int, str], float] = {}
        for exporter, recipient, allowed, denied in sorted(rows):
            for number, denial in ((allowed, False), (denied, True)):
                if number:
                    start = _next(used, (0, exporter), left[exporter], number)
                    end = _next(used, (1, recipient), right[recipient], number)
                    _ribbon(axes, (start, end), number, inks, denial=denial)
        for x, ends, where in ((0.0, left, "right"), (1.0, right, "left")):
            for name, (top, total) in ends.items():
                axes.plot([x, x], [-top, -top - total], color=inks.ink, linewidth=3, solid_capstyle="butt")
                beside = x - 0.02 if where == "right" else x + 0.02
                axes.text(beside, -top - total / 2, f"{name}  {total:g}" if x else f"{total:g}  {name}", ha=where,
                          va="center", color=inks.ink, fontsize=13)  # fmt: skip
        _flow_legend(
            axes, inks, max(top + total for ends in (left, right) for top, total in ends.values()) if rows else 0
        )
        return _svg(figure, "Decisions by jurisdiction: exporters left, recipients right")


def _height(rows: Sequence[Flow]) -> float:
    return min(2.6 + 0.42 * max(len({r[0] for r in rows}), len({r[1] for r in rows}), 1), 12)


def _ends(rows: Sequence[tuple[str, int]]) -> dict[str, tuple[float, float]]:
    """Name -> (top, length) of its bar; a gap between bars in the measure of the whole."""
    totals: dict[str, float] = {}
    for name, number in rows:
        totals[name] = totals.get(name, 0) + number
    gap, top, ends = _GAP * sum(totals.values()) / max(len(totals), 1) / 2, 0.0, {}
    for name in sorted(totals):
        ends[name] = (top, totals[name])
        top += totals[name] + gap
    return ends


def _next(used: dict[tuple[int, str], float], key: tuple[int, str], bar: tuple[float, float], number: int) -> float:
    at = used.get(key, bar[0])
    used[key] = at + number
    return at


def _ribbon(axes: Axes, ends: tuple[float, float], number: int, inks: _Inks, *, denial: bool) -> None:
    from matplotlib.patches import PathPatch  # noqa: PLC0415 - slow to import
    from matplotlib.path import Path  # noqa: PLC0415

    (a, b), bend = ends, 0.45
    points = [
        (0, -a), (bend, -a), (1 - bend, -b), (1, -b), (1, -b - number), (1 - bend, -b - number), (bend, -a - number),
        (0, -a - number), (0, -a),
    ]  # fmt: skip
    codes = [Path.MOVETO, *[Path.CURVE4] * 3, Path.LINETO, *[Path.CURVE4] * 3, Path.CLOSEPOLY]
    ink = inks.deny if denial else inks.allow
    axes.add_patch(PathPatch(
        Path(points, codes), facecolor=inks.ground if denial else ink, edgecolor=ink, linewidth=0.8,
        alpha=0.9 if denial else 0.55, hatch="////" if denial else None, zorder=2 if denial else 1,
    ))  # fmt: skip


def _flow_legend(axes: Axes, inks: _Inks, deep: float) -> None:
    from matplotlib.patches import Patch  # noqa: PLC0415 - slow to import

    axes.set_xlim(-0.16, 1.16)
    axes.set_ylim(-deep * 1.02 - 0.01, deep * 0.02 + 0.01)
    marks = [
        Patch(facecolor=inks.allow, edgecolor=inks.allow, alpha=0.55, label="ALLOW"),
        Patch(facecolor=inks.ground, edgecolor=inks.deny, hatch="////", label="DENY"),
    ]
    axes.legend(handles=marks, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False,
                labelcolor=inks.ink, fontsize=12)  # fmt: skip


@lru_cache(maxsize=64)
def budgets(curves: tuple[Curve, ...], *, dark: bool) -> bytes:
    """A small chart for each site: eps by its charges, up in steps, against the line of its budget."""
    inks = _DARK if dark else _LIGHT
    across = min(3, max(len(curves), 1))
    down = math.ceil(max(len(curves), 1) / across)
    with _drawing(inks, (9.0, 2.5 * down), down, across) as (figure, grid):
        tops = [max((p.epsilon_milli or 0 for p in c.points), default=0) for c in curves]
        most = max([*(c.limit_milli for c in curves), *tops], default=1000) / 1000
        cells = [grid] if down * across == 1 else list(grid.flat)
        for axes, curve in zip(cells, curves, strict=False):
            _budget(axes, curve, most, inks)
        for axes in cells[len(curves) :]:
            axes.axis("off")
        return _svg(figure, "Privacy loss of each site over its charges, against its budget")


def _budget(axes: Axes, curve: Curve, most: float, inks: _Inks) -> None:
    known = [(parse_time(p.at), p.epsilon_milli / 1000) for p in curve.points if p.epsilon_milli is not None]
    axes.set_title(curve.site, loc="left", color=inks.ink, fontsize=12)
    axes.axhline(curve.limit_milli / 1000, color=inks.deny, linestyle=(0, (5, 3)), linewidth=1.4)
    axes.text(0.02, curve.limit_milli / 1000 - most * 0.03, "budget", color=inks.deny, fontsize=10, va="top",
              transform=axes.get_yaxis_transform())  # fmt: skip
    axes.set_ylim(0, most * 1.08)
    axes.set_ylabel("eps", color=inks.quiet, fontsize=10)
    if known:
        times: list[Any] = [t for t, _ in known]
        values = [v for _, v in known]
        axes.step(times, values, where="post", color=inks.allow, linewidth=2, marker="o", markersize=4)
        axes.set_xticks(_ends_of(times))
        form = "%H:%M" if times[0].date() == times[-1].date() else "%d %b"
        axes.set_xticklabels([t.strftime(form) for t in _ends_of(times)], fontsize=10)
        axes.margins(x=0.12)
        axes.annotate(f"{values[-1]:.3f}", (times[-1], values[-1]), xytext=(0, 6), textcoords="offset points",
                      ha="right", color=inks.ink, fontsize=11)  # fmt: skip
    else:
        axes.set_xticks([])
        axes.text(0.5, 0.4, "no charge shown", ha="center", color=inks.quiet, fontsize=11, transform=axes.transAxes)


def _ends_of(times: Sequence[Any]) -> list[Any]:
    """The first and the last time, or the only one."""
    return [times[0], times[-1]] if len(times) > 1 else [times[0]]


@contextmanager
def _drawing(inks: _Inks, size: tuple[float, float], down: int = 1, across: int = 1) -> Iterator[tuple[Figure, Any]]:
    """A figure on the page's own ground, alone with matplotlib's settings."""
    import matplotlib as mpl  # noqa: PLC0415 - slow to import
    from matplotlib.figure import Figure  # noqa: PLC0415

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "residency",
        "font.family": "sans-serif",
        "axes.edgecolor": inks.line,
        "xtick.color": inks.quiet,
        "ytick.color": inks.quiet,
        "axes.facecolor": inks.ground,
        "figure.facecolor": inks.ground,
        "hatch.color": inks.deny,
    }
    with _LOCK, mpl.rc_context(settings):
        figure = Figure(figsize=size)
        grid = figure.subplots(down, across)
        figure.subplots_adjust(0.06, 0.3 / size[1], 0.985, 1 - 0.4 / size[1], wspace=0.22, hspace=0.45)
        yield figure, grid


def _svg(figure: Figure, title: str) -> bytes:
    data = io.BytesIO()
    about: Mapping[str, Any] = {"Date": None, "Creator": None, "Title": title}
    figure.savefig(data, format="svg", metadata=dict(about))
    return data.getvalue()

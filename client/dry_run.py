"""What this agent would say to a study, before anybody runs it: the whole admission, writing nothing but the limit."""

from __future__ import annotations

from pathlib import Path

from client.admission import Case, open_case
from client.budget import plan
from client.denial import denied
from client.home import AgentHome
from client.ledger_plot import text_plot
from client.ledger_view import bar_of, unit_text, write_plot
from compliance.canonical import Json
from compliance.cli import Result, table
from compliance.files import read_bytes
from compliance.privacy.ledger_records import Balance, Plan


def dry_run(home: Path, file: Path, plot: Path | None = None) -> Result:
    """Study, policy, dataset, model, law for the update, ledger: in the order of a real join.

    The approval is not asked for: this is what a signatory wants to know before giving it. Raises what a join would
    raise, RSD-4101 with what is needed and left among it.
    """
    opened = AgentHome(home)
    case = open_case(opened, read_bytes(file, "study").rstrip(b"\n"), str(file))
    decision = case.decide("dp_update", case.operator())
    if not decision.allow:
        raise denied(decision)
    with opened.ledger() as ledger:
        found = plan(ledger, case)
        balance = ledger.balance(found.source)
    if plot:
        write_plot(plot, [bar_of(balance, found.needed_milli)])
    peers = {p.name: case.decide("aggregate", p).effect for p in case.peers()}
    release = {p.name: case.decide("released_model", p).effect for p in case.peers()}
    fields = {**_cost(case, balance, found), "update": decision.effect, "peers": peers, "release": release}
    lines = [
        *_lines(case, balance, found),
        f"update to {case.operator().name}: {decision.effect} ({decision.rule})",
        *(f"model to {name}: {effect}; released model: {release[name]}" for name, effect in peers.items()),
        *([f"plot {plot}"] if plot else []),
    ]
    return Result({**fields, "plot": str(plot) if plot else None}, lines)


def _cost(case: Case, balance: Balance, found: Plan) -> dict[str, Json]:
    """Milli-eps. `epsilon_milli` is what the study states by PLD; `needed_milli` what the filter over all takes."""
    return {
        "site": case.terms.name,
        "source": found.source,
        "unit": case.study.privacy.unit,
        "units": list(case.units()),
        "epsilon_milli": case.terms.epsilon_milli,
        "inverse_delta": balance.inverse_delta,
        "spent_milli": balance.charged_milli,
        "held_milli": balance.held_milli,
        "limit_milli": balance.limit_milli,
        "needed_milli": found.needed_milli,
        "left_milli": found.left_milli,
        "left_after_milli": found.left_milli - found.needed_milli,
        "fits": found.fits,
    }


def _lines(case: Case, balance: Balance, found: Plan) -> list[str]:
    after = found.left_milli - found.needed_milli
    row = (balance.charged_milli, balance.held_milli, found.needed_milli, after, balance.limit_milli)
    header = ["source", "per", "spent eps", "held", "this study", "left after", "limit"]
    claim = f"eps {case.terms.epsilon_milli / 1000:.3f} at delta 1/{case.study.privacy.inverse_delta}"
    return [
        f"site {case.terms.name}: the study states {claim}; the filter over all studies takes what follows",
        *table(header, [[found.source, unit_text(case.units()), *(f"{m / 1000:.3f}" for m in row)]]),
        *text_plot([bar_of(balance, found.needed_milli)]),
    ]

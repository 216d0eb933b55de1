"""What this agent would say to a study, before anybody runs it: the whole admission, writing nothing but the limit."""

from __future__ import annotations

from pathlib import Path

from client.admission import open_case
from client.budget import plan
from client.denial import denied
from client.home import AgentHome
from compliance.cli import Result
from compliance.files import read_bytes


def dry_run(home: Path, file: Path) -> Result:
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
    peers = {p.name: case.decide("aggregate", p).effect for p in case.peers()}
    needed, left = found.needed_milli, found.left_milli
    fields = {
        "site": case.terms.name,
        "source": found.source,
        "needed_milli": needed,
        "left_milli": left,
        "fits": found.fits,
        "update": decision.effect,
        "peers": peers,
    }
    lines = [
        f"site {case.terms.name}: takes {needed / 1000:.3f} eps of data source {found.source}, {left / 1000:.3f} left",
        f"update to {case.operator().name}: {decision.effect} ({decision.rule})",
        *(f"model to {name}: {effect}" for name, effect in peers.items()),
    ]
    return Result(fields, lines)

"""What a run is, or was, for JSON and for people: read from its folder, whether a server runs or not."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from compliance.canonical import Json, parse_json
from compliance.cli import table
from compliance.clock import now, parse_time
from compliance.errors import PeerUnreachable, Refused
from compliance.files import read_bytes
from compliance.roster import RosterRow
from compliance.validation import load_model
from server.evaluation_view import shown
from server.run_folder import RESULT, RunFolder
from server.run_state import Cause, State

Row = dict[str, Json]


class _Lenient(BaseModel):
    """What is shown of a record that holds more."""

    model_config = ConfigDict(frozen=True, strict=True)


class _End(_Lenient):
    """Of result.json."""

    schema_: Literal["residency.run/1"] = Field(alias="schema")
    run: str
    study: str
    outcome: str


class _Error(_Lenient):
    code: str
    message: str
    rule: str


class _Event(_Lenient):
    """Of a line of events.jsonl."""

    event: str
    at: str
    site: str = ""
    round: int = 0
    outcome: str = ""
    error: _Error | None = None


def summary(folder: RunFolder) -> tuple[dict[str, Json], list[str]]:
    """What the run is now. `phase` is a step of the state, or "ended"; ages are whole seconds.

    `sites` are those of the last roster once the run has ended, before that what is known of each site of the study.
    Raises InputError RSD-8213 or RSD-8306 when a file of the run does not have its form.
    """
    events = _events(folder)
    result = folder.result()
    end = load_model(_End, result, "RSD-8213", str(folder.path / RESULT)) if result is not None else None
    rosters = len(list((folder.path / "rosters").glob("*.json")))
    state = folder.state() if folder.handed_over else None
    last = folder.roster(rosters) if rosters else None
    rows = [_of_roster(w) for w in last[0].rows] if last and end else _now(folder, state, events)
    evaluated, figures = shown(folder)
    outcome = end.outcome if end else ("cancelling" if folder.cancel() else "running")
    fields: dict[str, Json] = {
        "run": folder.run,
        "study": end.study if end else (state.study if state else ""),
        "outcome": outcome,
        "phase": "ended" if end or state is None else state.phase,
        "round": state.round if state else rosters,
        "rounds": rosters,
        "age_s": _age(state.since) if state else 0,
        "last_event_age_s": _age(events[-1].at) if events else 0,
        "sites": rows if rows or state is None else _absent(events),
        "evaluation": evaluated,
        "folder": str(folder.path),
    }
    return fields, [*_lines(fields), *figures]


def _lines(fields: dict[str, Json]) -> list[str]:
    if fields["phase"] == "ended":
        head = f"run {fields['run']}: {fields['outcome']} after {fields['rounds']} rounds"
    else:
        head = (
            f"run {fields['run']}: {fields['outcome']}, round {fields['round']}, {fields['phase']} "
            f"for {fields['age_s']} s, last event {fields['last_event_age_s']} s ago"
        )
    rows = [
        [r["name"], r["jurisdiction"], r["outcome"], r["code"], "" if r["age_s"] is None else r["age_s"]]
        for r in fields["sites"]
    ]
    return [head, *table(["site", "where", "outcome", "code", "seconds ago"], rows)]


def _events(folder: RunFolder) -> list[_Event]:
    file = folder.path / "events.jsonl"
    if not file.exists():
        return []
    whole = read_bytes(file, "events").rpartition(b"\n")[0].splitlines()
    return [load_model(_Event, parse_json(line, str(file)), "RSD-8213", str(file)) for line in whole]


def _age(at: str) -> int:
    moment: datetime = parse_time(at)
    return max(int((now() - moment).total_seconds()), 0)


def _row(name: str, jurisdiction: str, outcome: str, error: _Error | Cause | None, at: str = "") -> Row:
    return {
        "name": name,
        "jurisdiction": jurisdiction,
        "outcome": outcome,
        "code": error.code if error else "",
        "reason": error.message if error else "",
        "rule": error.rule if error else "",
        "age_s": _age(at) if at else None,
    }


def _of_roster(row: RosterRow) -> Row:
    reason = row.reason
    error = _Error(code=reason.code, message=reason.message, rule=reason.rule) if reason else None
    return _row(row.site, row.jurisdiction, row.outcome, error)


def _now(folder: RunFolder, state: State | None, events: list[_Event]) -> list[Row]:
    """What is known of each site of the study; nothing before the sites were asked."""
    if state is None or not (state.members or state.absent):
        return []
    arrived = {e.site: e for e in events if e.event == "arrived" and e.round == state.round}
    rows = []
    for name, jurisdiction in folder.sites():
        cause = state.left_out.get(name) or state.absent.get(name)
        if cause is not None:
            rows.append(_row(name, jurisdiction, _outcome(cause), cause))
        elif name in arrived:
            rows.append(_row(name, jurisdiction, arrived[name].outcome, None, arrived[name].at))
        else:
            rows.append(_row(name, jurisdiction, "asked" if state.phase == "sent" else "joined", None))
    return rows


def _outcome(cause: Cause) -> str:
    error = cause.error()
    return "refused" if isinstance(error, Refused) else "late" if isinstance(error, PeerUnreachable) else "failed"


def _absent(events: list[_Event]) -> list[Row]:
    """A run without a first roster: the reasons stand in its events."""
    told = {e.site: e.error for e in events if e.event in {"absent", "refused"} and e.error}
    return [_row(site, "", "refused", error) for site, error in told.items()]

"""`residency audit`: explain and replay logged decisions, and how long records are kept. Reads only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from compliance.cli import Result, command, table
from compliance.clock import now, parse_time, rfc3339
from compliance.commands.audit_evidence import evidence
from compliance.commands.desk import serve
from compliance.commands.shared import FILE
from compliance.errors import CheckFailed, InputError, UsageError
from compliance.files import quoted
from compliance.law.vocabulary import RECORD_CLASSES

if TYPE_CHECKING:
    from compliance.canonical import Json
    from compliance.law.pack import Pack
    from compliance.law.retention import Kept
    from compliance.release.replay import Replayed, Source

packs_option = click.option("--packs", type=FILE, help="A folder with the packs and regions.yaml of that day.")


@click.group()
def audit() -> None:
    """Explain and replay decisions, and see how long records are kept. Writes nothing.

    \b
    Example: residency audit retention --jurisdiction DE
    """


audit.add_command(serve)
audit.add_command(evidence)


@audit.command("explain")
@click.argument("path", type=FILE)
@click.option("--log", "log", help="Whose log: a member's name.")
@click.option("--entry", type=click.IntRange(0), help="The decision's index in that log.")
@packs_option
@command("residency.audit.explain/1")
def explain(path: Path, log: str | None, entry: int | None, packs: Path | None) -> Result:
    """Say why something was allowed or denied: rules, citations, what was known, what lacked; and decide it again.

    PATH is a bundle or run folder, a home, the evidence of a log, or a log.db. Without --entry, the denials are listed.

    \b
    Example: residency audit explain bundle --log berlin --entry 12
    """
    from compliance.release.replay import made, read_source  # noqa: PLC0415 - loads the law engine

    source = read_source(path, packs)
    if entry is None:
        return _denials(source, log)
    name = _log(source, log)
    found = next(((e, d) for e, d in source.decisions[name] if e.index == entry), None)
    if found is None:
        raise InputError(
            "RSD-3076",
            f"entry {entry} of log {name} is no decision that is shown here",
            found=entry,
            limit=", ".join(str(e.index) for e, _ in source.decisions[name][:20]),
            next=f"residency audit explain {quoted(path)} lists the denials",
        )
    replayed = made(source, name, *found)
    fields = {
        "log": name,
        "entry": entry,
        "at": found[0].at,
        "decision": found[1].decision.as_entry(),
        "round": found[1].round,
        "again": replayed.outcome,
        "why": list(replayed.why),
    }
    return Result(fields, _explained(source, replayed))


def _log(source: Source, log: str | None) -> str:
    if log is None and len(source.decisions) == 1:
        return next(iter(source.decisions))
    known = ", ".join(source.decisions)
    if log is None:
        raise UsageError(
            "RSD-3077", "say whose log with --log", found="no --log", limit=known, next="give one of these names"
        )
    if log not in source.decisions:
        raise InputError(
            "RSD-3076", f"there is no log of {log}", found=log, limit=known, next="give one of these names with --log"
        )
    return log


def _denials(source: Source, log: str | None) -> Result:
    names = [_log(source, log)] if log is not None else list(source.decisions)
    rows: list[dict[str, Json]] = [
        {
            "log": name,
            "entry": e.index,
            "at": e.at,
            "artifact": d.decision.transfer.artifact,
            "recipient": d.decision.recipient.name,
            "jurisdiction": d.decision.recipient.jurisdiction,
            "rule": d.decision.rule,
        }
        for name in names
        for e, d in source.decisions[name]
        if not d.decision.allow
    ]
    total = sum(len(source.decisions[name]) for name in names)
    lines = [f"{len(rows)} of {total} decisions deny"]
    lines += table(list(rows[0]), [list(row.values()) for row in rows]) if rows else []
    return Result({"decisions": total, "denials": rows}, lines)


def _explained(source: Source, replayed: Replayed) -> list[str]:
    from compliance.law.render import decision_lines  # noqa: PLC0415

    entry, decision = replayed.entry, replayed.logged.decision
    sent = decision.transfer
    papers = [f"{d.kind} for {d.covers} until {d.expires}{f' ({d.id})' if d.id else ''}" for d in sent.documents]
    given = {k: v for k, v in sent.guarantees.model_dump(mode="json").items() if v}
    when = f"before round {replayed.logged.round}" if replayed.logged.round else "outside of rounds"
    legs = [[g.effect, g.recipient.name, g.recipient.jurisdiction, g.via, ", ".join(g.rules)] for g in decision.legs]
    counts = [f"{c.counter} for {c.recipient} at most {c.at_most} ({', '.join(c.categories)})" for c in sent.counts]
    used = [f"{name} {digest[:12]}{_reviewer(source.packs.get(digest))}" for name, digest in decision.packs.items()]
    return [
        f"entry {entry.index} of log {replayed.log}, {entry.at}, {when}",
        *decision_lines(decision),
        f"votes      python {decision.evaluators.python}, cedar {decision.evaluators.cedar}",
        f"purpose    {sent.purpose}; data: {', '.join(sent.categories)}; as of {sent.at}",
        f"on file    {'; '.join(papers) or 'nothing'}",
        f"given      {', '.join(f'{k} {_word(v)}' for k, v in given.items()) or 'no guarantee'}",
        *(f"counted    {text}" for text in counts),
        *([f"missing    {'; '.join(decision.missing)}"] if decision.missing else []),
        *table(["outcome", "who", "in", "how", "by"], legs),
        f"packs      {', '.join(used)}; regions {decision.regions[:12]}; law set {decision.law_set[:12] or 'none'}",
        f"again      {_again(replayed)}",
    ]


def _word(value: object) -> str:
    if isinstance(value, list):
        return " and ".join(map(str, value))
    return "yes" if value is True else str(value)


def _reviewer(pack: Pack | None) -> str:
    if pack is None:
        return " (not at hand)"
    return " (DRAFT, no counsel)" if pack.draft else f" (reviewed by {pack.reviewer})"


def _again(replayed: Replayed) -> str:
    words = {"same": "decided again from what was logged: the same", "otherwise": "decided OTHERWISE now"}
    why = f": {'; '.join(replayed.why)}" if replayed.why else ""
    return f"{words.get(replayed.outcome, replayed.outcome)}{why}"


@audit.command("replay")
@click.argument("path", type=FILE)
@packs_option
@command("residency.audit.replay/1")
def replay(path: Path, packs: Path | None) -> Result:
    """Make every logged decision again from its logged inputs and the packs and region sets of its day.

    PATH is a bundle or run folder, a home, the evidence of a log, or a log.db. Exits 1 if one comes out otherwise, or
    cannot be made again because its packs are not at hand.

    \b
    Example: residency audit replay bundle
    """
    from compliance.release.replay import read_source  # noqa: PLC0415 - loads the law engine
    from compliance.release.replay import replay as run  # noqa: PLC0415

    found = run(read_source(path, packs))
    words = ("same", "otherwise", "not decided", "cannot")
    logs = list(dict.fromkeys(r.log for r in found))
    rows = [[log, *(sum((r.log, r.outcome) == (log, w) for r in found) for w in words)] for log in logs]
    wrong = [r for r in found if r.outcome in {"otherwise", "cannot"}]
    lines = table(["log", "same", "otherwise", "no rule asked", "not possible"], rows)
    lines += [f"{r.outcome:10} entry {r.entry.index} of log {r.log}: {'; '.join(r.why)}" for r in wrong]
    fields: dict[str, Json] = {
        "decisions": len(found),
        **{word.replace(" ", "_"): sum(r.outcome == word for r in found) for word in words},
        "disagreements": [
            {"log": r.log, "entry": r.entry.index, "outcome": r.outcome, "why": list(r.why)} for r in wrong
        ],
    }
    return Result(fields, lines, _otherwise(wrong, len(found)) if wrong else None)


def _otherwise(wrong: list[Replayed], total: int) -> CheckFailed:
    return CheckFailed(
        "RSD-3078",
        f"{len(wrong)} of {total} decisions do not follow from what was logged",
        rule="a decision is made again from its inputs and the packs of its day",
        found=f"entry {wrong[0].entry.index} of log {wrong[0].log}: {wrong[0].outcome}",
        limit="the same decision",
        next="read the lines above; for packs that are not at hand give --packs",
    )


def own_ceilings(values: tuple[str, ...]) -> list[tuple[str, int]]:
    """The site's own schedule, from CLASS=DAYS. Raises UsageError RSD-3081."""
    found: list[tuple[str, int]] = []
    for value in values:
        name, _, days = value.partition("=")
        if name not in RECORD_CLASSES or not days.isdecimal() or not 1 <= int(days) <= 40_000:
            raise UsageError(
                "RSD-3081",
                f"{value} is no ceiling",
                found=value,
                limit=f"CLASS=DAYS, 1 to 40000 days; classes: {', '.join(RECORD_CLASSES)}",
                next="give for example --ceiling access=365",
            )
        found.append((name, int(days)))
    return found


@audit.command("retention")
@click.option("--law", "law_file", type=FILE, help="A site's law.json, or the set that `law init` wrote.")
@click.option("--jurisdiction", metavar="CODE", help="Or: all packs that bind this country.")
@click.option(
    "--ceiling", "ceilings", metavar="CLASS=DAYS", multiple=True,
    help="The site's own schedule: erased after so many days at the latest. May be repeated.",
)  # fmt: skip
@click.option("--at", default=None, help="As of this UTC time (default: now).")
@command("residency.audit.retention/1")
def retention(law_file: Path | None, jurisdiction: str | None, ceilings: tuple[str, ...], at: str | None) -> Result:
    """How long a site keeps each class of record: floors and ceilings of the regimes that bind it, with citations.

    The largest floor governs. What is not in force yet, or binds only whom it names, is shown apart and governs
    nothing. A floor above a ceiling is reported, and exits 1; people resolve it, with counsel.

    \b
    Example: residency audit retention --law law.json --ceiling access=365
    """
    from compliance.law.render import DRAFT  # noqa: PLC0415
    from compliance.law.retention import retention as rows  # noqa: PLC0415 - loads the law engine

    when = rfc3339(parse_time(at, "--at") if at else now())
    own, packs = own_ceilings(ceilings), _binding(law_file, jurisdiction)
    found = rows(packs, when[:10], adopted=law_file is not None, own=own)
    lines = [line for kept in found for line in _kept_lines(kept)]
    head = f"packs      {', '.join(p.id for p in packs)}" + (f" ({DRAFT})" if any(p.draft for p in packs) else "")
    fields = {"packs": [p.id for p in packs], "at": when, "classes": [kept.as_json() for kept in found]}
    whom = [f"who        {p.id}: {p.binds_note}" for p in packs if p.binds_note and law_file is None]
    return Result(fields, [head, *whom, *lines], _conflict([kept for kept in found if kept.conflict]))


def _conflict(found: list[Kept]) -> CheckFailed | None:
    if not found:
        return None
    return CheckFailed(
        "RSD-3080",
        f"{', '.join(kept.record_class for kept in found)}: to be kept longer than allowed",
        rule="a floor is no longer than a ceiling",
        found="; ".join(f"{kept.record_class}: {kept.conflict}" for kept in found),
        limit="no conflict",
        next="resolve it with counsel: another ceiling, or a reason why the floor does not bind",
    )


def _binding(law_file: Path | None, jurisdiction: str | None) -> list[Pack]:
    from compliance.commands.law_site import site_law  # noqa: PLC0415 - loads the law engine
    from compliance.law.pack import builtin_packs  # noqa: PLC0415

    if (law_file is None) == (jurisdiction is None):
        raise UsageError(
            "RSD-3077",
            "whose records: give --law or --jurisdiction",
            found="both" if law_file else "neither",
            limit="one of them",
            next="residency audit retention --law law.json",
        )
    if law_file is not None:
        return list(site_law(law_file).packs.values())
    found = [pack for pack in builtin_packs().values() if jurisdiction in pack.jurisdictions]
    if not found:
        raise InputError(
            "RSD-3073",
            f"no pack binds {jurisdiction}",
            found=jurisdiction,
            limit=", ".join(sorted({code for pack in builtin_packs().values() for code in pack.jurisdictions})),
            next="give the code of a country that a pack binds",
        )
    return found


def _kept_lines(kept: Kept) -> list[str]:
    lines = [f"{kept.record_class:10} {_governs(kept)}"]
    lines += [f"  {limit.shown()}" for limit in (*kept.floors, *kept.ceilings)]
    lines += [f"  may bind: {limit.shown()}" for limit in kept.may]
    return [*lines, *([f"  CONFLICT {kept.conflict}: not resolved here"] if kept.conflict else [])]


def _governs(kept: Kept) -> str:
    least = f"at least {kept.floors[0].days} days" if kept.floors else "no floor that surely binds"
    most = f", at most {kept.ceilings[0].days} days" if kept.ceilings else ""
    return f"{least}{most}"

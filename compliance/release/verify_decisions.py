"""Steps 10 and 11: decisions, decided again with the packs of the day; and who was refused."""

from __future__ import annotations

from functools import lru_cache

from compliance.errors import CheckFailed
from compliance.law.decide import Engine
from compliance.law.model import Decision
from compliance.law.pack import Pack
from compliance.law.regions import load_regions
from compliance.log.entry import Entry
from compliance.release import bodies, verify_packs, verify_shown, verify_told
from compliance.release.case import Contents, Context, Logged, SignedRoster
from compliance.release.report import Found
from compliance.roster import RosterRow

_REMOVED = ("RSD-62", "RSD-6013")  # why a member may not take part, by the operator's trust file and suspensions


@lru_cache(maxsize=64)
def _engine(packs: tuple[Pack, ...], not_binding: tuple[str, ...], regions: bytes, law_set: str) -> Engine:
    """The engine of exactly these packs, adopted by their digests; compiled once."""
    adopted = {p.id: p.digest for p in packs}
    offered = {p.id: p for p in packs}
    return Engine(offered, adopted, not_binding=not_binding, regions=load_regions(regions), law_set=law_set)


def again(logged: Decision, packs: dict[str, Pack], regions: bytes) -> Decision:
    """The decision on the same transfer under what `logged` names (step 6: it is there, by digest)."""
    used = tuple(packs[digest] for _, digest in sorted(logged.packs.items()))
    return _engine(used, logged.not_binding, regions, logged.law_set).decide(logged.transfer)


def decisions(contents: Contents, context: Context) -> Found:
    """Step 10: every transfer by an ALLOW of both evaluators; every decision is the one that the packs give."""
    replayed, transfers = 0, 0
    behind, operator = verify_told.behind_models(contents), contents.study.operator.name
    for member, log in contents.logs.items():
        decided = {entry.index: logged for entry, logged in contents.decisions(member)}
        for index, logged in decided.items():
            made_of = behind.get(index, set()) if member == operator else set()
            verify_told.about_this(contents, log, log.entries[index], logged, made_of)
        for entry, logged in verify_packs.replayed(contents, member):
            repeated = again(logged.decision, contents.packs, contents.regions.raw)
            _same(log.where(entry), logged.decision, repeated)
            replayed += 1
        for entry, transfer in contents.bodies(member, "transfer", bodies.TransferBody):
            _allowed(log, entry, transfer, decided.get(transfer.decision))
            transfers += 1
    for signed in contents.rosters:
        for row in signed.roster.rows:
            if row.outcome == "contributed":
                _told_of_all(contents, signed, row)
    by_rule = f"{replayed} decisions were decided again with the bundle's packs and region sets, with the same result"
    who = "that the record counts, documents on file and guarantees given to the decisions are true"
    trust = context.anchor.trust
    outside = (*verify_told.outside(contents, trust), *verify_shown.despite_denial(contents, trust))
    asserted = (*((member, who) for member in contents.logs), *outside)
    return Found((f"{transfers} transfers, each after an ALLOW of both evaluators", by_rule), asserted)


def _told_of_all(contents: Contents, signed: SignedRoster, row: RosterRow) -> None:
    """The decision to send the update was about everyone whom the round's roster lists as a recipient of the model."""
    log = contents.log(row.site)
    entry = log.entries[row.decision.index] if row.decision else None
    if entry is None:
        return  # the shape of a contribution names it
    told = {p.name for p in bodies.read_decision(entry, log.where(entry)).decision.transfer.onward}
    untold = set(signed.roster.recipients) - {row.site} - told
    if untold:
        message = f"{log.where(entry)} was not told that the model goes on to {', '.join(sorted(untold))}"
        raise _false("RSD-9010", message, found=sorted(told), limit=sorted(signed.roster.recipients))


def _same(where: str, logged: Decision, repeated: Decision) -> None:
    ours, theirs = repeated.as_entry(), logged.as_entry()
    for field, value in theirs.items():
        if ours[field] != value:
            message = f"{where} is decided otherwise now: {field}"
            raise _false("RSD-9010", message, found=f"logged {value}", limit=f"again {ours[field]}")


def _allowed(log: Logged, entry: Entry, transfer: bodies.TransferBody, by: bodies.LoggedDecision | None) -> None:
    where = log.where(entry)
    if by is None or transfer.decision >= entry.index:
        raise _false(
            "RSD-9010", f"{where} is not preceded by its decision", found=transfer.decision, limit="a decision"
        )
    decision = by.decision
    if not decision.allow or (decision.evaluators.python, decision.evaluators.cedar) != ("allow", "allow"):
        message = f"{where} left although {log.where(transfer.decision)} denies it"
        raise _false("RSD-9010", message, found=f"deny by {decision.rule}", limit="allow by both evaluators")
    for what, found, limit in (
        ("artifact", transfer.artifact, decision.transfer.artifact),
        ("recipient", transfer.recipient, by.peer),
        ("round", transfer.round, by.round or transfer.round),  # 0: decided at joining, for all rounds
    ):
        if found != limit:
            message = f"{where}: {log.where(transfer.decision)} is about another {what}"
            raise _false("RSD-9010", message, found=found, limit=limit)


def denials(contents: Contents, context: Context) -> Found:
    """Step 11: who was denied by any shown log, or refused in person, was sent nothing; grounds stand in the logs."""
    operator = context.anchor.trust.operator.name
    asserted = []
    for signed in contents.rosters:
        for row in signed.roster.rows:
            if not _grounds(contents, signed, row) and row.outcome == "refused":
                code = row.reason.code if row.reason else ""
                who = "was removed by then" if code.startswith(_REMOVED) else "itself refused"
                asserted.append((operator, f"that {row.site} {who} in round {signed.roster.round} ({code})"))
    barred = _barred(contents)
    _sent_nothing(contents, barred)
    proved, sent = [], "the operator's log records no transfer to it"
    for site in contents.study.sites:
        name, rules = f"{site.name} ({site.jurisdiction})", denial_rules(contents, site.name)
        if f"answers/{site.name}.refusal.json" in contents.files:
            proved.append(f"{name} refused the study itself; {sent}")
        if rules:
            proved.append(f"{name} was denied; {sent}: {', '.join(rules)}")
        elif site.name in barred and not barred[site.name].startswith("answers/"):
            proved.append(f"{name} was denied by {barred[site.name]}; {sent}")
    told = proved or ["no shown log denies any site the model"]
    return Found((*told, _as_cleared(contents)), tuple(asserted))


def cleared(contents: Contents) -> tuple[str, ...]:
    """The sites that may have the release: allowed by the last word of the operator and of each contributing site.

    A site's own word about itself is not asked; where a log holds no decision on a site, it is not cleared, and neither
    is one that may not have the model or refused the study, or of which the decision on any update in the release, or
    on any published count, was not told.
    """
    barred, told = _barred(contents), verify_told.told_of(contents)
    members = (contents.study.operator.name, *contents.contributing)
    allow = [_lets_release(contents, member) | {member} for member in members]
    names = [site.name for site in contents.study.sites if site.name not in barred]
    return tuple(name for name in names if all(name in known for known in (*told, *allow)))


def _lets_release(contents: Contents, member: str) -> set[str]:
    """The sites of which the member's last word, decided again, is that they may have the release."""
    again = {entry.index for entry, _ in verify_packs.replayed(contents, member)}
    last = {
        logged.peer: logged.decision.allow and entry.index in again
        for entry, logged in contents.decisions(member)
        if logged.decision.transfer.artifact == bodies.RELEASED
    }
    return {peer for peer, allow in last.items() if allow}


def _as_cleared(contents: Contents) -> str:
    """The manifest names those for whom the release is cleared, and nobody else."""
    found, claimed = cleared(contents), contents.manifest.cleared
    if claimed != found:
        message = "manifest.json clears the release for others than the logged decisions do"
        raise _false("RSD-9011", message, found=list(claimed), limit=list(found))
    rest = [s.name for s in contents.study.sites if s.name not in found]
    kept = f"; not for {', '.join(rest)}" if rest else ""
    return f"by the logged decisions the release is cleared for {', '.join(found) or 'nobody'}{kept}"


def _barred(contents: Contents) -> dict[str, str]:
    """Site -> what says that it may not have the model: a denial in a shown log, or its own refusal."""
    barred = _last_denials(contents)
    for signed in contents.rosters:
        for row in signed.roster.rows:
            for ref in row.denied_by:
                barred.setdefault(row.site, f"entry {ref.index} of log {ref.origin}")
    own = {s.name: f"answers/{s.name}.refusal.json" for s in contents.study.sites}
    return {site: path for site, path in own.items() if path in contents.files} | barred


def _sent_nothing(contents: Contents, barred: dict[str, str]) -> None:
    """In no round, whatever the outcome in the roster; and no decision is passed over for an older, kinder one."""
    for signed in contents.rosters:
        for name in signed.roster.recipients:
            if name in barred:
                message = f"{signed.path}: {name} is a recipient although {barred[name]} denies it the model"
                raise _false("RSD-9011", message, found=name, limit="no denied site")
    for member, log in contents.logs.items():
        decided = [(e, d) for e, d in contents.decisions(member) if d.decision.transfer.artifact == bodies.AGGREGATE]
        for entry, body in contents.bodies(member, "transfer", bodies.TransferBody):
            denied = barred.get(body.recipient)
            if body.artifact == bodies.AGGREGATE and denied is None:
                last = [x for x in decided if x[1].peer == body.recipient and x[0].index < entry.index][-1:]
                denied = next((log.where(e) for e, d in last if not d.decision.allow), None)
            if denied is not None:
                message = f"{log.where(entry)} is a transfer to {body.recipient}, to whom {denied} denies the model"
                raise _false("RSD-9011", message, found="a transfer", limit="none")


def _last_denials(contents: Contents) -> dict[str, str]:
    """Site -> entry, for each site to which the last decision of any log on the aggregate is a denial."""
    out: dict[str, str] = {}
    for member, log in contents.logs.items():
        last: dict[str, tuple[Entry, bodies.LoggedDecision]] = {}
        for entry, logged in contents.decisions(member):
            if logged.decision.transfer.artifact == bodies.AGGREGATE:
                last[logged.peer] = (entry, logged)
        out |= {peer: log.where(entry) for peer, (entry, logged) in last.items() if not logged.decision.allow}
    return out


def _grounds(contents: Contents, signed: SignedRoster, row: RosterRow) -> bool:
    """Whether a row rests on the site's own refusal, signed or logged, or on a denial; a named entry must be one."""
    for ref in row.denied_by:
        log = next(x for x in contents.logs.values() if x.evidence.origin == ref.origin)
        entry = log.entries[ref.index]
        message = f"{signed.path}: {log.where(entry)} does not deny {row.site}"
        if entry.kind != "decision":
            raise _false("RSD-9011", message, found=entry.kind, limit="decision")
        logged = bodies.read_decision(entry, log.where(entry))
        if logged.peer != row.site or logged.decision.allow:
            found = f"{logged.decision.effect} for {logged.peer}"
            raise _false("RSD-9011", message, found=found, limit=f"deny for {row.site}")
    refused = f"answers/{row.site}.refusal.json" in contents.files
    own = contents.logs[row.site].of(contents.study_digest, "refusal") if row.site in contents.logs else []
    same = row.reason is not None and any(e.body.get("code") == row.reason.code for e in own)
    return bool(row.denied_by or refused or same)


def denial_rules(contents: Contents, site: str) -> list[str]:
    """Rules of the logged denials that the rosters name for a site, each once, with its citations."""
    rules = set()
    rows = [row for r in contents.rosters if (row := r.roster.row(site)) is not None]
    for ref in {ref for row in rows for ref in row.denied_by}:
        log = next((x for x in contents.logs.values() if x.evidence.origin == ref.origin), None)
        entry = log.entries.get(ref.index) if log else None
        if log and entry and entry.kind == "decision":
            decision = bodies.read_decision(entry, log.where(entry)).decision
            rules.add(f"{decision.rule} ({'; '.join(decision.law) or 'no statute'})")
    return sorted(rules)


def _false(code: str, message: str, *, found: object, limit: object) -> CheckFailed:
    return CheckFailed(code, message, rule="invariant 4", found=found, limit=limit)

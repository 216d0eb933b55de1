"""What a decision was told, against the study, the log and the clock around it: step 10 for each, step 11 for all."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

from compliance.clock import parse_time
from compliance.errors import CheckFailed
from compliance.law.model import Transfer
from compliance.log.entry import Entry
from compliance.release import bodies
from compliance.release.case import Contents, Logged
from compliance.study import Study, covers
from compliance.study_transfer import differences, parties
from compliance.trust.root import Trust
from compliance.trust.witnesses import outside_party

# Members log a decision as soon as it is made; between the two lies at most what two stores may wait for their disks.
LOGGED_WITHIN = timedelta(minutes=15)


def about_this(contents: Contents, log: Logged, entry: Entry, logged: bodies.LoggedDecision, behind: set[str]) -> None:
    """The exporter is the log's owner, and what was decided on, then, is what the study says of such a transfer.

    `behind`: the sites whose records the operator's model is made of. Step 12 holds the study to its noise; how many
    more persons than the study's stand behind a count, the log's owner asserts.
    """
    transfer, where = logged.decision.transfer, log.where(entry)
    for bad, message, found, limit in (
        (transfer.exporter.name != log.member, "decides for another exporter", transfer.exporter.name, log.member),
        (transfer.recipient.name != logged.peer, "names another peer", logged.peer, transfer.recipient.name),
        (transfer.study != contents.study_digest, "is of another study", transfer.study[:16], entry.study[:16]),
    ):
        if bad:
            raise _false(f"{where} {message}", found, limit)
    for message, found, limit in mistimed(contents.study, entry, transfer):
        raise _false(f"{where} {message}", found, limit)
    for field, told, due in differences(contents.study, contents.study_digest, transfer, behind):
        message = f"{where} was told of other {field} than the study gives"
        raise _false(message, str(told)[:300], str(due)[:300])


def outside(contents: Contents, trust: Trust) -> list[tuple[str, str]]:
    """Who says of an outside witness, which a checkpoint was decided to be shown to, what the trust file does not."""
    known, said = parties(contents.study), dict[tuple[str, str], None]()
    for member in contents.logs:
        for _, logged in contents.decisions(member):
            told = logged.decision.transfer
            for p in (told.recipient, *told.onward):
                if p.name not in known and p != outside_party(trust, p.name):
                    reached = f", reached from {', '.join(p.access)}" if p.access else ""
                    covered = f"{'a' if p.covered_person else 'no'} covered person"
                    text = f"that {p.name}, whom its checkpoints go to, is in {p.jurisdiction}{reached}, and {covered}"
                    said[member, text] = None
    return list(said)


def mistimed(study: Study | None, entry: Entry, transfer: Transfer) -> list[tuple[str, str, str]]:
    """(message, found, limit) for what is wrong with the time for which was decided: regions and papers go by it."""
    at, logged = parse_time(transfer.at), parse_time(entry.at)
    if at > logged:
        return [("decides for later", transfer.at, entry.at)]
    if logged - at > LOGGED_WITHIN:
        return [("decides for long before it was logged", transfer.at, f"at most 15 minutes before {entry.at}")]
    if study is not None and not covers(study, transfer.at):
        term = f"{study.starts} to {study.ends}"
        return [("decides for a time outside the study's term", transfer.at, term)]
    return []


def behind_models(contents: Contents) -> dict[int, set[str]]:
    """The operator's decisions on models, by index -> the sites whose records those are made of.

    A base is made of the rounds before it; what is evaluated and released, of all.
    """
    operator, last = contents.study.operator.name, contents.study.training.rounds
    models = {(signed.roster.round, signed.roster.base_sha256) for signed in contents.rosters}
    if contents.evaluation is not None:
        models.add((last + 1, contents.evaluation[0].model_sha256))
    found: dict[int, set[str]] = {}
    for _, sent in contents.bodies(operator, "transfer", bodies.TransferBody):
        if sent.artifact == bodies.AGGREGATE and (sent.round, sent.sha256) in models:
            found.setdefault(sent.decision, set()).update(_contributed(contents, sent.round))
    for entry, logged in contents.decisions(operator):
        if logged.decision.transfer.artifact == bodies.RELEASED:
            found[entry.index] = set(contents.contributing)
    return found


def _contributed(contents: Contents, before: int) -> set[str]:
    rosters = (signed.roster for signed in contents.rosters if signed.roster.round < before)
    return {row.site for roster in rosters for row in roster.rows if row.outcome == "contributed"}


def told_of(contents: Contents) -> list[set[str]]:
    """For each update that a contributing site sent, and each count that is published: whom its decision was about.

    The site itself among them. A release is made of these, and so may reach nobody else.
    """
    found = [told for site in contents.contributing for told in _reached(contents, site, bodies.UPDATE)]
    if contents.evaluation is not None and contents.evaluation[0].figures is not None:
        for site in contents.evaluation[0].contributed:
            found += _reached(contents, site, (bodies.METRIC,))
    return found


def _reached(contents: Contents, site: str, artifacts: Collection[str]) -> list[set[str]]:
    decided = {entry.index: logged.decision.transfer for entry, logged in contents.decisions(site)}
    sent = [b for _, b in contents.bodies(site, "transfer", bodies.TransferBody) if b.artifact in artifacts]
    return [{site, *(p.name for p in decided[b.decision].onward)} if b.decision in decided else set() for b in sent]


def _false(message: str, found: object, limit: object) -> CheckFailed:
    return CheckFailed("RSD-9010", message, rule="invariant 4", found=found, limit=limit)

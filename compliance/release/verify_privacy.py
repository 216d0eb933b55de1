"""Step 12: eps from all charges that the logs show; also how a release computes what it claims."""

from __future__ import annotations

from importlib.metadata import version

from compliance.canonical import Json
from compliance.errors import CheckFailed
from compliance.log.entry import Entry
from compliance.privacy.accounting import epsilon
from compliance.privacy.events import PrivacyEvent
from compliance.privacy.overlap import epsilon_at_sites
from compliance.release import bodies
from compliance.release.case import Contents, Context, OverlapEpsilon, SiteEpsilon
from compliance.release.report import Found
from compliance.study import SiteTerms
from compliance.study_event import EVALUATION_ROUND, also_done, study_event

Charges = list[tuple[Entry, bodies.ChargeBody]]


def claims(contents: Contents) -> dict[str, Json]:
    """privacy.json from the logs: every site whose log shows a charge of the study, in the order of the study."""
    inverse_delta, rows = contents.study.privacy.inverse_delta, []
    for site in contents.study.sites:
        charges = charged(contents, site.name)
        if charges:
            found = epsilon([c.event for _, c in charges], inverse_delta)
            limit = site.epsilon_milli
            row = {"site": site.name, "epsilon_milli": found, "limit_milli": limit, "charges": len(charges)}
            rows.append(row)
    return {
        "schema": "residency.privacy/1",
        "unit": contents.study.privacy.unit,
        "adjacency": "add_remove",
        "inverse_delta": inverse_delta,
        "accountant": f"dp-accounting {version('dp-accounting')} PLD (pessimistic)",
        "sites": rows,
        "overlap": [row.model_dump(mode="json") for row in overlap(contents)],
    }


def overlap(contents: Contents) -> tuple[OverlapEpsilon, ...]:
    """What the study cost a unit that k of the sites hold, for the k of `epsilon_at_sites`, from all charges shown."""
    spent = [tuple(c.event for _, c in charged(contents, s.name)) for s in contents.study.sites]
    found = epsilon_at_sites(spent, contents.study.privacy.inverse_delta)
    return tuple(OverlapEpsilon(sites=k, epsilon_milli=milli) for k, milli in found.items())


def charged(contents: Contents, site: str) -> Charges:
    """All charges of the study in the site's log, failed attempts too; none without a log."""
    return contents.bodies(site, "charge", bodies.ChargeBody) if site in contents.logs else []


def privacy(contents: Contents, context: Context) -> Found:
    """Step 12: the noise is the study's, charges lie within the reservation, eps is as claimed and within the limit."""
    del context
    study, claimed = contents.study, contents.claims
    found, limit = (claimed.unit, claimed.inverse_delta), (study.privacy.unit, study.privacy.inverse_delta)
    if found != limit:
        raise _false("privacy.json: another unit or delta than the study's", found=found, limit=limit)
    by_site = {s.site: s for s in claimed.sites}
    lines, shown = [], [s for s in study.sites if charged(contents, s.name)]
    if [s.name for s in shown] != [s.site for s in claimed.sites]:
        message = "privacy.json: the sites are not those whose logs show charges"
        raise _false(message, found=list(by_site), limit=[s.name for s in shown])
    for terms in shown:
        charges = charged(contents, terms.name)
        _check_charges(contents, terms, charges)
        total, claim = epsilon([c.event for _, c in charges], study.privacy.inverse_delta), by_site[terms.name]
        if total > terms.epsilon_milli:
            message = f"{terms.name} spent more than the study allows"
            raise _false(message, found=f"{total} milli-eps", limit=f"{terms.epsilon_milli} milli-eps")
        wanted = SiteEpsilon(
            site=terms.name, epsilon_milli=total, limit_milli=terms.epsilon_milli, charges=len(charges)
        )
        if claim != wanted:
            message = f"privacy.json: the claim for {terms.name} is not what its {len(charges)} charges add up to"
            raise _false(message, found=claim.model_dump_json(), limit=wanted.model_dump_json())
        lines.append(f"{terms.name}: eps {total / 1000:.3f} of {terms.epsilon_milli / 1000:.3f} per {claimed.unit} "
                     f"at delta 1/{study.privacy.inverse_delta}, {len(charges)} charges before its close")  # fmt: skip
    together = overlap(contents)
    if claimed.overlap != together:
        message = "privacy.json: the eps of a unit that several sites hold is not what their charges add up to"
        raise _false(message, found=_milli(claimed.overlap), limit=_milli(together))
    lines += [f"a {claimed.unit} that {row.sites} sites hold: eps {_plain(row)}" for row in together]
    text = "that the charged events describe what was run, and that its declared record count holds"
    return Found(tuple(lines), tuple((s.name, text) for s in shown))


def _milli(rows: tuple[OverlapEpsilon, ...]) -> list[int | None]:
    return [row.epsilon_milli for row in rows]


def _plain(row: OverlapEpsilon) -> str:
    return "without a finite bound" if row.epsilon_milli is None else f"{row.epsilon_milli / 1000:.3f}"


def _check_charges(contents: Contents, terms: SiteTerms, charges: Charges) -> None:
    log = contents.log(terms.name)
    reserved = contents.bodies(terms.name, "reservation", bodies.ReservationBody)
    for entry, charge in charges:
        event, where = charge.event, log.where(entry)
        wanted = _wanted(contents, terms, charge, where)
        for what, found, limit in (
            ("noise multiplier", event.noise_multiplier_micro, wanted.noise_multiplier_micro),
            ("sampling rate", event.rate, wanted.rate),
            ("unit", event.unit, wanted.unit),
            ("steps", event.steps, wanted.steps),
            ("sampler's error", event.tv_error_femto, wanted.tv_error_femto),
            ("event", event, wanted),
        ):
            if found != limit:
                raise _false(f"{where}: the {what} is not the study's", found=found, limit=limit)
        room = [b for e, b in reserved if e.index < entry.index and b.source == charge.source]
        if not room:
            raise _false(f"{where}: no reservation stands before it", found="no reservation", limit=charge.source)
        if room[-1].also != also_done(contents.study):
            message = f"{where}: its reservation is not of the study's evaluation"
            raise _false(message, found=len(room[-1].also), limit="as the study says")
        same = [c for _, c in charges if c.source == charge.source and c.round != EVALUATION_ROUND]
        if sum(c.event.steps for c in same) > room[-1].event.steps:
            raise _false(f"{where}: charges beyond the reservation", found=len(charges), limit=room[-1].event.steps)
    _check_sequence(contents, terms.name, charges)


def _wanted(contents: Contents, terms: SiteTerms, charge: bodies.ChargeBody, where: str) -> PrivacyEvent:
    """What the study does in that round; in round 0, once, its evaluation."""
    if charge.round != EVALUATION_ROUND:
        return study_event(contents.study, terms, 1)
    events = also_done(contents.study)
    if len(events) != 1 or charge.attempt != 1:
        message = f"{where}: the study is not evaluated, or not evaluated again"
        raise _false(message, found=f"attempt {charge.attempt}", limit=f"{len(events)} evaluations")
    return events[0]


def _check_sequence(contents: Contents, site: str, charges: Charges) -> None:
    """The ledger's numbers rise; they skip at most as many as the log has entries that are not of this study."""
    log = contents.log(site)
    own = sum(e.study == contents.study_digest for e in log.entries.values())
    others = len(log.evidence.leaf_hashes) - own
    for source in sorted({c.source for _, c in charges}):
        numbers = [c.seq for _, c in charges if c.source == source]
        skipped = numbers[-1] - numbers[0] + 1 - len(numbers)
        if numbers != sorted(set(numbers)) or skipped > others:
            message = f"log {log.evidence.origin}: charges of source {source} are missing or out of order"
            raise _false(message, found=f"sequence numbers {numbers}", limit=f"rising, at most {others} skipped")


def _false(message: str, *, found: object, limit: object) -> CheckFailed:
    return CheckFailed(
        "RSD-9012",
        message,
        rule="eps is recomputed from all charges, failed attempts included",
        found=found,
        limit=limit,
    )

"""Step 12: eps from all charges that the logs show; also how a release computes what it claims."""

from __future__ import annotations

from fractions import Fraction
from importlib.metadata import version

from compliance.canonical import Json
from compliance.errors import CheckFailed
from compliance.log.entry import Entry
from compliance.privacy.accounting import epsilon
from compliance.release import bodies
from compliance.release.case import Contents, Context, SiteEpsilon
from compliance.release.report import Found
from compliance.study import SiteTerms

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
    }


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
    text = "that the charged events describe what was run, and that its declared record count holds"
    return Found(tuple(lines), tuple((s.name, text) for s in shown))


def _check_charges(contents: Contents, terms: SiteTerms, charges: Charges) -> None:
    log = contents.log(terms.name)
    reserved = contents.bodies(terms.name, "reservation", bodies.ReservationBody)
    for entry, charge in charges:
        event, where = charge.event, log.where(entry)
        for what, found, limit in (
            ("noise multiplier", event.noise_multiplier_micro, terms.noise_multiplier_micro),
            ("sampling rate", event.rate, Fraction(terms.batch, terms.records_public)),
            ("unit", event.unit, contents.study.privacy.unit),
            ("steps", event.steps, contents.study.training.steps),
        ):
            if found != limit:
                raise _false(f"{where}: the {what} is not the study's", found=found, limit=limit)
        room = [b for e, b in reserved if e.index < entry.index and b.source == charge.source]
        if not room:
            raise _false(f"{where}: no reservation stands before it", found="no reservation", limit=charge.source)
        if sum(c.event.steps for _, c in charges if c.source == charge.source) > room[-1].event.steps:
            raise _false(f"{where}: charges beyond the reservation", found=len(charges), limit=room[-1].event.steps)
    _check_sequence(contents, terms.name, charges)


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

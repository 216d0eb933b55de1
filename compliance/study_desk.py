"""What is checked about a study before somebody proposes or answers it. Decisions only."""

from __future__ import annotations

from compliance.canonical import parse_canonical
from compliance.clock import now, parse_time, rfc3339
from compliance.errors import Refused
from compliance.identity import parse_envelope
from compliance.policy import SitePolicy
from compliance.privacy.accounting import check_claim
from compliance.study import SiteTerms, Study
from compliance.study_event import also_done, study_event
from compliance.trust.root import Member, Trust
from compliance.validation import load_model


def check_members(study: Study, trust: Trust) -> None:
    """Each site and the operator are members, in the jurisdictions that the trust file says.

    Raises InputError RSD-6010 (no member), Refused RSD-2104 (another jurisdiction).
    """
    _same_place(study, study.operator.name, study.operator.jurisdiction, trust.operator)
    for site in study.sites:
        _same_place(study, site.name, site.jurisdiction, trust.site(site.name))


def _same_place(study: Study, name: str, jurisdiction: str, member: Member) -> None:
    if jurisdiction != member.jurisdiction:
        raise Refused(
            "RSD-2104",
            f"study {study.name} says of {name} what the trust file does not",
            rule="jurisdictions are those that the sites signed in trust.json",
            found=jurisdiction,
            limit=member.jurisdiction,
            next="correct the study, or have the next trust file signed",
        )


def not_ended(study: Study) -> None:
    """The study's term is not over. Raises Refused RSD-2008."""
    if now() > parse_time(study.ends):
        raise Refused(
            "RSD-2008",
            f"the term of study {study.name} is over",
            rule="study.ends",
            found=rfc3339(now()),
            limit=study.ends,
            next="propose a study whose term lies ahead",
        )


def check_noise(study: Study, terms: SiteTerms) -> None:
    """The noise keeps the eps that the study claims for this site. Raises Refused RSD-4003, RSD-4005."""
    event = study_event(study, terms, study.charged_rounds)
    check_claim(event, terms.epsilon_milli, study.privacy.inverse_delta, also_done(study))


def policy_site(data: bytes, what: str) -> str:
    """The site that a signed policy names, unverified: whose signatory must have signed it."""
    payload = parse_canonical(parse_envelope(data, what).payload, what)
    return load_model(SitePolicy, payload, "RSD-2007", what).site

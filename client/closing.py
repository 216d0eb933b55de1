"""The end of a study at one site: what was reserved and not spent becomes free, what was cached of its records goes."""

from __future__ import annotations

from client.data.withdrawals import purge_cache
from client.site import Site
from client.studies import held_studies
from compliance.clock import now, parse_time
from compliance.log.entry import Entry
from compliance.log.evidence import closing_body


def settle(site: Site, study: str) -> tuple[list[Entry], int]:
    """Close a joined study; its entries before that, and the place of the closing entry. Nothing leaves the site.

    The closing entry counts this site's entries of the study and fixes their places, so that nobody can leave one out.
    Asked twice, it closes once, unless something was joined, charged, sent or signed in between. That the term is over,
    or an approval was taken back, is no reason to keep a patient population's budget: only the join is needed.
    Raises Refused RSD-1213.
    """
    site.joined_study(study)
    held = list(site.log.entries(0, study=study))
    closed = _closing_entry(held)
    if closed is None:
        rosters = [str(e.body["digest"]) for e in held if e.kind == "roster"]
        closed = site.record("close", closing_body(held, rosters), study).index
    site.ledger.release_unused(study)  # also when the entry is there: a crash may have come between the two
    purge_cache(site.home.study_folder(study) / "cache")
    return held, closed


def settle_over(site: Site) -> None:
    """`settle` every joined study whose term is over: its run can ask for nothing more, not even to be closed."""
    for study in held_studies(site.home):
        if study.ends and parse_time(study.ends) < now():
            settle(site, study.digest)


def _closing_entry(held: list[Entry]) -> int | None:
    """The last closing entry, unless something was joined, charged or sent after it."""
    for entry in reversed(held):
        if entry.kind == "close":
            return entry.index
        if entry.kind in {"join", "charge", "transfer", "roster"}:
            return None
    return None

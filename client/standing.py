"""What a site sends outside of runs: may it, now? Asked before every sending, of the engine that decides in runs too.

A decision is in the log before the first thing that it lets out, and again whenever it changes.
"""

from __future__ import annotations

from client.books import Books
from client.denial import denied
from compliance.clock import now, rfc3339
from compliance.law.model import Decision, Party, Transfer
from compliance.law.vocabulary import Artifact
from compliance.trust.root import Anchor

Logged = dict[tuple[Artifact, str], tuple[object, ...]]  # what was decided last, as it stands in the log


class Standing:
    """Decisions about one site's metadata for the operator, who passes it on to the other members.

    `logged`: the memory of an earlier connection, so that whoever cuts connections off fills no log with decisions.
    """

    def __init__(self, books: Books, logged: Logged | None = None) -> None:
        self._books = books
        self._logged: Logged = {} if logged is None else logged

    def check(self, artifact: Artifact, study: str = "") -> None:
        """Returns if `artifact` may go to the operator and on to the other members.

        Raises Refused RSD-3100 (denied), or what reading the policy raises: without a valid policy nothing leaves.
        """
        books = self._books
        policy = books.home.policy(books.anchor).policy
        decision = books.home.engine(policy).decide(transfer(books.anchor, books.name, artifact, study))
        made = (decision.allow, decision.rule, books.anchor.digest, tuple(sorted(decision.packs.items())))
        if self._logged.get((artifact, study)) != made:
            books.record("decision", _entry(decision), "")  # of no study: a run's entries are those of the run
            self._logged[artifact, study] = made
        if not decision.allow:
            raise denied(decision)


def transfer(anchor: Anchor, site: str, artifact: Artifact, study: str) -> Transfer:
    """What would leave `site` outside of a run: for the operator, and onward for every other member."""
    trust = anchor.trust
    return Transfer(
        artifact=artifact,
        exporter=Party(name=site, jurisdiction=trust.site(site).jurisdiction),
        recipient=Party(name=trust.operator.name, jurisdiction=trust.operator.jurisdiction),
        onward=tuple(Party(name=s.name, jurisdiction=s.jurisdiction) for s in trust.sites if s.name != site),
        purpose="study_administration",
        study=study,
        at=rfc3339(now()),
    )


def _entry(decision: Decision) -> dict[str, object]:
    return {**decision.as_entry(), "round": 0, "peer": decision.transfer.recipient.name}

"""What a site sends outside of runs: may it, now? Asked before every sending, of the engine that decides in runs too.

A decision is in the log before the first thing that it lets out, and again whenever it changes.
"""

from __future__ import annotations

from client.books import Books
from client.denial import denied
from client.home import AgentHome
from compliance.clock import now, rfc3339
from compliance.errors import Refused, ResidencyError
from compliance.law.alarm import sound
from compliance.law.model import Decision, Party, Transfer
from compliance.law.vocabulary import Artifact
from compliance.log.order import refuse_set_back
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

        Raises Refused RSD-3100 (denied), RSD-3065 (clock set back), or what reading policy and law set raises: without
        both nothing leaves.
        """
        books = self._books
        refuse_set_back(books.log, rfc3339(now()))
        decision = decided(books.home, books.anchor, artifact, study)
        made = (decision.allow, decision.rule, books.anchor.digest, tuple(sorted(decision.packs.items())))
        if self._logged.get((artifact, study)) != made:
            entry = books.record("decision", _entry(decision), "")  # of no study: a run's entries are those of the run
            sound(books.log, decision, entry.index)
            self._logged[artifact, study] = made
        if not decision.allow:
            raise denied(decision)

    def tellable(self, error: ResidencyError) -> ResidencyError:
        """`error`, if its code and texts may leave the site; else one that says nothing but that."""
        try:
            self.check("conformance_report")
        except ResidencyError:
            return Refused(
                "RSD-3061", "this site does not say why it refuses", rule="reasons leave a site by its own rules only",
                next="ask the site's people: its log holds the reason",
            )  # fmt: skip
        return error


def decided(home: AgentHome, anchor: Anchor, artifact: Artifact, study: str = "") -> Decision:
    """The decision on what would leave outside of a run, now; not logged. Raises what reading the law set raises."""
    law_set = home.law(anchor).law_set
    return home.engine(law_set).decide(transfer(anchor, home.config.site, artifact, study))


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

"""What a study says of one transfer: its parties, papers, categories, groups and guarantees.

The one place that says so: a site and the server decide on what is made here, and a verifier makes it again.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from compliance.law.counters import bucket, due_counts
from compliance.law.model import Count, Document, Guarantees, Party, Transfer
from compliance.law.vocabulary import Artifact
from compliance.study import Operator, SiteTerms, Study
from compliance.trust.root import Trust
from compliance.trust.witnesses import outside_party

# What carries something of persons' data: counted, person by person, before it leaves.
COUNTED: Final[frozenset[Artifact]] = frozenset({"dp_update", "masked_update", "metric", "aggregate", "released_model"})
# What an outside witness is shown: the study says nothing of it, the trust file does.
SHOWN: Final[Artifact] = "log_checkpoint"
# What derives from the records of a whole quorum.
OF_A_QUORUM: Final[frozenset[Artifact]] = frozenset({"aggregate", "released_model"})


def party(member: Operator | SiteTerms) -> Party:
    """A member of the study as the decision engine reads it."""
    return Party(
        name=member.name,
        jurisdiction=member.jurisdiction,
        access=member.access,
        covered_person=member.covered_person,
    )


def parties(study: Study) -> dict[str, Party]:
    """All members of the study by name, the operator first."""
    return {m.name: party(m) for m in study.members}


def witness_party(study: Study, trust: Trust, holder: str) -> Party:
    """The holder of a witness's key as the decision engine reads it: a member of the study, or who it is outside."""
    return parties(study).get(holder) or outside_party(trust, holder)


def documents_of(study: Study) -> tuple[Document, ...]:
    """The study's papers as the decision engine reads them."""
    return tuple(Document(**d.model_dump(exclude={"title"})) for d in study.documents)


def patients(study: Study, terms: SiteTerms) -> int:
    """How many patients the study says a site's records are of; 0 where it does not say."""
    return terms.records_public if study.privacy.unit == "patient" or terms.sole_record else 0


def quorum_patients(study: Study) -> int:
    """The patients of the smallest quorum that a global model can be made of."""
    return sum(sorted(patients(study, s) for s in study.sites)[: study.quorum.sites])


def transfer_of(
    study: Study,
    digest: str,
    exporter: str,
    artifact: Artifact,
    recipient: Party,
    onward: tuple[Party, ...] = (),
    *,
    counts: tuple[Count, ...] = (),
    at: str,
) -> Transfer:
    """`artifact` of the member `exporter` on its way to `recipient`, at `at` (RFC 3339).

    All else is the study's: whoever makes it again from the same study gets the same.
    """
    group = next((g for g in study.groups if exporter in g.sites), None)
    return Transfer(
        artifact=artifact,
        exporter=parties(study)[exporter],
        recipient=recipient,
        onward=onward,
        purpose=study.purpose,
        study=digest,
        documents=documents_of(study),
        guarantees=guarantees_of(study, exporter, artifact),
        controllers=study.controllers,
        categories=study.data_categories,
        counts=counts,
        group=group.name if group else "",
        group_members=group.sites if group else (),
        at=at,
    )


def guarantees_of(study: Study, exporter: str, artifact: Artifact) -> Guarantees:
    """What this software guarantees about `artifact` of `exporter`; what derives from all, at the weakest site's eps.

    Private keys are made where they are used. There is no secure aggregation.
    """
    terms = study.site(exporter)
    epsilon = terms.epsilon_milli if terms else max(s.epsilon_milli for s in study.sites)
    own = patients(study, terms) if terms else 0
    return Guarantees(
        unit=study.privacy.unit,
        epsilon_milli=epsilon,
        inverse_delta=study.privacy.inverse_delta,
        min_sites=study.quorum.sites,
        min_patients=quorum_patients(study) if artifact in OF_A_QUORUM else own,
        keys_in=(parties(study)[exporter].jurisdiction,),
    )


def differences(
    study: Study, digest: str, told: Transfer, behind: Collection[str] = ()
) -> list[tuple[str, object, object]]:
    """(field, found, limit) for each field of a transfer that is not what the study makes of it.

    Artifact, recipient, later recipients and time are the transfer's own; each party must be the study's, but for the
    outside witness that a checkpoint is shown to. Each count that is due is there, the edge of a bucket, of no fewer
    persons than the study says: those of the exporter, or of the sites `behind` the operator's model.
    """
    known = parties(study)
    if told.exporter.name not in known:
        return [("exporter", told.exporter.name, sorted(known))]
    strangers = [p.name for p in (told.recipient, *told.onward) if known.get(p.name) != p]
    strangers = [name for name in strangers if name in known or told.artifact != SHOWN]
    if strangers:
        return [("parties", strangers, "members as the study describes them")]
    wrong = _wrong_counts(study, told, behind)
    if wrong:
        return [("counts", *wrong)]
    again = transfer_of(
        study, digest, told.exporter.name, told.artifact, told.recipient, told.onward, counts=told.counts, at=told.at
    )
    ours, theirs = again.model_dump(mode="json"), told.model_dump(mode="json")
    return [(field, theirs[field], value) for field, value in ours.items() if theirs[field] != value]


def _wrong_counts(study: Study, told: Transfer, behind: Collection[str]) -> tuple[object, object] | None:
    """(found, limit) if a count is missing, made up, or says less than the study does."""
    parties_told = (told.recipient, *told.onward)
    due = due_counts(told.exporter, parties_told) if told.artifact in COUNTED else {}
    given = [(c.counter, c.recipient) for c in told.counts]
    if sorted(given) != sorted(due):
        return given, list(due)
    origins = {told.exporter.name, *behind}
    least = bucket(sum(patients(study, terms) for terms in study.sites if terms.name in origins))
    for count in told.counts:
        adds = due[count.counter, count.recipient]
        if bucket(count.at_most) != count.at_most:
            return count.at_most, "the edge of a bucket"
        if adds and (count.at_most < least or not set(study.data_categories) <= set(count.categories)):
            return (count.at_most, count.categories), (f"at least {least}", study.data_categories)
    return None

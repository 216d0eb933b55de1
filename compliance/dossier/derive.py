"""From entries to articles: one derivation, for whoever makes a dossier and for whoever verifies it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, get_args

from compliance.dossier import figures, flows, records
from compliance.dossier.given import Given, last_time, packs_named, packs_of, source, study_of
from compliance.dossier.material import Material
from compliance.dossier.model import SCHEMA, ArticleShown, Dossier, RegimeShown, Source, Status, StudyShown, Table
from compliance.dossier.regime import Article, Regime, Shows, TableName

_TABLES: Final[dict[TableName, Callable[[Material, Shows], Table]]] = {
    "study": records.study,
    "parties": records.parties,
    "documents": records.documents,
    "recipients": flows.recipients,
    "flows": flows.flows,
    "counters": flows.counters,
    "epsilon": figures.epsilons,
    "mechanism": figures.mechanism,
    "conformance": figures.conformance,
    "packs": records.packs,
    "retention": records.retention,
    "span": records.span,
    "logs": records.logs,
    "entries": records.entries,
}
assert set(_TABLES) == set(get_args(TableName))  # noqa: S101 - no name without a derivation


def article(found: Article, material: Material) -> ArticleShown:
    """One article from the entries. Raises InputError RSD-9041 for an entry that does not have the form of its kind."""
    tables = tuple(_TABLES[shows.table](material, shows) for shows in found.shows)
    status: Status = "NOT COVERED" if not tables else "evidence shown"
    if tables and not any(row.rests_on for table in tables for row in table.rows):
        status = "nothing recorded"
    return ArticleShown(
        id=found.id,
        citation=found.citation,
        title=found.title,
        asks=found.asks,
        confidence=found.confidence,
        source_kind=found.source_kind,
        source=found.source,
        status=status,
        tables=tables,
        not_covered=found.not_covered,
    )


def reading(regime: Regime) -> RegimeShown:
    """Which reading of the regime is used."""
    return RegimeShown(
        id=regime.id,
        title=regime.title,
        version=regime.version,
        sha256=regime.digest,
        reviewer=regime.reviewer,
        draft=regime.draft,
        verified_on=regime.verified_on,
        not_covered=regime.not_covered,
    )


def study_shown(given: Given) -> StudyShown:
    """The study by its digest; its name from its signed form, else from the entries by which it came into the logs."""
    study = study_of(given.anchor, given.document, given.study)
    logged = (h.entry.body.get("name") for h in given.held if h.entry.kind == "study" and h.entry.study == given.study)
    name = study.name if study else next((n for n in logged if isinstance(n, str)), "")
    return StudyShown(digest=given.study, name=name, document=given.document)


def sources(given: Given) -> tuple[Source, ...]:
    """What is said of each log. Raises CheckFailed RSD-9105 if entries are here that its close does not count."""
    return tuple(source(given.anchor.trust, end, given.held, given.study) for end in given.ordered_tips)


def missing(given: Given) -> tuple[str, ...]:
    """Members of the study, or of the consortium if the study is not at hand, whose log is not here."""
    trust, study = given.anchor.trust, study_of(given.anchor, given.document, given.study)
    sites = study.sites if study else trust.sites
    here = {end.member for end in given.tips.values()}
    return tuple(name for name in (trust.operator.name, *(s.name for s in sites)) if name not in here)


def material(given: Given) -> Material:
    """What tables are derived from. Raises CheckFailed RSD-9105 for packs that no decision names."""
    return Material(
        digest=given.study,
        study=study_of(given.anchor, given.document, given.study),
        trust=given.anchor.trust,
        sources=sources(given),
        held=given.held,
        packs=packs_of(packs_named(given.held, given.regime), given.packs),
    )


def articles(given: Given) -> tuple[ArticleShown, ...]:
    """Every article of the regime, in its order."""
    found = material(given)
    return tuple(article(one, found) for one in given.regime.articles)


def dossier(given: Given) -> Dossier:
    """All that follows from what is given."""
    return Dossier(
        schema=SCHEMA,
        regime=reading(given.regime),
        consortium=given.anchor.trust.consortium,
        trust=given.anchor.digest,
        study=study_shown(given),
        until=last_time(given.held),
        sources=sources(given),
        missing=missing(given),
        articles=articles(given),
        packs=given.packs,
        entries=given.opened,
    )

"""The invented papers make exactly the story: four sites may, the fifth may not be sent the model."""

from __future__ import annotations

import hashlib

import pytest

from compliance.clock import now, rfc3339
from compliance.law.decide import Engine, builtin_packs
from compliance.law.model import Count, Decision, Document, Guarantees, Party, Transfer
from compliance.law.vocabulary import Artifact
from demo.cast import DENIED, OPERATOR, OPERATOR_JURISDICTION, SITES, TRAINING
from demo.papers import PAPERS, Terms, day, study
from demo.recipe import EPSILON_MILLI, INVERSE_DELTA, PLAIN

PACKS = builtin_packs()
ENGINE = Engine(PACKS, {name: pack.digest for name, pack in PACKS.items()})
DOCUMENTS = tuple(
    Document(
        kind=p.kind, sha256=hashlib.sha256(p.id.encode()).hexdigest(), expires=day(365),
        from_jurisdiction=p.from_jurisdiction, to_jurisdiction=p.to_jurisdiction, covers=p.covers,
    )
    for p in PAPERS
)  # fmt: skip
PARTIES = {s.name: Party(name=s.name, jurisdiction=s.jurisdiction) for s in SITES}
# What the site in China has sent in the year, its rows of this study included.
COUNTS = (Count(counter="cn_calendar_year", recipient="*", at_most=100, categories=("health",)),)
CENTRE = Party(name=OPERATOR, jurisdiction=OPERATOR_JURISDICTION)


def decide(artifact: Artifact, exporter: Party, recipient: Party) -> Decision:
    """One decision under all built-in packs."""
    guarantees = Guarantees(
        unit="record", epsilon_milli=EPSILON_MILLI, inverse_delta=INVERSE_DELTA, min_sites=len(TRAINING)
    )
    return ENGINE.decide(
        Transfer(
            artifact=artifact,
            exporter=exporter,
            recipient=recipient,
            purpose="scientific_research",
            study="0" * 64,
            documents=DOCUMENTS,
            guarantees=guarantees,
            counts=COUNTS if exporter.jurisdiction == "CN" else (),
            at=rfc3339(now()),
        )
    )


@pytest.mark.parametrize("site", [s.name for s in SITES])
def test_every_site_may_send_its_noised_update(site: str) -> None:
    assert decide("dp_update", PARTIES[site], CENTRE).allow


@pytest.mark.parametrize("site", [s.name for s in TRAINING])
def test_the_four_may_be_sent_the_model(site: str) -> None:
    for exporter in [CENTRE, *(PARTIES[s.name] for s in TRAINING if s.name != site)]:
        assert decide("aggregate", exporter, PARTIES[site]).allow, exporter


@pytest.mark.parametrize("exporter", [CENTRE, *(PARTIES[s.name] for s in TRAINING)], ids=lambda p: p.name)
def test_the_fifth_may_not(exporter: Party) -> None:
    denied = decide("aggregate", exporter, PARTIES[DENIED])
    assert not denied.allow
    if exporter.jurisdiction in {"IE", "DE", "FR"}:
        assert denied.rule == "eu.no-basis"
        assert denied.law == ("GDPR Art 44", "GDPR Art 45", "GDPR Art 46")


def test_at_least_four_sites_in_three_jurisdictions() -> None:
    assert len(TRAINING) >= 4
    assert len({s.jurisdiction for s in TRAINING}) >= 3


def test_the_study_names_every_paper_and_site() -> None:
    terms = Terms("thyroid", PLAIN, "0" * 64, {})
    drawn = study(terms)
    assert [d["id"] for d in drawn["documents"]] == [p.id for p in PAPERS]
    assert [s["name"] for s in drawn["sites"]] == [s.name for s in SITES]
    assert all(s["epsilon_milli"] <= 8000 and "noise_multiplier_micro" not in s for s in drawn["sites"])
    noise = {s.name: 900_000 for s in SITES}
    given = study(Terms("thyroid", PLAIN, "0" * 64, {}, noise_micro=noise))
    assert all(s["noise_multiplier_micro"] == 900_000 for s in given["sites"])

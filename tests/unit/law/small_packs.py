"""Three small packs and their region sets, written for the tests alone, and builders of what is decided about."""

from __future__ import annotations

from typing import Any

from compliance.law.decide import Engine
from compliance.law.model import Count, Document, Guarantees, Party, Transfer
from compliance.law.pack import load_pack
from compliance.law.regions import load_regions
from compliance.law.vocabulary import NAMES_ITS_DESTINATION

AT = "2026-11-22T10:00:00Z"

REGIONS_TEXT = """\
schema: residency.regions/1
regions:
  HOME:
    title: The home states
    confidence: medium
    source: Made for the tests.
    members:
      - {codes: [DE, FR], since: 2018-05-25}
      - {codes: [GB], since: 2018-05-25, until: 2021-01-01}
  GOOD:
    title: Those whose law is good enough
    confidence: medium
    source: Made for the tests.
    members:
      - {codes: [CH, JP], since: 2018-05-25}
      - {codes: [BR], since: 2026-01-28}
  US:
    title: The United States
    confidence: medium
    source: Made for the tests.
    members:
      - {codes: [US], since: 2018-05-25}
  RIVAL:
    title: Rivals of the United States
    confidence: medium
    source: Made for the tests.
    members:
      - {codes: [CN, RU], since: 2018-05-25}
  IN:
    title: India
    confidence: medium
    source: Made for the tests.
    members:
      - {codes: [IN], since: 2018-05-25}
"""

_HEAD = """\
schema: residency.law-pack/2
id: {id}
title: {title}
jurisdictions: [{jurisdictions}]
version: 1
kind: {kind}
binds: {binds}
{note}reviewer: none
confidence: medium
verified_on: 2018-05-25
expires_on: 2027-06-30
source: Made for the tests alone.
not_covered: [everything else]
rules:
"""
_TAIL = """\
    confidence: medium
    source_kind: secondary
    source: Made for the tests alone.
"""


def _rule(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.strip().splitlines()).replace("    ", "  - ", 1) + _TAIL


def _never(pack: str) -> str:
    return _rule(f"""
id: {pack}.never-raw
effect: deny
plain: Records never leave.
law: [Act 1]
from_region: [ANY]
to_region: [ANY]
artifact: [raw_record, embedding, gradient]
purpose: ["*"]
""")


ALPHA_TEXT = (
    _HEAD.format(id="alpha", title="The Alpha Act", jurisdictions="DE, FR", kind="full", binds="all", note="")
    + _never("alpha")
    + _rule("""
id: alpha.no-basis
effect: deny
plain: Data leave home for a bad country only on clauses or rules with an assessment.
law: [Act 44]
from_region: [HOME]
to_region: [ANY]
to_region_except: [HOME, GOOD]
artifact: [dp_update, masked_update, aggregate, released_model, metric]
purpose: ["*"]
unless: {any_of: [[scc, tia], [bcr, tia]]}
""")
    + _rule("""
id: alpha.unconfirmed
effect: deny
plain: A good country counts only for a recipient that is named.
law: [Act 45]
from_region: [HOME]
to_region: [GOOD]
artifact: [dp_update, masked_update, aggregate, metric]
purpose: ["*"]
unless: {any_of: [[adequacy_confirmation], [scc, tia]]}
""")
    + _rule("""
id: alpha.paused
effect: deny
plain: Models go to good countries on corporate rules, until June.
law: [Act 46]
from_region: [HOME]
to_region: [GOOD]
artifact: [released_model]
purpose: ["*"]
unless: {documents: [bcr]}
expires_on: 2026-12-01
""")
    + _rule("""
id: alpha.metadata
effect: allow
plain: Answers and rosters may go to anybody.
law: []
house: {note: "They hold no patient data."}
from_region: [HOME]
to_region: [ANY]
artifact: [answer, roster, dataset_descriptor]
purpose: [study_administration]
""")
    + _rule("""
id: alpha.update.within
effect: allow
plain: Noised updates may move at home.
law: [Act 6]
house: {documents: [ethics], unit: [record, patient], epsilon_milli_at_most: 8000, inverse_delta_at_least: 1000}
from_region: [HOME]
to_region: [HOME]
artifact: [dp_update, metric]
purpose: [scientific_research]
requires: {documents: [dpia, art6_basis]}
""")
    + _rule("""
id: alpha.update.abroad
effect: allow
plain: Noised updates may go abroad on a basis.
law: [Act 46]
house: {documents: [ethics], unit: [patient]}
from_region: [HOME]
to_region: [ANY]
artifact: [dp_update]
purpose: [scientific_research]
requires: {documents: [dpia], any_of: [[scc, tia], [bcr, tia], [adequacy_confirmation]]}
""")
    + _rule("""
id: alpha.masked
effect: allow
plain: Masked updates may leave in sums.
law: [Act 6]
house: {secure_aggregation: true, secure_aggregation_threshold_at_least: 3, min_sites_at_least: 3, group_sum: true}
from_region: [HOME]
to_region: [HOME, GOOD]
artifact: [masked_update]
purpose: [scientific_research]
requires: {documents: [dpia]}
""")
    + _rule("""
id: alpha.sums
effect: allow
plain: Sums over enough patients may leave if the keys stay.
law: [Act 6]
house: {keys_within: [HOME, GOOD]}
from_region: [HOME]
to_region: [ANY]
artifact: [aggregate]
purpose: [scientific_research]
requires: {guarantees: {min_patients_at_least: 50}}
""")
    + _rule("""
id: alpha.model
effect: allow
plain: Models may go home and to good countries.
law: [Act 6]
from_region: [HOME]
to_region: [HOME, GOOD]
artifact: [released_model]
purpose: [publication]
""")
    + _rule("""
id: alpha.model.old
effect: allow
plain: Models may go to anybody for research, until June.
law: [Act 6]
from_region: [HOME]
to_region: [ANY]
artifact: [released_model]
purpose: [scientific_research]
expires_on: 2026-12-01
""")
)

BETA_TEXT = (
    _HEAD.format(
        id="beta",
        title="The Beta Rule",
        jurisdictions="US",
        kind="full",
        binds="declared",
        note="binds_note: those who hold data of many persons\n",
    )
    + _never("beta")
    + _rule("""
id: beta.rival.health
effect: deny
plain: Health data of more than 10,000 persons do not go to a rival.
law: [Rule 205]
from_region: [US]
to_region: [RIVAL, COVERED_PERSON]
artifact: ["*"]
purpose: ["*"]
category: [health]
over: {counter: us_12_months, above: 10000}
unless: {documents: [doj_license]}
""")
    + _rule("""
id: beta.rival.genomic
effect: deny
plain: Genomic data of more than 100 persons do not go to a rival.
law: [Rule 205]
from_region: [US]
to_region: [RIVAL, COVERED_PERSON]
artifact: ["*"]
purpose: ["*"]
category: [genomic]
over: {counter: us_12_months, above: 100}
""")
    + _rule("""
id: beta.rival.geolocation
effect: deny
plain: Geolocation data do not go to a rival.
law: [Rule 206]
from_region: [US]
to_region: [RIVAL, COVERED_PERSON]
artifact: ["*"]
purpose: ["*"]
category: [geolocation]
""")
    + _rule("""
id: beta.small
effect: deny
plain: What few patients are behind goes nowhere.
law: []
house: {note: "Ours."}
from_region: [US]
to_region: [ANY]
artifact: [aggregate]
purpose: ["*"]
unless: {guarantees: {min_patients_at_least: 20}}
""")
    + _rule("""
id: beta.update
effect: allow
plain: Health and genomic updates may go to anybody.
law: [Rule 1]
from_region: [US]
to_region: [ANY]
artifact: [dp_update, aggregate]
purpose: [scientific_research]
category: [health, genomic, geolocation]
""")
)

GAMMA_TEXT = _HEAD.format(id="gamma", title="Gamma", jurisdictions="IN", kind="facts", binds="all", note="") + _rule("""
id: gamma.no-reviewed-pack
effect: deny
plain: There is no reviewed pack for this regime.
law: [Gamma 8(3)]
house: {note: "Without rules nothing leaves."}
from_region: [IN]
to_region: [ANY]
artifact: ["*"]
purpose: ["*"]
""")

REGIONS = load_regions(REGIONS_TEXT.encode())
PACKS = {pack.id: pack for pack in (load_pack(text.encode(), REGIONS) for text in (ALPHA_TEXT, BETA_TEXT, GAMMA_TEXT))}
ADOPTED = {name: pack.digest for name, pack in PACKS.items()}
ENGINE = Engine(PACKS, ADOPTED, regions=REGIONS)
GIVEN: dict[str, Any] = {
    "unit": "patient",
    "epsilon_milli": 3000,
    "inverse_delta": 100_000,
    "min_sites": 4,
    "min_patients": 500,
    "secure_aggregation": True,
    "secure_aggregation_threshold": 3,
    "group_sum": True,
    "keys_in": ("DE", "CH"),
}


def document(
    kind: str, origin: str = "*", target: str = "*", covers: str = "server", expires: str = "2027-12-31"
) -> Document:
    return Document(
        kind=kind, sha256="ab" * 32, expires=expires, from_jurisdiction=origin, to_jurisdiction=target, covers=covers
    )


def papers(kinds: str, covers: str = "server", target: str = "*") -> tuple[Document, ...]:
    """One of each kind; those that must name their destination name `target`."""
    places = {kind: target if kind in NAMES_ITS_DESTINATION else "*" for kind in kinds.split()}
    return tuple(document(kind, target=place, covers=covers) for kind, place in places.items())


def us_count(at_most: int, *categories: Any, recipient: str = "server") -> Count:
    return Count(counter="us_12_months", recipient=recipient, at_most=at_most, categories=categories or ("health",))


def transfer(artifact: Any, leg: str, docs: str = "", **rest: Any) -> Transfer:
    """From the clinic to the server; `leg` "DE FR" says where they are, `given` changes GIVEN."""
    origin, target = leg.split()
    given = GIVEN | rest.pop("given", {})
    recipient = {"name": "server", "jurisdiction": target} | rest.pop("recipient", {})
    filed = papers(docs, target=target)
    fields = {"purpose": "scientific_research", "study": "cd" * 32, "documents": filed, "at": AT} | rest
    return Transfer(
        artifact=artifact,
        exporter=Party(name="clinic", jurisdiction=origin),
        recipient=Party(**recipient),
        guarantees=Guarantees(**given),
        **fields,
    )

"""Which papers must be on file under each regime whatever else is asked, written from the law and not from the packs.

A pack that no longer asks for one of them is a counter-example. The house's own demands (an ethics opinion everywhere
but under HIPAA, an assessment) stand in the same table: they are as easily lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import z3

from compliance.law.proof_model import Leg, Sent, Term, World

Way: TypeAlias = tuple[str, ...]  # papers that must all be there


@dataclass(frozen=True)
class Asked:
    """Under `pack`, one of `ways` must be on file, where all that is set applies: empty means any, or always.

    `beyond`: the recipient is in none of these sets. `persons`: a counter and the first number at which it asks; a
    count that nobody knows is above it.
    """

    pack: str
    home: tuple[str, ...]  # region sets of the exporter
    ways: tuple[Way, ...]
    beyond: tuple[str, ...] = ()
    within: tuple[str, ...] = ()
    purposes: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    persons: tuple[str, int] | None = None

    @property
    def told(self) -> str:
        """What lacks, in words."""
        return " or ".join(" and ".join(way) for way in self.ways)


@dataclass(frozen=True)
class Keys:
    """Masked updates: every key is in `inside`, unless the recipient is in `vouched`, or confirmed and in `partly`."""

    pack: str
    home: tuple[str, ...]
    vouched: tuple[str, ...]
    partly: tuple[str, ...]
    inside: tuple[str, ...]


_EEA, _UK, _CH, _US, _JP, _CN = ("EEA",), ("UK",), ("CH",), ("US",), ("JP",), ("CN",)
_UK_SAFEGUARDS = (
    ("idta", "uk_transfer_test"),
    ("idta", "tia"),
    ("scc", "uk_addendum", "uk_transfer_test"),
    ("scc", "uk_addendum", "tia"),
)
_CH_SAFEGUARDS = (("swiss_scc", "tia"), ("bcr", "tia"))
_DECLARED = ("us-hipaa", "us-ca")  # where they are not adopted their papers are not asked for
_NAMED = ("hipaa_authorization",)
_DEIDENTIFIED = ("hipaa_deidentification",)
_LIMITED = ("hipaa_data_use_agreement",)
PAPERS: tuple[Asked, ...] = (
    # GDPR Art 6, 9, 35; the bases of Chapter V are a statement of their own
    Asked("eu", _EEA, (("dpia", "art6_basis", "art9_basis", "ethics"),)),
    # UK GDPR Art 6, 9, 35, 44A to 46
    Asked("uk", _UK, (("dpia", "art6_basis", "art9_basis", "ethics"),)),
    Asked("uk", _UK, _UK_SAFEGUARDS, beyond=("UK", "UK_APPROVED", "UK_APPROVED_PARTLY")),
    Asked("uk", _UK, (("adequacy_confirmation",), *_UK_SAFEGUARDS), within=("UK_APPROVED_PARTLY",)),
    # FADP Art 16, 22, 31
    Asked("ch", _CH, (("dpia", "swiss_basis", "ethics"),)),
    Asked("ch", _CH, _CH_SAFEGUARDS, beyond=("CH", "CH_ADEQUATE", "CH_ADEQUATE_PARTLY")),
    Asked("ch", _CH, (("adequacy_confirmation",), *_CH_SAFEGUARDS), within=("CH_ADEQUATE_PARTLY",)),
    # 45 CFR 164.502, 164.508, 164.512(i), 164.514; 164.308(a)(1) before anything goes abroad
    Asked("us-hipaa", _US, (_NAMED, ("hipaa_waiver",), _DEIDENTIFIED, _LIMITED), purposes=("scientific_research",)),
    Asked("us-hipaa", _US, (_NAMED, _DEIDENTIFIED, _LIMITED), purposes=("public_health",)),
    Asked("us-hipaa", _US, (_NAMED, _DEIDENTIFIED, _LIMITED, ("baa",)), purposes=("quality_improvement",)),
    Asked("us-hipaa", _US, (("dpia",),), beyond=_US),
    # Cal. Civ. Code 56.10, 56.05, 56.17
    Asked("us-ca", _US, (("ccpa_research_basis", "ethics"), _NAMED, _DEIDENTIFIED), purposes=("scientific_research",)),
    Asked("us-ca", _US, (_NAMED, _DEIDENTIFIED), purposes=("public_health", "quality_improvement")),
    Asked("us-ca", _US, (_NAMED, _DEIDENTIFIED), categories=("genomic", "omic")),
    Asked("us-ca", _US, (("dpia",),), beyond=_US),
    # APPI Art 27, 28
    Asked("jp", _JP, (("dpia", "ethics"),)),
    Asked(
        "jp", _JP, (("appi_consent", "appi_information"), ("appi_equivalent_system",)), beyond=("JP", "JP_DESIGNATED")
    ),
    # PIPL Art 13, 29, 38, 55; Order 16 of 2024 Art 7; Human Genetic Resources Regulation
    Asked("cn", _CN, (("ethics", "pipia"), ("ethics", "dpia"))),
    Asked("cn", _CN, (("separate_consent",), ("pipl_basis",))),
    Asked("cn", _CN, (("pipl_contract",), ("pipl_certification",), ("cac_assessment",)), beyond=_CN),
    Asked("cn", _CN, (("cac_assessment",),), beyond=_CN, persons=("cn_calendar_year", 10_000)),
    Asked("cn", _CN, (("hgr_filing",),), beyond=_CN, categories=("genomic", "omic")),
)
KEYS: tuple[Keys, ...] = (
    Keys("eu", _EEA, _EEA, ("EU_ADEQUATE",), ("EEA", "EU_ADEQUATE")),
    Keys("uk", _UK, ("UK", "UK_APPROVED"), ("UK_APPROVED_PARTLY",), ("UK", "UK_APPROVED")),
    Keys("ch", _CH, ("CH", "CH_ADEQUATE"), ("CH_ADEQUATE_PARTLY",), ("CH", "CH_ADEQUATE")),
)


def without_papers(world: World, asked: Asked, sent: Sent, leg: Leg) -> Term:
    """The row applies, and none of its ways is on file."""
    tests = [world.inside(asked.home, sent.origin)]
    if asked.beyond:
        tests.append(z3.Not(world.inside(asked.beyond, leg.place)))
    if asked.within:
        tests.append(world.inside(asked.within, leg.place))
    if asked.purposes:
        tests.append(z3.Or(*(sent.purpose(p) for p in asked.purposes)))
    if asked.categories:
        tests.append(z3.Or(*(sent.category(c) for c in asked.categories)))
    if asked.persons:
        counter, first = asked.persons
        known, count = leg.counted(counter)
        tests.append(z3.Or(z3.Not(known), count >= first))
    on_file = z3.Or(*(z3.And(*(leg.paper(kind) for kind in way)) for way in asked.ways))
    return z3.And(*tests, z3.Not(on_file))


def keys_abroad(world: World, keys: Keys, sent: Sent, leg: Leg) -> Term:
    """A masked update goes where nothing vouches for the recipient, and a key is, or may be, outside."""
    confirmed = z3.And(world.inside(keys.partly, leg.place), leg.paper("adequacy_confirmation"))
    vouched = z3.Or(world.inside(keys.vouched, leg.place), confirmed)
    inside = z3.And(sent.flag("has_keys"), *(world.inside(keys.inside, place) for place in sent.key_places()))
    away = z3.And(world.inside(keys.home, sent.origin), sent.artifact("masked_update"))
    return z3.And(away, z3.Not(vouched), z3.Not(inside))


def leaves(world: World, row: Asked | Keys, sent: Sent, leg: Leg) -> Term:
    """The pack itself lets it pass; or, where the pack leaves out a part of the home, all that bind the exporter do."""
    found = world.packs.get(row.pack)
    if found is None:
        return world.whole(sent, leg) if row.pack not in _DECLARED else z3.BoolVal(False)
    own = world.allows(found, sent, leg)
    home = {code for name in row.home for code in world.regions.members(name, world.day)}
    return own if found.binds == "declared" or home <= set(found.jurisdictions) else z3.Or(own, world.whole(sent, leg))

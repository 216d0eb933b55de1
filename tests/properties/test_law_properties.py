"""Invariants of the decision over random transfers, and of the evaluators over random packs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from compliance.law.advice import advise
from compliance.law.cedar_eval import CedarPack
from compliance.law.decide import Engine
from compliance.law.facts import facts_of, legs_of
from compliance.law.model import Count, Decision, Document, Guarantees, Party, Transfer
from compliance.law.pack import Pack
from compliance.law.python_eval import evaluate
from compliance.law.rule import Rule
from compliance.law.vocabulary import (
    ARTIFACTS,
    CATEGORIES,
    COUNTERS,
    DOCUMENT_KINDS,
    METADATA,
    NAMES_ITS_DESTINATION,
    NEVER_ALLOWED,
    NEVER_LEAVES,
    PURPOSES,
)
from tests.unit.law.small_packs import ADOPTED, ENGINE, GIVEN, PACKS, REGIONS

CODES = ["DE", "FR", "GB", "CH", "JP", "BR", "US", "CN", "RU", "IN", "HK", "XX"]
NAMES = ["server", "clinic-a", "clinic-b"]
SETS = sorted(REGIONS.sets)
KINDS = ["dpia", "art6_basis", "ethics", "scc", "tia", "bcr", "adequacy_confirmation", "doj_license"]
TIMES = ["2026-11-21T10:00:00Z"] * 4 + [
    *("2018-05-24T23:59:59Z", "2018-05-25", "2020-06-01", "2026-12-01", "2027-06-29T23:59:59Z", "2027-06-30")
]
GOOD = Guarantees(**GIVEN | {"min_sites": 100, "min_patients": 10**6, "secure_aggregation_threshold": 100})


def some(values: Any, least: int = 0, most: int = 3) -> st.SearchStrategy[tuple[Any, ...]]:
    """A few different ones of `values`, in any order."""
    return st.lists(st.sampled_from(list(values)), min_size=least, max_size=most, unique=True).map(tuple)


parties = st.builds(
    Party,
    name=st.sampled_from(NAMES),
    jurisdiction=st.sampled_from(CODES),
    access=some(CODES, most=2) | st.just(()),
    covered_person=st.sampled_from([False, False, True]),
)
documents = st.builds(
    Document,
    kind=st.sampled_from([*KINDS, "lunch_menu"]),
    sha256=st.just("ab" * 32),
    expires=st.sampled_from(["2026-11-21", "2026-11-22", "2027-12-31", "2030-01-01T00:00:00Z"]),
    from_jurisdiction=st.sampled_from(["*", "*", *CODES]),
    to_jurisdiction=st.sampled_from(["*", "*", *CODES]),
    covers=st.sampled_from(["*", *NAMES]),
)
# Half of the stacks hold every kind, so that allows are common enough to be broken.
every_kind = st.sampled_from(NAMES).map(
    lambda name: tuple(Document(kind=k, sha256="ab" * 32, expires="2027-12-31", covers=name) for k in DOCUMENT_KINDS)
)
stacks = st.lists(documents, max_size=8).map(tuple) | every_kind
guarantees = st.builds(
    Guarantees,
    unit=st.sampled_from(["none", "record", "patient"]),
    epsilon_milli=st.sampled_from([None, 0, 3000, 8000, 8001]),
    inverse_delta=st.sampled_from([None, 1, 999, 1000, 100_000]),
    min_sites=st.sampled_from([0, 1, 2, 3, 10]),
    min_patients=st.sampled_from([0, 19, 20, 49, 50]),
    secure_aggregation=st.booleans(),
    secure_aggregation_threshold=st.sampled_from([0, 2, 3]),
    group_sum=st.booleans(),
    keys_in=some(CODES),
)
counts = st.lists(
    st.builds(
        Count,
        counter=st.sampled_from(COUNTERS),
        recipient=st.sampled_from(["*", *NAMES]),
        at_most=st.sampled_from([0, 100, 101, 1_000, 10_000, 10_001]),
        categories=some(CATEGORIES, least=1),
    ),
    max_size=3,
).map(tuple)


def transfers(artifacts: Any = ARTIFACTS) -> st.SearchStrategy[Transfer]:
    return st.builds(
        Transfer,
        artifact=st.sampled_from(sorted(artifacts)),
        exporter=st.builds(Party, name=st.just("clinic"), jurisdiction=st.sampled_from(["DE", "FR", "US", *CODES])),
        recipient=parties,
        onward=st.lists(parties, max_size=2).map(tuple),
        purpose=st.sampled_from(["scientific_research"] * 4 + list(PURPOSES)),
        study=st.just("cd" * 32),
        documents=stacks,
        guarantees=guarantees | st.just(GOOD),
        categories=st.just(("health",)) | some(CATEGORIES, least=1),
        counts=counts,
        group=st.sampled_from(["", "", "west"]),
        group_members=some(NAMES),
        at=st.sampled_from(TIMES),
    )


limits = st.fixed_dictionaries(
    {},
    optional={
        "unit": some(["record", "patient"], least=1),
        "epsilon_milli_at_most": st.sampled_from([1, 3000, 8000]),
        "inverse_delta_at_least": st.sampled_from([999, 1000]),
        "min_sites_at_least": st.sampled_from([2, 3]),
        "min_patients_at_least": st.sampled_from([20, 50]),
        "secure_aggregation": st.just(True),
        "secure_aggregation_threshold_at_least": st.sampled_from([2, 3]),
        "group_sum": st.just(True),
        "keys_within": some([*SETS, "ANY"], least=1),
    },
)
asked = st.fixed_dictionaries(
    {},
    optional={"documents": some(KINDS), "any_of": st.lists(some(KINDS, least=1), max_size=2).map(tuple)},
)
asked_and_kept = st.builds(lambda a, g: a | {"guarantees": g}, asked, st.just({}) | limits)
scope = {
    "to_region": some([*SETS, "ANY", "COVERED_PERSON"], least=1),
    "to_region_except": st.just(()) | some(SETS, most=2),
    "category": st.just(()) | some(CATEGORIES, least=1),
    "verified_on": st.sampled_from([None, None, None, "2020-06-02", "2026-11-22"]),
    "expires_on": st.sampled_from([None, None, "2026-11-21", "2026-12-01"]),
}
over = st.fixed_dictionaries({"counter": st.sampled_from(COUNTERS), "above": st.sampled_from([99, 100, 10_000])})
allow_rules = st.fixed_dictionaries(
    scope
    | {
        "effect": st.just("allow"),
        "from_region": some(SETS, least=1),
        "artifact": some(set(ARTIFACTS) - NEVER_ALLOWED, least=1, most=8),
        "purpose": some(PURPOSES, least=1, most=6),
        "requires": asked_and_kept | st.just({}),
        "house": limits | st.just({}),
    }
)
deny_rules = st.fixed_dictionaries(
    scope
    | {
        "effect": st.just("deny"),
        "from_region": some([*SETS, "ANY"], least=1),
        "artifact": some([*ARTIFACTS, "*"], least=1),
        "purpose": some([*PURPOSES, "*"], least=1),
        "over": st.none() | over,
        "unless": asked_and_kept,
    }
)


def _pack(rules: list[dict[str, Any]]) -> Pack:
    same = {
        "plain": "A rule made at random.", "law": ("Act 1",), "confidence": "medium", "source_kind": "secondary",
        "source": "Made for the tests.",
    }  # fmt: skip
    made = tuple(Rule.model_validate(rule | same | {"id": f"rand.rule-{i}"}) for i, rule in enumerate(rules))
    return PACKS["alpha"].model_copy(update={"id": "rand", "rules": made})


# Mostly permissive, so that allows are common enough to be broken.
packs = st.lists(allow_rules | allow_rules | deny_rules, min_size=1, max_size=6).map(_pack)


@settings(max_examples=120, deadline=None)
@given(packs, st.lists(transfers(), min_size=4, max_size=4))
def test_evaluators_agree_on_any_pack(pack, sent):
    compiled = CedarPack(pack)
    for transfer in sent:
        for party, _ in legs_of(transfer):
            facts = facts_of(transfer, party, REGIONS)
            assert evaluate(pack, facts) == compiled.evaluate(facts)


def _decide(transfer: Transfer, **change: Any) -> Decision:
    decision = ENGINE.decide(transfer.model_copy(update=change))
    assert decision.rule != "engine.disagreement"
    return decision


@settings(max_examples=160, deadline=None)
@given(transfers(), st.data())
def test_taking_papers_or_counts_away_never_turns_a_denial_into_an_allow(transfer, data):
    for field in ("documents", "counts"):
        held = getattr(transfer, field)
        kept = data.draw(st.lists(st.booleans(), min_size=len(held), max_size=len(held)))
        fewer = tuple(one for one, keep in zip(held, kept, strict=True) if keep)
        if field == "counts":  # two counts of one counter are one upper bound: without the larger one it is another
            fewer = tuple(c for c in fewer if {x for x in held if x.counter == c.counter} <= set(fewer))
        assert _decide(transfer).allow or not _decide(transfer, **{field: fewer}).allow


@settings(max_examples=100, deadline=None)
@given(transfers({"dp_update", "aggregate"}))
def test_an_unknown_count_is_over_every_threshold(transfer):
    unknown = _decide(transfer, counts=())
    every = tuple(Count(counter=c, recipient="*", at_most=10**9, categories=CATEGORIES) for c in COUNTERS)
    assert unknown.allow is _decide(transfer, counts=every).allow
    for leg in unknown.legs if transfer.exporter.jurisdiction == "US" else ():
        reaches = leg.recipient.covered_person or leg.recipient.jurisdiction in {"CN", "RU"}
        assert leg.effect == "deny" or not reaches


@settings(max_examples=200, deadline=None)
@given(transfers(), guarantees, parties)
def test_more_receivers_and_weaker_guarantees_never_turn_a_denial_into_an_allow(transfer, other, party):
    before = _decide(transfer).allow
    assert before or not _decide(transfer, onward=(*transfer.onward, party)).allow
    reached = transfer.recipient.model_copy(update={"access": (*transfer.recipient.access, party.jurisdiction)})
    assert before or not _decide(transfer, recipient=reached).allow
    covered = transfer.recipient.model_copy(update={"covered_person": True})
    assert before or not _decide(transfer, recipient=covered).allow
    now = transfer.guarantees
    least = {name: min(getattr(now, name), getattr(other, name)) for name in ("min_sites", "min_patients")}
    least |= {n: getattr(now, n) and getattr(other, n) for n in ("secure_aggregation", "group_sum")}
    if now.epsilon_milli is not None and other.epsilon_milli is not None:
        least["epsilon_milli"] = max(now.epsilon_milli, other.epsilon_milli)
    least["keys_in"] = (*now.keys_in, *other.keys_in) if now.keys_in else ()
    assert before or not _decide(transfer, guarantees=now.model_copy(update=least)).allow


@settings(max_examples=100, deadline=None)
@given(transfers(NEVER_ALLOWED))
def test_raw_data_never_leave(transfer):
    assert not _decide(transfer).allow


@settings(max_examples=60, deadline=None)
@given(packs, transfers(NEVER_LEAVES | {"support_file"}))
def test_no_pack_at_all_allows_raw_data(pack, transfer):
    facts = facts_of(transfer, transfer.recipient, REGIONS)
    assert not evaluate(pack, facts).allow
    assert not CedarPack(pack).evaluate(facts).allow


@settings(max_examples=160, deadline=None)
@given(transfers())
def test_an_allow_names_only_allow_rules_and_covers_everyone_who_reaches_it(transfer):
    decision = _decide(transfer)
    effects = {rule.id: rule.effect for pack in PACKS.values() for rule in pack.rules}
    if decision.allow:
        assert [(leg.recipient, leg.via) for leg in decision.legs] == list(legs_of(transfer))
        assert all(leg.rules and {effects[r] for r in leg.rules} == {"allow"} for leg in decision.legs)
        assert decision.missing == ()
    else:
        assert decision.would_allow


@settings(max_examples=160, deadline=None)
@given(transfers(set(ARTIFACTS) - METADATA))
def test_a_missing_pack_an_expired_one_and_a_group_never_turn_a_denial_into_an_allow(transfer):
    before = _decide(transfer).allow
    fewer = {name: digest for name, digest in ADOPTED.items() if name != "alpha"}
    assert before or not Engine(PACKS, fewer, regions=REGIONS).decide(transfer).allow
    assert not _decide(transfer, at="2027-06-30").allow
    assert before or not _decide(transfer, group="west", group_members=()).allow


def _papers(kinds: Iterable[str], party: Party) -> tuple[Document, ...]:
    """One of each kind that names its recipient, and its destination where the kind must."""
    there = dict.fromkeys(NAMES_ITS_DESTINATION, party.jurisdiction)
    return tuple(
        Document(kind=k, sha256="ef" * 32, expires="2031-01-01", covers=party.name, to_jurisdiction=there.get(k, "*"))
        for k in kinds
    )


def _supplied(transfer: Transfer, party: Party, missing: tuple[str, ...]) -> Transfer:
    """The leg alone, with exactly what is named as missing."""
    wanted = [k for k in DOCUMENT_KINDS if any(f" {k}" in t for t in missing if t.startswith("a document"))]
    papers = _papers(wanted, party)
    change: dict[str, Any] = {"recipient": party.model_copy(update={"access": ()}), "onward": ()}
    change["documents"] = (*transfer.documents, *papers)
    if any(text.startswith("a guarantee") for text in missing):
        change["guarantees"] = GOOD
    for counter in COUNTERS:
        if any(f"counter {counter}" in text for text in missing):
            old = tuple(c for c in transfer.counts if c.counter != counter)
            new = Count(counter=counter, recipient="*", at_most=0, categories=transfer.categories)
            change["counts"] = (*change.get("counts", old), new)
    return transfer.model_copy(update=change)


@settings(max_examples=250, deadline=None)
@given(transfers(set(ARTIFACTS) - NEVER_ALLOWED))
def test_what_would_allow_does_allow(transfer):
    """Supply exactly what a denial names as missing: the same leg is allowed, or nothing of the kind is missing now."""
    decision = _decide(transfer)
    if decision.allow or not decision.would_allow.startswith("rule "):
        return
    after = ENGINE.decide(_supplied(transfer, decision.recipient, decision.missing))
    assert after.allow, (decision.missing, after.rule, after.missing)


@settings(max_examples=100, deadline=None)
@given(packs, transfers(set(ARTIFACTS) - NEVER_ALLOWED))
def test_advice_of_any_pack_is_right(pack, transfer):
    facts = facts_of(transfer, transfer.recipient, REGIONS)
    if evaluate(pack, facts).allow:
        return
    advice = advise(pack, facts)
    full = _supplied(transfer, transfer.recipient, ("a guarantee", *(f"counter {c}" for c in COUNTERS)))
    best = full.model_copy(update={"documents": (*full.documents, *_papers(KINDS, transfer.recipient))})
    if not advice.missing:
        # Only papers can be supplied in full here: a limit on keys may exclude every place there is.
        same = best.model_copy(update={"guarantees": transfer.guarantees})
        assert not evaluate(pack, facts_of(same, same.recipient, REGIONS)).allow
    assert advice.would_allow

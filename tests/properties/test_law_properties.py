"""Invariants of the decision over random transfers."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from compliance.law.cedar_eval import CedarPack
from compliance.law.decide import Engine, builtin_packs
from compliance.law.facts import facts_of
from compliance.law.model import Document, Guarantees, Party, Transfer
from compliance.law.python_eval import evaluate
from compliance.law.vocabulary import ARTIFACTS, DOCUMENT_KINDS, NEVER_LEAVES, PURPOSES

PACKS = builtin_packs()
COMPILED = {name: CedarPack(pack) for name, pack in PACKS.items()}
ENGINE = Engine(PACKS, {name: pack.digest for name, pack in PACKS.items()})
CODES = ["DE", "FR", "IE", "NO", "GB", "JP", "CN", "US", "KR", "CH", "IN", "HK", "XX"]
NAMES = ["server", "clinic-a", "clinic-b"]

parties = st.builds(Party, name=st.sampled_from(NAMES), jurisdiction=st.sampled_from(CODES))
documents = st.builds(
    Document,
    kind=st.sampled_from([*DOCUMENT_KINDS, "lunch_menu"]),
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
    inverse_delta=st.sampled_from([None, 1, 100_000]),
    min_sites=st.sampled_from([0, 1, 2, 3, 10]),
    secure_aggregation=st.booleans(),
)


def transfers(artifacts=ARTIFACTS):
    return st.builds(
        Transfer,
        artifact=st.sampled_from(sorted(artifacts)),
        exporter=parties,
        recipient=parties,
        onward=st.lists(parties, max_size=2).map(tuple),
        purpose=st.sampled_from(["scientific_research"] * 4 + list(PURPOSES)),
        study=st.just("cd" * 32),
        documents=stacks,
        guarantees=guarantees
        | st.just(Guarantees(unit="record", epsilon_milli=1, min_sites=5, secure_aggregation=True)),
        at=st.sampled_from(["2026-11-21T10:00:00Z"] * 4 + ["2020-06-01", "2027-06-29T23:59:59Z", "2027-06-30"]),
    )


@settings(max_examples=400, deadline=None)
@given(transfers(), st.sampled_from(sorted(PACKS)))
def test_evaluators_agree(transfer, name):
    for party in (transfer.recipient, *transfer.onward):
        facts = facts_of(transfer, party)
        assert evaluate(PACKS[name], facts) == COMPILED[name].evaluate(facts)


@settings(max_examples=300, deadline=None)
@given(transfers(), st.data())
def test_taking_papers_away_never_turns_a_denial_into_an_allow(transfer, data):
    kept = data.draw(st.lists(st.booleans(), min_size=len(transfer.documents), max_size=len(transfer.documents)))
    fewer = tuple(d for d, keep in zip(transfer.documents, kept, strict=True) if keep)
    before = ENGINE.decide(transfer)
    after = ENGINE.decide(transfer.model_copy(update={"documents": fewer}))
    assert before.allow or not after.allow
    assert "engine.disagreement" not in {before.rule, after.rule}


@settings(max_examples=200, deadline=None)
@given(transfers(NEVER_LEAVES | {"plain_update"}))
def test_raw_data_never_leave(transfer):
    assert not ENGINE.decide(transfer).allow


@settings(max_examples=300, deadline=None)
@given(transfers())
def test_an_allow_names_only_allow_rules_and_covers_every_recipient(transfer):
    decision = ENGINE.decide(transfer)
    effects = {rule.id: rule.effect for pack in PACKS.values() for rule in pack.rules}
    if decision.allow:
        assert [leg.recipient for leg in decision.legs] == [transfer.recipient, *transfer.onward]
        assert all(leg.rules and {effects[r] for r in leg.rules} == {"allow"} for leg in decision.legs)
        assert decision.missing == ()
    else:
        assert decision.would_allow


@settings(max_examples=300, deadline=None)
@given(transfers())
def test_what_would_allow_does_allow(transfer):
    """Supply exactly the papers that a denial names as missing: the same recipient is no longer refused for papers."""
    decision = ENGINE.decide(transfer)
    if decision.allow or not decision.would_allow.startswith("rule "):
        return
    target = decision.recipient
    leg = transfer.model_copy(update={"recipient": target, "onward": ()})
    wanted = [kind for kind in DOCUMENT_KINDS if any(f" {kind}" in text for text in decision.missing)]
    added = tuple(Document(kind=k, sha256="ef" * 32, expires="2031-01-01", covers=target.name) for k in wanted)
    after = ENGINE.decide(leg.model_copy(update={"documents": (*transfer.documents, *added)}))
    only_guarantees = [text for text in decision.missing if text.startswith("a guarantee")]
    assert after.allow or after.missing == tuple(only_guarantees)
    assert after.allow is not bool(only_guarantees)

"""A study inside or outside a site's policy, and whether an approval holds for it."""

from __future__ import annotations

from typing import Any

import pytest

from compliance.answers import (
    ADVICE,
    APPROVAL,
    REFUSAL,
    Approval,
    answer_schema,
    check_approval,
    check_policy_owner,
    open_advice,
    open_approval,
    open_refusal,
)
from compliance.clock import now, parse_time
from compliance.errors import CheckFailed, InputError, Refused
from compliance.identity import seal
from compliance.policy import SitePolicy, check_study
from compliance.policy_file import open_policy, policy_digest
from compliance.study import Study, open_study
from compliance.study_desk import check_members, not_ended
from compliance.validation import load_model, try_model
from tests.desk import consortium, day, full_study, policy_raw

WORLD = consortium()
ANCHOR = WORLD.anchor()
STUDY_BYTES = seal(full_study(), WORLD.operator).encode()
STUDY, STUDY_DIGEST = open_study(ANCHOR, STUDY_BYTES, "study")


def policy(**changes: Any) -> SitePolicy:
    return load_model(SitePolicy, policy_raw(**changes), "RSD-2007", "policy")


def study(**changes: Any) -> Study:
    return load_model(Study, full_study(**changes), "RSD-2007", "study")


OUTSIDE: list[tuple[dict[str, Any], str, str, str]] = [
    ({"epsilon_milli_at_most": 7999}, "policy.epsilon_milli_at_most", "8000", "7999"),
    ({"inverse_delta_at_least": 100_001}, "policy.inverse_delta_at_least", "100000", "100001"),
    ({"units": ["patient"]}, "policy.units", "record", "patient"),
    ({"rounds_at_most": 5}, "policy.rounds_at_most", "6", "5"),
    ({"purposes": ["public_health"]}, "policy.purposes", "scientific_research", "public_health"),
    ({"tasks": ["other"]}, "policy.tasks", "sequence_classification", "other"),
    ({"sites_at_least": 3}, "policy.sites_at_least", "2", "3"),
    ({"operators": ["other"]}, "policy.operators", "hub", "other"),
    ({"models": ["00" * 32]}, "policy.models", "ab" * 6, "0" * 12),
    ({"jurisdiction": "FR"}, "policy.jurisdiction", "DE", "FR"),
    ({"required_documents": ["dpia", "scc"]}, "policy.required_documents", "missing scc", "dpia, scc"),
    ({"expires": day(50)}, "policy.expires", f"study ends {full_study()['ends']}", day(50)),
]


def test_inside() -> None:
    check_study(policy(), STUDY)


@pytest.mark.parametrize(("change", "rule", "found", "limit"), OUTSIDE, ids=[case[1] for case in OUTSIDE])
def test_each_limit_refuses_and_says_both_values(change: dict[str, Any], rule: str, found: str, limit: str) -> None:
    with pytest.raises(Refused) as e:
        check_study(policy(**change), STUDY)
    assert (e.value.code, e.value.rule) == ("RSD-2101", rule)
    if rule != "policy.expires":
        assert (e.value.found, e.value.limit) == (found, limit)


def test_all_broken_limits_are_named() -> None:
    with pytest.raises(Refused) as e:
        check_study(policy(epsilon_milli_at_most=1, rounds_at_most=1, operators=["x"]), STUDY)
    assert "rounds_at_most 6 (limit 1), operators hub (limit x)" in e.value.message


def test_a_study_of_other_sites() -> None:
    with pytest.raises(Refused) as e:
        check_study(load_model(SitePolicy, {**policy_raw(), "site": "paris"}, "RSD-2007", "p"), STUDY)
    assert e.value.code == "RSD-2102"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"extra": 1}, "unknown field"),
        ({"purposes": ["sport"]}, "found 'sport'"),
        ({"epsilon_milli_at_most": 0}, "found 0"),
        ({"law_set": "eu"}, "should match pattern"),
        ({"expires": day(-2)}, "is not after issued"),
        ({"expires": "2030-13-01"}, "no day of the calendar"),
    ],
)
def test_a_malformed_policy_has_one_mistake(change: dict[str, Any], words: str) -> None:
    mistakes, found = try_model(SitePolicy, policy_raw(**change))
    assert found is None
    assert len(mistakes) == 1
    assert words in mistakes[0].message


def test_a_policy_counts_if_its_own_signatory_signed_it() -> None:
    data = seal(policy_raw(), WORLD.signatories["berlin"]).encode()
    found, digest = open_policy(ANCHOR, data, "policy", "berlin", now())
    assert digest == policy_digest(found)
    check_policy_owner(found, "berlin", "DE")
    with pytest.raises(Refused, match="another site"):
        check_policy_owner(found, "leeds", "GB")
    for other in (WORLD.dpos["berlin"], WORLD.signatories["leeds"], WORLD.operator):
        with pytest.raises(CheckFailed) as e:
            open_policy(ANCHOR, seal(policy_raw(), other).encode(), "policy", "berlin", now())
        assert e.value.code == "RSD-6011"
    with pytest.raises(Refused) as f:
        open_policy(ANCHOR, data, "policy", "berlin", parse_time(day(201)))
    assert f.value.code == "RSD-2103"


def advice(site: str = "berlin", **changes: Any) -> dict[str, Any]:
    record = {"schema": ADVICE, "subject": "study", "digest": STUDY_DIGEST, "site": site, "at": day(0)}
    return {**record, "favourable": True, "text": "fine", **changes}


def opened(record: dict[str, Any], site: str = "berlin") -> Any:
    return open_advice(ANCHOR, seal(record, WORLD.dpos[site]).encode(), "advice", "study")


def approval(of: Any, **changes: Any) -> Approval:
    record = {"schema": APPROVAL, "subject": "study", "digest": STUDY_DIGEST, "site": "berlin", "at": day(0)}
    record |= {"advice": of.digest, "policy": "aa" * 32, "software": STUDY.software.model_dump(mode="json"), **changes}
    return load_model(Approval, record, "RSD-2206", "approval")


def judge(given: Approval, of: Any) -> None:
    check_approval(given, STUDY_DIGEST, STUDY, "berlin", "aa" * 32, of)


def test_an_approval_with_advice_holds() -> None:
    of = opened(advice())
    judge(approval(of), of)
    against = opened(advice(favourable=False))
    judge(approval(against, against_advice_reason="because"), against)


@pytest.mark.parametrize(
    "change",
    [{"digest": "00" * 32}, {"site": "leeds"}, {"policy": "00" * 32},
     {"software": {"version": "1", "bundle_sha256": "ef" * 32}},
     {"software": {"version": "0", "bundle_sha256": "00" * 32}}],
)  # fmt: skip
def test_an_approval_of_something_else_is_refused(change: dict[str, Any]) -> None:
    of = opened(advice())
    with pytest.raises(Refused) as e:
        judge(approval(of, **change), of)
    assert e.value.code == "RSD-2201"


def test_advice_must_be_this_sites_on_this_study_and_in_time() -> None:
    cases = [
        None,
        opened(advice(site="leeds"), "leeds"),
        opened(advice(digest="00" * 32)),
        opened(advice(at=day(1))),
    ]
    own = opened(advice())
    for of in cases:
        with pytest.raises(Refused) as e:
            judge(approval(of or own), of)
        assert e.value.code == "RSD-2202"
    with pytest.raises(Refused) as f:
        judge(approval(own), opened(advice(text="another")))
    assert f.value.code == "RSD-2202"


def test_against_advice_needs_a_reason() -> None:
    of = opened(advice(favourable=False))
    with pytest.raises(Refused) as e:
        judge(approval(of), of)
    assert e.value.code == "RSD-2203"


def test_answers_count_only_from_the_right_person() -> None:
    refusal = {
        "schema": REFUSAL,
        "subject": "study",
        "digest": STUDY_DIGEST,
        "site": "berlin",
        "at": day(0),
        "reason": "no",
    }
    data = seal(refusal, WORLD.signatories["berlin"]).encode()
    assert open_refusal(ANCHOR, data, "refusal")[0].reason == "no"
    assert answer_schema(data, "x") == REFUSAL
    of = opened(advice())
    given = approval(of).as_json()
    assert open_approval(ANCHOR, seal(given, WORLD.signatories["berlin"]).encode(), "x")[0] == approval(of)
    for wrong in (WORLD.dpos["berlin"], WORLD.signatories["leeds"], WORLD.operator, WORLD.agents["berlin"]):
        with pytest.raises(CheckFailed):
            open_approval(ANCHOR, seal(given, wrong).encode(), "x")
        with pytest.raises(CheckFailed):
            open_refusal(ANCHOR, seal(refusal, wrong).encode(), "x")
    with pytest.raises(CheckFailed):
        open_advice(ANCHOR, seal(advice(), WORLD.signatories["berlin"]).encode(), "x", "study")
    with pytest.raises(Refused) as e:
        open_advice(ANCHOR, seal(advice(), WORLD.dpos["berlin"]).encode(), "x", "policy")
    assert e.value.code == "RSD-2205"
    with pytest.raises(InputError) as f:
        open_advice(ANCHOR, seal(advice(extra=1), WORLD.dpos["berlin"]).encode(), "x", "study")
    assert f.value.code == "RSD-2206"


def test_members_and_term() -> None:
    check_members(STUDY, ANCHOR.trust)
    sites = [{**s, "jurisdiction": "CN"} if s["name"] == "leeds" else s for s in full_study()["sites"]]
    with pytest.raises(Refused) as e:
        check_members(study(sites=sites), ANCHOR.trust)
    assert (e.value.code, e.value.found, e.value.limit) == ("RSD-2104", "CN", "GB")
    sites = [{**s, "name": "paris"} if s["name"] == "leeds" else s for s in full_study()["sites"]]
    with pytest.raises(InputError) as f:
        check_members(study(sites=sites), ANCHOR.trust)
    assert f.value.code == "RSD-6010"
    over = study(starts="2020-01-01", ends="2020-02-01")
    with pytest.raises(Refused) as g:
        not_ended(over)
    assert g.value.code == "RSD-2008"


def test_a_study_of_another_consortium_or_signer() -> None:
    with pytest.raises(Refused) as e:
        open_study(ANCHOR, seal(full_study(consortium="other"), WORLD.operator).encode(), "study")
    assert e.value.code == "RSD-2210"
    with pytest.raises(CheckFailed) as f:
        open_study(ANCHOR, seal(full_study(), WORLD.agents["berlin"]).encode(), "study")
    assert f.value.code == "RSD-6011"

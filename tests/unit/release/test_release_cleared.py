"""For whom a release is cleared: the last word of every log that is in it, and nothing that the operator writes."""

import pytest

from compliance.release import bodies
from compliance.release.build import build_bundle
from compliance.release.case import Contents
from tests.world import CONTRIBUTORS, REFUSED, Plan, build_world, failed, world


def _cleared(made):
    return Contents(made.bundle).manifest.cleared


def test_the_release_is_cleared_for_those_whom_every_log_allows():
    made = world()
    assert _cleared(made) == CONTRIBUTORS
    report = made.verify(made.bundle)
    assert report.error is None
    told = f"the release is cleared for {', '.join(CONTRIBUTORS)}; not for {REFUSED}"
    assert any(told in line for line in report.lines())


@pytest.mark.parametrize(
    "claimed", [[*CONTRIBUTORS, REFUSED], list(CONTRIBUTORS[1:]), []], ids=["one-more", "one-less", "none"]
)
def test_a_manifest_that_clears_others_than_the_logs_do_is_false(claimed):
    made = world()
    step, message = failed(made.verify(made.resigned(made.bundle, cleared=claimed)))
    assert step == 11
    assert "clears the release for others" in message


def _words(kind):
    """A world in which site-a's word about site-b's release is another one."""

    def body(member, what, record):
        about = what == "decision" and record["transfer"]["artifact"] == bodies.RELEASED
        if member == "site-a" and about and record["peer"] == "site-b":
            kind(record)

    return build_world(Plan(body=body))


def test_a_site_that_says_nothing_about_another_keeps_the_release_from_it():
    def moved(record):
        record["peer"] = "site-c"
        record["transfer"]["recipient"] |= {"name": "site-c", "jurisdiction": "GB"}

    assert _cleared(_words(moved)) == tuple(s for s in CONTRIBUTORS if s != "site-b")


def test_a_denial_of_the_release_alone_keeps_nobody_from_the_rounds():
    def denied(record):
        record |= {"allow": False, "effect": "deny", "evaluators": {"python": "deny", "cedar": "deny"}}
        record["legs"][-1]["effect"] = "deny"

    made = _words(denied)
    files = build_bundle(made.run, made.operator, made.anchor)
    assert Contents(files).manifest.cleared == tuple(s for s in CONTRIBUTORS if s != "site-b")
    assert all("site-b" in r.roster.recipients for r in Contents(files).rosters)


@pytest.mark.parametrize(
    ("field", "value"),
    [("access", ["US"]), ("covered_person", True)],
    ids=["access", "covered"],
)
def test_a_decision_about_another_recipient_than_the_studys_is_false(field, value):
    def changed(record):
        record["transfer"]["recipient"][field] = value

    step, message = failed(_verified(_words(changed)))
    assert step == 10
    assert "was told of other parties than the study gives" in message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("categories", ["health", "omic"]),
        ("controllers", ["nobody"]),
        ("documents", []),
        ("counts", [{"counter": "us_12_months", "recipient": "site-b", "at_most": 777, "categories": ["health"]}]),
        ("group", "west"),
    ],
    ids=["categories", "controllers", "documents", "counts", "group"],
)
def test_a_decision_in_another_context_than_the_studys_is_false(field, value):
    def changed(record):
        record["transfer"][field] = value

    step, message = failed(_verified(_words(changed)))
    assert step == 10
    assert f"was told of other {field} than the study gives" in message


def _verified(made):
    return made.verify(made.bundle)

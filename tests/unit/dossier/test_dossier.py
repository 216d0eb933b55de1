"""What a dossier shows of a run with a denial in it, and what it leaves to somebody's word."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from compliance.canonical import b64decode
from compliance.dossier.build import build
from compliance.dossier.model import ArticleShown, Dossier, Table
from compliance.dossier.regime import builtin_regimes, regime_called
from compliance.errors import InputError
from compliance.log.entry import decode
from compliance.log.expired import leaves_sha256
from compliance.log.view import LogView, view_of
from tests.dossiers import dossier, failed, files, made_of, verdict, views
from tests.world import OPERATOR, REFUSED, Plan, World, build_world, rebuilt, world

GDPR = "gdpr"
OTHER = "ef" * 32  # another study's digest


def article(found: Dossier, name: str) -> ArticleShown:
    return next(a for a in found.articles if a.id == name)


def table(found: ArticleShown, word: str) -> Table:
    return next(t for t in found.tables if word in t.caption)


@pytest.mark.parametrize("name", sorted(builtin_regimes()))
def test_a_dossier_verifies_and_holds_every_entry_of_the_study(name: str) -> None:
    made = dossier(name)
    report = verdict(made, logs=views())
    assert failed(report) == (0, "")
    assert {s.complete for s in made.sources} == {"counted"}
    assert made.missing == (REFUSED,)
    assert len(made.entries) == sum(v.size for v in views())
    assert {a.status for a in made.articles} <= {"evidence shown", "nothing recorded", "NOT COVERED"}
    assert report.facts["articles"] == {a.id: a.status for a in made.articles}


def test_every_denial_is_listed_with_its_rule_and_what_lacked() -> None:
    denied = table(article(dossier(GDPR), "art-44-49"), "denials")
    logged = [e for v in views() for e in v.of(world().study_digest, "decision") if not e.body["allow"]]
    assert len(denied.rows) == len(logged) == 8
    for row in denied.rows:
        cells = dict(zip(denied.columns, row.cells, strict=True))
        assert (cells["To"], cells["Outcome"]) == (f"{REFUSED} (CN)", "DENY")
        assert cells["Left"] == "no transfer names this decision"
        assert "lacks a document of kind" in cells["Rule and citations"]
        (ref,) = row.rests_on
        entry = next(e for v in views() if v.origin == ref.origin for e in v.entries.values() if e.index == ref.index)
        assert (entry.kind, entry.body["allow"]) == ("decision", False)


def test_a_flow_names_its_basis_by_hash_and_the_bytes_that_left() -> None:
    flows = table(article(dossier("us-202"), "202.1001"), "Every transfer")
    sent = [row for row in flows.rows if row.cells[flows.columns.index("Left")].startswith("SHA-256")]
    transfers = [e for v in views() for e in v.of(world().study_digest, "transfer")]
    assert len(sent) == len(transfers) == 16
    papers = {d.id: d.sha256 for d in world().study.documents}
    for row in sent:
        cells = dict(zip(flows.columns, row.cells, strict=True))
        to = cells["To"].split(" ")[0]
        basis = f"adequacy-confirmation-{to}"
        assert cells["Basis on file"].startswith(f"{basis}, SHA-256 {papers[basis][:16]}")
        assert len(row.rests_on) == 2


def test_places_of_concern_are_found_among_later_recipients_too() -> None:
    found = article(dossier("us-202"), "202.301-303")
    assert {row.cells[2] for row in found.tables[0].rows} == {f"{REFUSED} (CN)"}


def test_eps_is_computed_again_and_equals_what_the_bundle_claims() -> None:
    shown = table(article(dossier("nist-800-226"), "epsilon"), "eps and delta")
    claimed = {s.site: (s.epsilon_milli, s.limit_milli, s.charges) for s in world_claims()}
    assert {row.cells[0]: (row.cells[2], row.cells[3], row.cells[5]) for row in shown.rows} == {
        site: (f"{spent / 1000:.3f}", f"{limit / 1000:.3f}", str(charges))
        for site, (spent, limit, charges) in claimed.items()
    }


def world_claims() -> Any:
    from compliance.release.case import Contents

    return Contents(world().bundle).claims.sites


def test_a_log_alone_says_who_is_missing() -> None:
    made = dossier(GDPR, "site-a")
    assert made.missing == (OPERATOR, "site-b", "site-c", "site-d", REFUSED)
    report = verdict(made)
    assert failed(report) == (0, "")
    assert "what its log says of the study: it is not here" in report.asserted()["site-b"]


def test_without_the_signed_study_its_fields_are_not_shown() -> None:
    own = world()
    made = build(regime_called(GDPR), own.study_digest, views(), own.anchor)
    assert (made.study.name, made.study.document, made.packs) == (own.study.name, "", ())
    assert "The signed study was not at hand." in table(article(made, "art-30"), "Purpose").note
    assert "the pack was not at hand" in table(article(made, "art-30"), "Time limits").note
    report = verdict(made)
    assert failed(report) == (0, "")
    assert "its signed form is not here" in report.asserted()[OPERATOR][0]


def test_the_same_logs_give_the_same_bytes() -> None:
    again = made_of(regime_called(GDPR), reversed(views()))
    assert again.encode() == dossier(GDPR).encode()


def test_a_log_that_nobody_closed_is_its_members_word() -> None:
    own = world()
    entries = [e for e in own.entries("site-b") if e.kind != "close"]
    made = made_of(regime_called(GDPR), [view_of(rebuilt(own, "site-b", entries, ["site-c"]), "site-b")])
    assert made.sources[0].complete == "not counted"
    report = verdict(made)
    assert failed(report) == (0, "")
    assert any("its close is not here" in text for text in report.asserted()["site-b"])


def _more(run: Any, member: str) -> None:
    """site-a also registered an extract, compacted its first entry, and raised alarms, one in another study."""
    if member == "site-a":
        log = run.logs[member]
        log.append("dataset", {
            "action": "register", "dataset": "thyroid", "source": "site-a-patients", "inherited": False,
            "declared": 1000, "declared_patients": 900, "several_rows": True, "commitment": "ab" * 32,
            "legal_basis": "9(2)(j)", "purposes": ["scientific_research"], "expires": "2027-12-31",
        })  # fmt: skip
        alarm = {"code": "RSD-3065", "about": "clock", "found": "1", "limit": "0", "since": "2026-11-22T10:00:00Z"}
        log.append("alarm", alarm)
        log.append("alarm", alarm, OTHER)
        leaf = log.leaf_hashes(1)[0]
        log.append("compaction", {
            "record_class": "answer", "before": "2026-11-22T09:00:00Z", "ranges": [[0, 0]],
            "leaves_sha256": leaves_sha256([leaf]), "policy": "the site's schedule", "law_set": "cd" * 32,
        })  # fmt: skip


@cache
def whole_world() -> World:
    return build_world(Plan(before_close=_more))


def whole_log() -> LogView:
    return views(whole_world(), "site-a")[0]


def test_entries_of_no_study_are_shown_where_a_log_is_given_whole() -> None:
    made = made_of(regime_called(GDPR), [whole_log()], whole_world())
    (row,) = table(article(made, "art-30"), "Extracts").rows
    assert row.cells[3:] == ("register", "thyroid", "9(2)(j)", "scientific_research", "2027-12-31")
    none = table(article(dossier(GDPR), "art-30"), "Extracts")
    assert (none.rows, "given whole" in none.note) == ((), True)
    assert failed(verdict(made, whole_world())) == (0, "")


def test_no_entry_of_another_study_is_shown() -> None:
    view = whole_log()
    assert [e.kind for e in view.entries.values() if e.study == OTHER] == ["alarm"]
    made = made_of(regime_called(GDPR), [view], whole_world())
    assert {decode(b64decode(o.entry, "entry")).study for o in made.entries} == {"", whole_world().study_digest}
    assert len(table(article(made, "art-32"), "Alarms").rows) == 1


def test_an_entry_that_expired_by_retention_is_no_failure() -> None:
    full = whole_log()
    left = {i: e for i, e in full.entries.items() if i != 0}
    made = made_of(regime_called(GDPR), [replace(full, entries=left, expired={0: "answer"})], whole_world())
    (source,) = made.sources
    assert (source.complete, source.expired) == (
        "counted, some expired",
        ("1 of class answer",),
    )
    report = verdict(made, whole_world())
    assert failed(report) == (0, "")
    proved = "\n".join(str(line) for line in report.fields()["proved"])
    assert "compactions say it removed" in proved
    assert "removed 1 entries of class answer, before 2026-11-22T09:00:00Z, by policy 'the site's schedule'" in proved
    assert "that the entries it removed had expired, and were of that class" in report.asserted()["site-a"]


def test_an_entry_that_lacks_without_a_compaction_is_one() -> None:
    full = whole_log()
    left = {i: e for i, e in full.entries.items() if i != 1}
    with pytest.raises(Exception, match="other entries of the study are here") as e:
        made_of(regime_called(GDPR), [replace(full, entries=left)], whole_world())
    assert getattr(e.value, "code", "") == "RSD-9105"


def test_what_lies_behind_the_last_checkpoint_is_left_out() -> None:
    (view,) = views(None, "site-a")
    short = replace(view, checkpoints=view.checkpoints[:1])
    made = made_of(regime_called(GDPR), [short])
    assert made.sources[0].size < view.size
    assert max(o.index for o in made.entries) < made.sources[0].size
    assert failed(verdict(made)) == (0, "")


def test_wrong_inputs_are_named() -> None:
    own, regime = world(), regime_called(GDPR)
    cases = {
        "RSD-9111": ("ab" * 32, views()),
        "RSD-9112": (own.study_digest, (*views(None, "site-a"), *views(None, "site-a"))),
        "RSD-9113": (own.study_digest, tuple(replace(v, checkpoints=()) for v in views())),
    }
    for code, (study, shown) in cases.items():
        with pytest.raises(InputError) as e:
            build(regime, study, shown, own.anchor, files())
        assert e.value.code == code


def test_entries_are_carried_as_they_were_hashed() -> None:
    for opened in dossier(GDPR, "site-a").entries:
        data = b64decode(opened.entry, "entry")
        assert decode(data).encode() == data


def test_packs_that_no_decision_names_are_not_carried() -> None:
    assert [p.id for p in dossier(GDPR).packs] == ["eu", "regions"]
    assert dossier("hipaa").packs == ()

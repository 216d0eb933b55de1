"""The evaluation at the end of a run, with the coordinator and the sites in one process (tests/local_run.py)."""

import json
import re
import shutil
from contextlib import ExitStack, nullcontext
from datetime import timedelta
from types import SimpleNamespace

import pytest

from compliance.canonical import canonical, parse_canonical, sha256_hex
from compliance.clock import now, parse_time, rfc3339
from compliance.errors import CheckFailed, EnvironmentFault, PeerUnreachable, Refused, ResidencyError
from compliance.evaluation.histogram import Histogram
from compliance.evaluation.record import EvaluationRecord
from compliance.identity import parse_envelope, seal
from compliance.messages import EvaluateReply, decode
from compliance.privacy.events import PrivacyEvent
from compliance.release import bodies, verify_evaluation
from compliance.release.build import build_bundle
from compliance.release.bundle_folder import read_folder
from compliance.release.case import Contents, Context
from compliance.release.verify import verify_bundle
from compliance.study import open_study
from compliance.validation import load_model
from server import coordinator, evaluation
from server.evaluation_view import evaluation_error
from server.run_view import summary
from strategies.wire import Reply
from tests.federation import OPERATOR, REFUSED, TRAINING, consortium, entries
from tests.local_run import World

TERMS = {"noise_multiplier_micro": 4_000_000, "bins": 10}


@pytest.fixture(scope="module")
def signed():
    return consortium().sign_study(model={**consortium().model, "adapters": None}, evaluation=TERMS)


@pytest.fixture
def pair(tmp_path):
    """A run of a and b, for what does not depend on who else is there."""
    value = consortium().study(model={**consortium().model, "adapters": None}, evaluation=TERMS)
    sites = [s for s in value["sites"] if s["name"] in {"a", "b"}]
    study = consortium().sign_study(**{**value, "sites": sites, "controllers": ["a", "b"]})
    with ExitStack() as stack:
        yield World(tmp_path, study, ("a", "b")).open(stack)


def _record(world):
    return world.folder.evaluation()[0]


def _outcomes(world):
    return {r.site: r.outcome for r in _record(world).rows}


CLEAN = {**dict.fromkeys(TRAINING, "contributed"), REFUSED: "refused"}
GIVEN = ("a", "b", "d")


def _cells(reply, key, change=lambda _: None):
    """The reply with other counts, signed by `key`."""
    body = parse_canonical(reply.body, "reply")
    value = parse_canonical(parse_envelope(body["histogram"].encode(), "h").payload, "h")
    change(value)
    return Reply(canonical({**body, "histogram": seal(value, key).encode().decode()}))


@pytest.fixture(scope="module")
def finished(signed, tmp_path_factory):
    """A run in which c's counts arrive under a key that is not c's, and are left out."""
    with ExitStack() as stack:
        world = World(tmp_path_factory.mktemp("finished"), signed).open(stack)
        world.replies = {}

        def tamper(site, kind, reply):
            if kind == "evaluate":
                world.replies[site] = reply
            return _cells(reply, world.site("d").signer) if (site, kind) == ("c", "evaluate") else reply

        world.tamper = tamper
        world.run(tamper)
        yield world


@pytest.fixture(scope="module")
def files(finished):
    return build_bundle(read_folder(finished.folder.path), consortium().operator, consortium().anchor)


def test_a_run_with_an_evaluation_publishes_it(finished):
    record = _record(finished)
    assert finished.result()["outcome"] == "finished"
    assert _outcomes(finished) == {**CLEAN, "c": "failed"}
    assert evaluation_error(finished.folder) is None
    names = {(f.name, f.label) for f in record.figures}
    assert {("auroc", "yes"), ("auprc", "yes"), ("accuracy", ""), ("recall", "no"), ("brier", "")} <= names
    assert all(f.low_micro <= f.value_micro <= f.high_micro for f in record.figures if f.value_micro is not None)
    _shows(finished, "published")
    for name in TRAINING:
        assert [c.round for c in finished.site(name).ledger.charges(finished.signed.digest)] == [1, 2, 0]


def test_its_release_verifies_and_separates_what_sites_assert(finished, files):
    report = finished.verify()
    assert report.error is None, report.error
    text = " ".join("\n".join(report.lines()).split())
    assert "3 sites signed, each charged once" in text
    assert "ASSERTED BY a, b, d - that its noised counts are of its own records" in text
    assert re.search(r"counts of c \(entry \d+ .*\) did not arrive whole and in time \(failed, RSD-6011\)", text)
    card = files["model/README.md"].decode()
    assert "## Evaluation" in card
    assert "THOSE THAT IT WAS TRAINED ON" in card
    assert "No accuracy is stated" not in card
    assert {s["charges"] for s in parse_canonical(files["privacy.json"].strip(), "p")["sites"]} == {3}
    assert sorted(p for p in files if p.startswith("histograms/")) == [f"histograms/{n}.json" for n in GIVEN]


def _shows(world, outcome):
    fields, lines = summary(world.folder)
    assert fields["evaluation"]["outcome"] == outcome
    assert any(f"evaluation on the sites' records: {outcome}" in line for line in lines)
    json.dumps(fields)


def test_a_site_that_refuses_or_whose_reply_is_lost_stands_in_it_and_the_release_tells_what_its_log_shows(
    signed, tmp_path
):
    """b sends its counts and the operator says that it was late, or lies; a stops before it counts."""

    def tamper(site, kind, reply):
        if (site, kind) == ("b", "evaluate"):
            raise PeerUnreachable("RSD-6103", "away")
        return reply

    with ExitStack() as stack:
        world = World(tmp_path, signed).open(stack)
        world.site("a").workbench.evaluate = _withdrawn
        world.run(tamper)
        assert _outcomes(world) == {**CLEAN, "a": "refused", "b": "late"}
        assert _record(world).figures is not None
        report = world.verify()
        assert report.error is None, report.error
        text = " ".join("\n".join(report.lines()).split())
        assert re.search(r"counts of b \(.*\) did not arrive whole and in time \(late, RSD-6103\): its log shows", text)
        assert "the counts of a" not in text


def test_a_broken_sites_answer_is_left_out_and_the_others_release_stands(signed, tmp_path):
    """c names the same entry four times, d's disk damages its counts after the entry."""

    def tamper(site, kind, reply):
        if (site, kind) == ("c", "evaluate"):
            body = parse_canonical(reply.body, "reply")
            same = dict.fromkeys(("charge", "evaluation", "decision", "transfer"), body["charge"])
            return Reply(canonical({**body, **same}))
        return reply

    with ExitStack() as stack:
        world = World(tmp_path, signed).open(stack)
        site = world.site("d")
        record = site.record

        def damaging(kind, body, study):
            entry = record(kind, body, study)
            if kind == "evaluation":
                (kept,) = site.home.path.rglob("histogram-1.json")
                value = parse_canonical(parse_envelope(kept.read_bytes(), "h").payload, "h")
                kept.write_bytes(seal({**value, "cells": value["cells"][::-1]}, site.signer).encode())
            return entry

        site.record = damaging
        world.run(tamper)
        codes = {r.site: r.reason.code for r in _record(world).rows if r.reason}
        assert (codes["c"], codes["d"]) == ("RSD-8220", "RSD-1220")
        assert _record(world).contributed == ("a", "b")
        report = world.verify()
        assert report.error is None, report.error
        text = " ".join("\n".join(report.lines()).split())
        assert re.search(r"counts of d \(.*\) are left out after RSD-1220, which its log shows", text)
        assert re.search(r"counts of c \(.*\) did not arrive whole and in time \(failed, RSD-8220\)", text)


def _withdrawn(*_):
    raise Refused("RSD-2101", "the policy was changed")


def test_below_the_quorum_nothing_is_published_and_the_model_is_still_released(signed, tmp_path):
    with ExitStack() as stack:
        world = World(tmp_path, signed).open(stack)
        for name in ("a", "b", "c"):
            world.site(name).workbench.evaluate = _gone
        world.run()
        assert _outcomes(world) == {**CLEAN, **dict.fromkeys("abc", "failed")}
        assert _record(world).figures is None
        assert world.result()["outcome"] == "finished"
        error = evaluation_error(world.folder)
        assert (error.code, error.exit_code, error.found, error.limit) == ("RSD-1266", 8, "1", "2")
        assert "a: RSD-4510" in error.message
        assert world.events("evaluation")[0]["error"]["code"] == "RSD-1266"
        _shows(world, "below quorum")
        report = world.verify()
        assert report.error is None, report.error
        files = build_bundle(read_folder(world.folder.path), consortium().operator, consortium().anchor)
        assert "Nothing is published" in files["model/README.md"].decode()
        assert not [p for p in files if p.startswith("histograms/")]


def _gone(*_):
    raise EnvironmentFault("RSD-4510", "the training process died")


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h.update(scale=1),
        lambda h: h.update(noise_multiplier_micro=200_000),
        lambda h: h.update(rows=4, columns=5),
        lambda h: h.update(cells=h["cells"][1:]),
        lambda h: h.update(site="c"),
        lambda h: h.update(model_sha256="0" * 64),
        lambda h: h.update(model_sha256=h["model_sha256"][:16] + "0" * 48),
        lambda h: h.update(study="0" * 64),
        lambda h: h.update(study=h["study"][:16] + "0" * 48),
    ],
)
def test_counts_that_are_not_what_the_study_asks_for_are_rejected(finished, signed, change):
    study, _ = open_study(consortium().anchor, signed.data, "study")
    run = SimpleNamespace(study=study, digest=signed.digest, anchor=consortium().anchor)
    model = _record(finished).model_sha256
    ours = decode(EvaluateReply, finished.replies["b"].body, "reply")
    assert evaluation._opened(run, "b", ours, model)[0].site == "b"
    other = decode(EvaluateReply, _cells(finished.replies["b"], finished.site("b").signer, change).body, "reply")
    with pytest.raises(ResidencyError) as rejected:
        evaluation._opened(run, "b", other, model)
    assert rejected.value.code == "RSD-1265"


# --- what an operator may not do --------------------------------------------------------------------------------------


def _resealed(files, change):
    value = json.loads(parse_envelope(files["evaluation.json"].rstrip(b"\n"), "e").payload)
    change(value)
    files["evaluation.json"] = seal(value, consortium().operator).encode() + b"\n"


def _better(value):
    value["figures"][0]["value_micro"] += 20_000


def _narrower(value):
    value["figures"][0]["low_micro"] = value["figures"][0]["value_micro"]


def _without(site):
    def change(value):
        for row in value["rows"]:
            if row["site"] == site:
                row.update(
                    outcome="late", reason={"code": "RSD-6103", "rule": "", "message": "away"}, histogram_sha256=None,
                    charge=None, evaluation=None, decision=None, transfer=None,
                )  # fmt: skip

    return change


@pytest.mark.parametrize("change", [_better, _narrower, _without("a"), lambda v: v.update(model_sha256="0" * 64),
                                    lambda v: v.update(figures=None), lambda v: v.update(run="run-2")])  # fmt: skip
def test_a_record_that_was_changed_and_signed_again_does_not_verify(finished, change):
    run = dict(read_folder(finished.folder.path))
    _resealed(run, change)
    report = verify_bundle(build_bundle(run, consortium().operator, consortium().anchor), consortium().anchor, now())
    assert report.failed.step.number == 15


def test_a_record_with_an_earlier_date_than_the_last_round_does_not_verify(pair, monkeypatch):
    """With such a date the operator could call every site late."""
    monkeypatch.setattr(evaluation, "rfc3339", lambda at: rfc3339(at - timedelta(hours=1)))
    pair.run()
    report = pair.verify()
    assert report.failed.step.number == 15
    assert "dated earlier than rosters/round-002.json" in report.error.message


@pytest.mark.parametrize(("minutes", "fine"), [(0, True), (-14, True), (-16, False)])
def test_a_record_is_not_older_than_the_counts_in_it(finished, files, minutes, fine):
    record, contents = _record(finished), Contents(files)
    (sent,) = (e for e, b in contents.bodies("a", "transfer", bodies.TransferBody) if b.artifact == bodies.METRIC)
    moved = sent.model_copy(update={"at": rfc3339(parse_time(record.at) - timedelta(minutes=minutes))})
    with nullcontext() if fine else pytest.raises(CheckFailed, match="earlier than counts in it were sent"):
        verify_evaluation._not_earlier(contents, record, [moved])


def test_a_second_record_in_the_operators_log_does_not_verify(pair, monkeypatch):
    """Of two records the operator could show each to somebody else."""
    record = coordinator.Run.record

    def twice(run, kind, *given):
        if kind == "evaluation":
            record(run, kind, {**given[0], "digest": "0" * 64})
        record(run, kind, *given)

    monkeypatch.setattr(coordinator.Run, "record", twice)
    pair.run()
    report = pair.verify()
    assert report.failed.step.number == 15
    assert "the entry in the operator's log is not right" in report.error.message


def test_a_key_that_was_revoked_before_the_record_was_logged_does_not_sign_it(finished, files):
    """A record with an older date than the revocation, logged after it."""
    contents, record, anchor = Contents(files), _record(finished), consortium().anchor
    late = rfc3339(parse_time(record.at) + timedelta(days=400))  # past the operator key's period
    context = Context(anchor, now())
    verify_evaluation._signed(contents, context, record)
    log = contents.logs[OPERATOR]
    for index, entry in log.entries.items():
        if entry.kind == "evaluation":
            log.entries[index] = entry.model_copy(update={"at": late})
    with pytest.raises(CheckFailed, match="not valid when it was logged"):
        verify_evaluation._signed(contents, context, record)


@pytest.mark.parametrize("checks", [{}, {"noise_variance": False}])
def test_counts_whose_noise_did_not_pass_its_checks_do_not_verify(pair, checks):
    bench = pair.site("a").workbench
    count = bench.evaluate
    bench.evaluate = lambda *a: (count(*a)[0], checks)
    pair.run()
    report = pair.verify()
    assert report.failed.step.number == 15
    assert "noise" in report.error.message


@pytest.mark.parametrize("change", [_better, _narrower, lambda v: v["figures"].pop()])
def test_figures_that_an_operator_logged_and_that_do_not_follow_from_the_counts_are_false(finished, files, change):
    """Whatever is logged and signed: they are derived again."""
    contents, record = Contents(files), _record(finished)
    signed_counts = [
        load_model(Histogram, parse_canonical(contents.envelope(f"histograms/{n}.json").payload, n), "RSD-9041", n)
        for n in GIVEN
    ]
    verify_evaluation._figures(contents, record, record.figures, signed_counts)
    value = record.as_json()
    change(value)
    claimed = load_model(EvaluationRecord, value, "RSD-9041", "record").figures
    with pytest.raises(CheckFailed, match="RSD-9015"):
        verify_evaluation._figures(contents, record, claimed, signed_counts)


def test_counts_of_one_site_that_were_changed_do_not_verify(finished):
    run = dict(read_folder(finished.folder.path))
    value = json.loads(parse_envelope(run["histograms/a.json"].rstrip(b"\n"), "h").payload)
    value["cells"][0] += value["scale"] * 50
    run["histograms/a.json"] = seal(value, finished.site("a").signer).encode() + b"\n"
    report = verify_bundle(build_bundle(run, consortium().operator, consortium().anchor), consortium().anchor, now())
    assert report.failed.step.number == 15


def test_an_evaluation_that_is_left_out_does_not_verify(finished):
    run = {p: d for p, d in read_folder(finished.folder.path).items() if p != "evaluation.json"}
    report = verify_bundle(build_bundle(run, consortium().operator, consortium().anchor), consortium().anchor, now())
    assert report.failed.step.number == 15
    assert "its record is missing" in report.error.message


def test_a_run_that_is_done_again_after_its_evaluation_sends_the_same_counts(finished, tmp_path):
    """The folder as it was before the record: the sites answer with the same bytes, and nothing is charged again."""
    folder = finished.folder.path
    before = finished.folder.evaluation()[0]
    state = json.loads((folder / "state.json").read_bytes())
    kept = shutil.copytree(folder, tmp_path / "kept")
    for name in ("evaluation.json", "result.json"):
        (folder / name).unlink()
    shutil.rmtree(folder / "histograms")
    (folder / "state.json").write_bytes(canonical({**state, "phase": "evaluating"}))
    try:
        with pytest.raises(Refused) as refused:  # the ledger was closed, but nothing new is asked of it
            finished.site("a").ledger.charge("a-clinic", finished.signed.digest, 0, 2, _any_event())
        assert refused.value.code == "RSD-4104"
        finished.go_on(finished.tamper)
        again = finished.folder.evaluation()[0]
        assert again.figures == before.figures
        assert [r.histogram_sha256 for r in again.rows] == [r.histogram_sha256 for r in before.rows]
        for name in TRAINING:
            assert len(entries(finished.site(name), "evaluation")) == 1
            assert len(finished.site(name).ledger.charges(finished.signed.digest)) == 3
    finally:
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)


def _any_event():
    return PrivacyEvent(
        noise_multiplier_micro=4_000_000, sample_numerator=1, sample_denominator=1, steps=1, unit="record",
        tv_error_femto=1,
    )  # fmt: skip


def test_the_record_is_of_the_released_model(finished):
    flat = (finished.folder.path / "snapshots" / "round-002.f32").read_bytes()
    assert _record(finished).model_sha256 == sha256_hex(flat)

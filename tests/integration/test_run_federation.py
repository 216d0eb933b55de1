"""One real run: server and five agents as processes over TLS, with a killed worker and a killed agent on the way.

Round 1 is undisturbed. In round 2 the worker of b is killed in training, and the agent of c is killed in training and
started again: it is asked again, and trains once more. e is never sent the model. What is left behind is read by all
tests of this module, which is why it runs once.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import zipfile
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from client.home import AgentHome
from compliance.canonical import parse_canonical
from compliance.identity import parse_envelope
from compliance.log.evidence import LogEvidence
from compliance.release.bodies import ChargeBody
from compliance.roster import Roster
from compliance.validation import load_model
from server.bundle_build import build_bundle
from tests.egress import decisions_of, unaccounted
from tests.federation import (
    JURISDICTIONS,
    OPERATOR,
    REFUSED,
    TRAINING,
    consortium,
    logged,
    residency,
    scratch,
    workers,
)
from tests.watched import Watched

FIRST = {"a": "contributed", "b": "contributed", "c": "contributed", "d": "contributed", "e": "refused"}
SECOND = {"a": "contributed", "b": "failed", "c": "contributed", "d": "contributed", "e": "refused"}


@pytest.fixture(scope="module")
def live():
    federation = Watched(consortium())
    try:
        yield federation.start()
    finally:
        federation.stop()


@pytest.fixture(scope="module")
def ran(live):
    """The run, its study and its folder; the agents and the server are still up."""
    study = consortium().sign_study(round_deadline_s=150, evaluation={"noise_multiplier_micro": 4_000_000, "bins": 10})
    file, answers = study.write(scratch("study"))
    process = live.begin_run(file, answers)
    home = live.made.home
    frozen = {}
    for site in ("b", "c"):  # frozen between their first and second round, so that the kill meets them in training
        live.wait(lambda site=site: logged(home(site), "transfer", study.digest, round=1), 150, f"{site} in round 1")
        frozen[site] = workers(live.pid(site))
        for pid in frozen[site]:
            os.kill(pid, signal.SIGSTOP)
    for site in ("b", "c"):
        live.wait(lambda site=site: logged(home(site), "charge", study.digest, round=2), 60, f"{site} in round 2")
    _kill(frozen["b"])
    live.kill("c")
    _kill(frozen["c"])
    live.spawn("c", "agent", "start", "--home", home("c"), "--threads", "1")
    done = live.end_run(process)
    return SimpleNamespace(done=done, study=study, file=file, answers=answers, folder=done.json.get("folder"))


def _kill(pids):
    assert pids
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _rosters(ran):
    out = []
    for file in sorted((Path(ran.folder) / "rosters").glob("*.json")):
        envelope = parse_envelope(file.read_bytes(), file.name)
        out.append((load_model(Roster, parse_canonical(envelope.payload, "roster"), "RSD-1210", "roster"), envelope))
    return out


def _evidence(ran, member):
    data = (Path(ran.folder) / "evidence" / f"{member}.json").read_bytes()
    return load_model(LogEvidence, parse_canonical(data, member), "RSD-1210", member)


def test_the_run_finishes_and_says_what_became_of_each_site(ran):
    assert ran.done.code == 0, ran.done.err
    record = ran.done.json
    assert (record["outcome"], record["rounds"], record["error"]) == ("finished", 2, None)
    assert {s["name"]: s["outcome"] for s in record["sites"]} == SECOND
    assert [{r.site: r.outcome for r in roster.rows} for roster, _ in _rosters(ran)] == [FIRST, SECOND]


def test_the_final_model_is_evaluated_by_the_sites_real_counts(ran, live):
    found = ran.done.json["evaluation"]
    assert found["outcome"] == "published"
    assert {s["name"]: s["outcome"] for s in found["sites"]} == FIRST
    by_name = {(f["name"], f["label"]): f for f in found["figures"]}
    accuracy, auroc = by_name["accuracy", ""], by_name["auroc", "yes"]
    assert 0 <= accuracy["low_micro"] <= accuracy["value_micro"] <= accuracy["high_micro"] <= 1_000_000
    assert auroc["value_micro"] is None or auroc["low_micro"] <= auroc["value_micro"] <= auroc["high_micro"]
    shown = residency("run", "show", ran.folder, "--home", live.made.hub)
    assert "evaluation on the sites' records: published, 4 of 5 sites" in shown.out
    counted = [json.loads(line) for line in ran.done.err.splitlines() if '"counted"' in line]
    assert {e["site"]: e["outcome"] for e in counted} == dict.fromkeys(TRAINING, "contributed")
    for site in TRAINING:  # every row is in one cell: the noise is far below a third of the table
        payload = parse_envelope((Path(ran.folder) / "histograms" / f"{site}.json").read_bytes(), site).payload
        value = json.loads(payload)
        rows = len((live.made.root / f"{site}.csv").read_text().splitlines()) - 1
        assert abs(sum(value["cells"]) / value["scale"] - rows) < 4 * 20**0.5 * 8


def test_a_killed_worker_stands_in_the_roster_with_its_reason(ran):
    roster, _ = _rosters(ran)[1]
    assert roster.row("b").reason.code == "RSD-4510"


def test_a_killed_agent_that_comes_back_contributes_by_a_second_charged_attempt(ran):
    roster, _ = _rosters(ran)[1]
    assert roster.row("c").attempt == 2


def test_the_site_without_a_transfer_basis_is_refused_and_never_sent_the_model(ran, live):
    for roster, _ in _rosters(ran):
        row = roster.row(REFUSED)
        assert row.reason.code == "RSD-3100"
        assert row.reason.rule == "eu.no-basis: GDPR Art 44, GDPR Art 45, GDPR Art 46"
        assert {e.origin for e in row.denied_by} >= {
            consortium().anchor.trust.log_origin(n) for n in ("a", "d", OPERATOR)
        }
        assert REFUSED not in roster.recipients
    assert logged(live.made.hub, "transfer", ran.study.digest) == 3 * len(TRAINING)  # two rounds and the evaluation
    assert logged(live.made.hub, "transfer", ran.study.digest, recipient=REFUSED) == 0
    own = live.made.home(REFUSED)
    assert logged(own, "charge", ran.study.digest) == 0
    assert not list(own.rglob("rounds"))


def test_each_thing_that_an_agent_sent_was_decided_before(ran, live):
    answered = {"residency.joined/1", "residency.contribution/1", "residency.witnessed/1", "residency.closed/1"}
    for site in TRAINING:
        sent = live.sent(site)
        assert {one.what for one in sent} >= {*answered, "fleet", "Status", "Exchange"}, (site, sent)
        assert unaccounted(sent, decisions_of(live.made.home(site))) == [], site


def test_the_refused_site_gets_its_reservation_back(ran, live):
    shown = residency("agent", "ledger", "show", "--home", live.made.home(REFUSED), "--json").json
    assert [s["held_milli"] for s in shown["sources"]] == [0]


def test_rosters_are_signed_by_the_operator_and_by_every_member(ran):
    anchor = consortium().anchor
    first, second = (
        {k.holder for k in anchor.trust.keys if k.keyid in dict(envelope.signatures)} for _, envelope in _rosters(ran)
    )
    assert first == second == {OPERATOR, *TRAINING}


def test_every_attempt_is_charged_once_also_those_that_were_killed(ran, live):
    for site in TRAINING:
        charged = [load_model(ChargeBody, json.loads(json.dumps(e)), "RSD-1210", "x") for e in _bodies(live, site, ran)]
        again = [(2, 2)] if site == "c" else []
        assert [(c.round, c.attempt) for c in charged] == [(1, 1), (2, 1), *again, (0, 1)]
        with AgentHome(live.made.home(site)).ledger() as ledger:
            assert [(c.seq, c.head) for c in ledger.charges(ran.study.digest)] == [(c.seq, c.head) for c in charged]


def _bodies(live, site, ran):
    home = AgentHome(live.made.home(site))
    with home.log(home.anchor(), home.signer()) as log:
        return [e.body for e in log.entries(0, log.size, study=ran.study.digest, kind="charge")]


def test_every_evidence_is_cosigned_by_the_others(ran):
    trust = consortium().anchor.trust
    for member in (OPERATOR, *TRAINING):
        note = _evidence(ran, member).checkpoint
        others = {n for n in (OPERATOR, *TRAINING) if n != member}
        assert sum(trust.witness_name(n) in note for n in others) >= 3, member


@pytest.fixture(scope="module")
def bundle(ran, live):
    out = scratch("bundle") / "bundle"
    built = residency("release", "build", ran.folder, "--key", live.made.hub / "keys" / "operator.key", "--out", out)
    assert built.code == 0, built.err
    return out


def test_the_release_verifies_where_torch_and_flwr_cannot_be_imported(bundle, live):
    done = residency("verify", bundle, "--trust", live.made.trust, "--json", module="demo.blocked")
    assert done.code == 0, done.out
    assert {s["status"] for s in done.json["steps"]} == {"ok"}


def test_without_a_trust_file_verification_says_integrity_only(bundle):
    assert residency("verify", bundle, "--json").code == 5


def test_a_roster_that_lost_a_countersignature_no_longer_verifies(bundle, live, tmp_path):
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy)
    (file,) = copy.glob("rosters/*001.json")
    record = json.loads(file.read_text())
    record["signatures"] = record["signatures"][:2]
    file.write_text(json.dumps(record))
    assert residency("verify", copy, "--trust", live.made.trust, "--json").code == 1


# --- refused runs: both at once, after the run ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def refusing(live):
    """A study that the ledgers cannot pay, with answers that are wrong in a way of its own at each site."""
    made = consortium()
    sites = [{**s, "noise_multiplier_micro": 620_000} for s in made.study()["sites"]]
    sites[3]["epsilon_milli"] = 50_000
    study = made.sign_study(name="tiny-two", sites=sites)
    answers = study.answers("a", "c", "d", "e")
    answers["b.advice.json"] = made.advice("b", study.digest)
    answers["c.approval.json"] = made.approval("c", study.digest, answers["c.advice.json"], policy="0" * 64)
    del answers["e.advice.json"]
    first = live.begin_run(*study.write(scratch("two"), answers))
    evil = scratch("evil") / "bundle.zip"
    content, _ = build_bundle()
    buffer = io.BytesIO(content)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("client/app.py", "raise SystemExit('this must never run')")
    evil.write_bytes(buffer.getvalue())
    second = live.begin_run(*made.sign_study(name="tiny-three").write(scratch("three")), "--bundle", evil)
    return live.end_run(first), live.end_run(second)


def test_below_quorum_the_run_fails_with_the_reason_of_each_site(refusing):
    done, _ = refusing
    assert done.code == 8
    record = done.json
    assert (record["outcome"], record["error"]["code"]) == ("failed", "RSD-8200")
    assert (record["error"]["found"], record["error"]["limit"]) == ("0", "2")
    assert {s["name"]: s["code"] for s in record["sites"]} == {
        "a": "RSD-4101",
        "b": "RSD-2207",
        "c": "RSD-2201",
        "d": "RSD-2101",
        "e": "RSD-2202",
    }
    for site in JURISDICTIONS:
        assert f"{site}: RSD-" in record["error"]["message"]


def test_each_refusal_stands_in_the_log_of_the_site(refusing, live):
    record = refusing[0].json
    for row in record["sites"]:
        assert logged(live.made.home(row["name"]), "refusal", record["study"], code=row["code"]) == 1


def test_code_in_the_bundle_is_refused_by_every_site_and_the_operator_reads_why(refusing):
    _, done = refusing
    assert done.code == 8
    assert {s["name"]: s["code"] for s in done.json["sites"]} == dict.fromkeys(JURISDICTIONS, "RSD-1103")
    assert "RSD-1103 code in the bundle" in done.json["error"]["message"]


def test_a_second_server_on_the_same_port_ends_with_7(live):
    done = residency("server", "start", "--home", live.made.hub, "--host", "127.0.0.1", "--json", limit_s=60)
    assert done.code == 7
    assert done.json["error"]["code"] == "RSD-7101"
    assert done.json["error"]["next"]


def test_logs_of_processes_hold_no_patient(live, ran):
    """Patient numbers 9000 and up stand in every table; they reach no output, log or run folder."""
    del ran
    said = [live.output / f"{n}.log" for n in (OPERATOR, *JURISDICTIONS)]
    kept = [f for n in JURISDICTIONS for f in live.made.home(n).rglob("*") if f.is_file()]
    kept += [f for f in Path(live.made.hub).rglob("*") if f.is_file()]
    table = (live.made.root / "a.csv").read_text()
    row = table.splitlines()[5]
    assert "patient_id" in table
    for file in (*said, *kept):
        assert row.encode() not in file.read_bytes(), file

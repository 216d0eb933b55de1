"""The operator leaves something out, alone or with one site: entries, rows, rosters, cosigners. Each is caught.

Unlike a changed byte, what is left out breaks no signature: only what the logs count and name tells of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from compliance.canonical import sha256_hex
from compliance.identity import new_signer, parse_envelope, seal
from compliance.log.entry import Entry
from compliance.release import bodies
from compliance.release.case import Contents, evidence_bytes
from compliance.trust.root import open_trust
from compliance.trust.witnesses import witness_keys
from tests.world import (
    AT,
    CONTRIBUTORS,
    JURISDICTIONS,
    OPERATOR,
    REFUSED,
    START,
    Plan,
    World,
    build_world,
    failed,
    rebuilt,
    released,
    resealed,
    said,
    world,
)
from tests.world_run import Run

Files = dict[str, bytes]


def without(made: World, run: Files, member: str, drop: Callable[[Entry], bool]) -> Files:
    """The run folder, with some entries of one log not opened (their hashes stay)."""
    log = Contents(run).logs[member]
    kept = tuple(e for e in log.evidence.entries if not drop(log.entries[e.index]))
    assert len(kept) < len(log.evidence.entries)
    return {**run, f"evidence/{member}.json": evidence_bytes(log.evidence.model_copy(update={"entries": kept}))}


def is_denial(entry: Entry) -> bool:
    return entry.kind == "decision" and not entry.body["allow"]


def unnamed(member: str) -> Callable[[dict[str, Any]], None]:
    """Rosters that do not name the member's denial."""

    def change(roster: dict[str, Any]) -> None:
        row = roster["rows"][-1]
        row["denied_by"] = [ref for ref in row["denied_by"] if not ref["origin"].endswith(f"/{member}")]

    return change


# --- 3: what a log counts must be shown


def _charged_again(run: Any, member: str) -> None:
    """An attempt of a spare round, charged and lost: no roster and no commit tells of it."""
    if member == "site-a":
        run._charge("site-a", 3, 1, "0" * 64)


def test_dropped_charges_do_not_make_eps_smaller() -> None:
    made = build_world(Plan(before_close=_charged_again))
    assert failed(released(made, made.run)) == (0, "")
    run = without(made, made.run, "site-a", lambda e: e.kind == "charge" and e.body["round"] == 3)
    step, message = failed(released(made, run))
    assert (step, "other entries are opened" in message) == (7, True), message


def test_a_dropped_denial_that_no_roster_names() -> None:
    made = build_world(Plan(roster=unnamed("site-d")))
    assert failed(released(made, made.run)) == (0, "")
    assert failed(released(made, without(made, made.run, "site-d", is_denial)))[0] == 7


@pytest.mark.parametrize("member", ["site-a", OPERATOR])
def test_a_log_without_its_closing_entry(member: str) -> None:
    run = without(world(), world().run, member, lambda e: e.kind == "close")
    step, message = failed(released(world(), run))
    assert (step, "not opened" in message) == (7, True), message


def test_a_false_count_and_an_entry_beyond_the_count() -> None:
    def one_less(member: str, kind: str, body: dict[str, Any]) -> None:
        if (member, kind) == ("site-b", "close"):
            body["entries"] -= 1

    made = build_world(Plan(body=one_less))
    assert failed(released(made, made.run))[0] == 7
    made = world()
    entries = made.entries("site-b")
    evidence = rebuilt(made, "site-b", [*entries, entries[1]], cosigners=["site-c", "site-d"])
    step, message = failed(released(made, {**made.run, "evidence/site-b.json": evidence_bytes(evidence)}))
    assert (step, "does not count it" in message) == (7, True), message


def test_who_shows_no_log_is_left_to_the_operators_word() -> None:
    report = world().verify(world().bundle)
    assert f"{OPERATOR}: that {REFUSED} contributed nothing, and why: no log of {REFUSED} is shown" in said(report)


# --- 4: a contribution that the roster calls late


def called(outcome: str) -> Callable[[dict[str, Any]], None]:
    def change(roster: dict[str, Any]) -> None:
        if roster["round"] == 2:
            reason = {"code": "RSD-6102", "rule": "deadline", "message": "no answer"}
            roster["rows"][3] = {"site": "site-d", "jurisdiction": "JP", "outcome": outcome, "reason": reason}

    return change


@pytest.mark.parametrize("outcome", ["late", "failed", "refused"])
@pytest.mark.parametrize("countersigned", [True, False])
def test_a_contributor_that_is_called_otherwise(outcome: str, countersigned: bool) -> None:
    made = build_world(Plan(roster=called(outcome)))
    run = dict(made.run)
    if not countersigned:
        others = [made.keys[s, "agent"] for s in CONTRIBUTORS if s != "site-d"]
        path = "rosters/round-002.json"
        run[path] = resealed(run[path], lambda _: None, made.operator, *others)
    step, message = failed(released(made, run))
    assert step == 9
    assert f"says that site-d was {outcome}, but entry" in message
    assert "is its commit" in message


def test_an_update_after_the_roster_is_late_by_the_sites_own_clock() -> None:
    made_at = "2026-11-22T10:01:40Z"

    def earlier(roster: dict[str, Any]) -> None:
        called("late")(roster)
        if roster["round"] == 2:
            roster["at"] = made_at

    made = build_world(Plan(roster=earlier))
    commit = next(e for e in made.entries("site-d") if e.kind == "commit" and e.body["round"] == 2)
    assert commit.at > made_at
    assert "that the update of site-d of round 2 came too late" in said(released(made, made.run))


# --- 5: other rosters than those that were logged


def other_result(made: World) -> Files:
    """The same run with another last model, signed by the operator and all sites again."""
    flat, path = (np.ones(16) * 9).astype("<f4").tobytes(), "rosters/round-002.json"
    everybody = [made.operator, *(made.keys[s, "agent"] for s in CONTRIBUTORS)]
    change = lambda r: r.update(result_sha256=sha256_hex(flat))  # noqa: E731
    return {**made.run, "snapshots/round-002.f32": flat, path: resealed(made.run[path], change, *everybody)}


def test_a_second_bundle_with_rosters_that_no_log_holds() -> None:
    step, message = failed(released(world(), other_result(world())))
    assert (step, "closed the study with other rosters" in message) == (8, True), message


@pytest.mark.parametrize(("member", "found"), [("site-b", "does not hold"), ("site-c", "another roster of round 2")])
def test_a_site_that_logged_no_such_roster_or_one_more(member: str, found: str) -> None:
    def change(who: str, kind: str, body: dict[str, Any]) -> None:
        if (who, kind, who == "site-b", body.get("round")) == (member, "roster", True, 2):
            body["round"] = 1

    def again(run: Any, who: str) -> None:
        if who == member == "site-c":
            run.append(who, "roster", {"round": 2, "digest": "0" * 64})

    made = build_world(Plan(body=change if member == "site-b" else None, before_close=again))
    step, message = failed(released(made, made.run))
    assert step == 8, message
    assert found in message or "another roster of round 1" in message


def test_the_operators_rosters_of_a_run_that_failed_are_its_own_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the quorum no site countersigned them. After the run's own first roster there may be no other."""
    refuse = Run._refuse

    def failed_before(run: Run) -> None:
        run.append(OPERATOR, "roster", {"round": 1, "digest": "0" * 64})
        refuse(run)

    monkeypatch.setattr(Run, "_refuse", failed_before)
    made = build_world(Plan(body=_closes_with_two))
    assert f"{OPERATOR}: that 1 rosters in its log before these are of runs" in said(released(made, made.run))


def _closes_with_two(member: str, kind: str, body: dict[str, Any]) -> None:
    if (member, kind) == (OPERATOR, "close"):
        body.update(rounds=2, rosters=body["rosters"][1:])


def test_the_operator_logs_another_roster_in_the_same_run() -> None:
    def again(run: Any, member: str) -> None:
        if member == OPERATOR:
            run.append(member, "roster", {"round": 2, "digest": "0" * 64})

    def keep(member: str, kind: str, body: dict[str, Any]) -> None:
        if (member, kind) == (OPERATOR, "close"):
            body.update(rounds=2, rosters=body["rosters"][:2])

    made = build_world(Plan(before_close=again, body=keep))
    step, message = failed(released(made, made.run))
    assert (step, "another roster of round 2" in message) == (8, True), message


def test_a_roster_that_is_dated_later_than_it_was_logged() -> None:
    def later(roster: dict[str, Any]) -> None:
        if roster["round"] == 2:
            roster["at"] = "2026-11-22T10:40:00Z"

    made = build_world(Plan(roster=later))
    step, message = failed(released(made, made.run))
    assert (step, "is dated later than" in message) == (8, True), message


def test_that_the_model_follows_from_the_updates_is_only_asserted() -> None:
    assert f"{OPERATOR}: that each global model follows from the sites' updates by fedavg" in said(
        world().verify(world().bundle)
    )


# --- 6: the operator and one site


def forged_log(made: World, *cosigners: str) -> Files:
    """site-a's denial becomes a harmless entry in place; the log is signed and cosigned again."""
    entries = [
        e.model_copy(update={"kind": "study", "body": {"name": "thyroid-one"}}) if is_denial(e) else e
        for e in made.entries("site-a")
    ]
    evidence = rebuilt(made, "site-a", entries, cosigners=cosigners)
    return {**made.run, "evidence/site-a.json": evidence_bytes(evidence)}


def test_the_operators_cosignature_alone_covers_no_sites_log() -> None:
    made = build_world(Plan(roster=unnamed("site-a")))
    step, message = failed(released(made, forged_log(made, OPERATOR)))
    assert (step, "nobody but its owner and the operator" in message) == (7, True), message
    step, message = failed(released(made, forged_log(made, OPERATOR, "site-b")))
    assert (step, "are not those that" in message) == (7, True), message


def test_peers_cosign_entries_cannot_be_dropped() -> None:
    made = build_world(Plan(roster=unnamed("site-a")))
    run = forged_log(made, OPERATOR, "site-b")
    for member in (OPERATOR, *CONTRIBUTORS[1:]):
        of_site_a = lambda e: e.kind == "cosign" and e.body["origin"].endswith("/site-a")  # noqa: E731
        if any(of_site_a(e) for e in Contents(run).logs[member].entries.values()):
            run = without(made, run, member, of_site_a)
    assert failed(released(made, run))[0] == 7


def test_a_log_that_ends_before_what_a_peer_cosigned() -> None:
    made = world()
    whole = made.entries("site-a")
    short = [*whole[:7], whole[-1]]
    evidence = rebuilt(made, "site-a", short, cosigners=["site-d"])
    step, message = failed(released(made, {**made.run, "evidence/site-a.json": evidence_bytes(evidence)}))
    assert (step, "ends before what site-b cosigned" in message) == (7, True), message


def test_a_witness_key_of_the_logs_owner_does_not_count() -> None:
    made = world()
    own = new_signer("witness", "site-a", "2026-01-01T00:00:00Z", "2028-01-01T00:00:00Z")
    foreign = new_signer("witness", "notary", "2026-01-01T00:00:00Z", "2028-01-01T00:00:00Z")
    payload = json.loads(parse_envelope(made.trust, "trust").payload)
    payload["keys"] += [own.identity.as_json(), foreign.identity.as_json()]
    trust = open_trust(seal(payload, *(made.keys[s, "signatory"] for s in CONTRIBUTORS)).encode(), "trust").trust
    assert {"notary"} == witness_keys(trust, "site-a", START).keys() & {"site-a", "notary"}
    assert {"site-a", "notary"} <= witness_keys(trust, "site-b", START).keys()
    assert not {"site-a", "notary"} & witness_keys(trust, "site-b", AT.replace(year=2029)).keys()


def test_missing_cosigners_are_reported() -> None:
    text = said(world().verify(world().bundle))
    assert "site-a: that its log is the one that coordinator, site-d saw: they did not cosign" in text


# --- 7: who was denied is sent nothing, whatever the rosters call it


@pytest.fixture
def french(monkeypatch: pytest.MonkeyPatch) -> None:
    """The refused site where the rules would allow it everything."""
    monkeypatch.setitem(JURISDICTIONS, REFUSED, "FR")


def sent_to_the_refused(run: Any, member: str) -> None:
    if member == OPERATOR:
        decided = run._decide(OPERATOR, "aggregate", REFUSED, 1)
        base = sha256_hex(run.world.run["snapshots/round-000.f32"])
        body = bodies.TransferBody(
            artifact="aggregate", recipient=REFUSED, round=1, attempt=1, sha256=base, decision=decided.index
        )
        run.append(OPERATOR, "transfer", body.as_json())


def called_late(roster: dict[str, Any]) -> None:
    reason = {"code": "RSD-6102", "rule": "deadline", "message": "no answer"}
    roster["rows"][-1] = {"site": REFUSED, "jurisdiction": "FR", "outcome": "late", "reason": reason}


@pytest.mark.usefixtures("french")
@pytest.mark.parametrize("listed", [True, False])
def test_a_signed_refusal_forbids_every_transfer_whatever_the_row_says(listed: bool) -> None:
    def roster(record: dict[str, Any]) -> None:
        called_late(record)
        if listed and record["round"] == 1:
            record["recipients"] = [*record["recipients"], REFUSED]

    made = build_world(
        Plan(
            self_refusal=True,
            skip_denials=True,
            roster=roster,
            before_close=sent_to_the_refused,
            told=(*CONTRIBUTORS, REFUSED),
        )
    )
    step, message = failed(released(made, made.run))
    assert step == 11, message
    assert f"answers/{REFUSED}.refusal.json denies the model" in message or "is a recipient although" in message


def test_no_shown_log_denies_is_all_that_is_said() -> None:
    made = build_world(Plan(skip_denials=True))
    report = released(made, made.run)
    proved = "\n".join(report.fields()["proved"])
    assert "no shown log denies any site the model" in proved
    assert "sent nothing" not in proved

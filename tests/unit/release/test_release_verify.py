"""Each step of `verify_bundle` fails, by its number, for what it is there to catch.

The operator of these worlds is dishonest: after each change the manifest is signed again with the operator's real key,
and, where a log entry is changed, everybody signs everything. Only the named step stands against it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any
from unittest.mock import patch

import pytest

from compliance.canonical import canonical
from compliance.identity import parse_envelope, seal
from compliance.log import store
from compliance.release.report import STEPS, Report
from tests.world import AT, OPERATOR, ORDER, REFUSED, Plan, World, build_world, dishonest, resealed, world

Files = dict[str, bytes]
Tamper = Callable[[World, Files], Any]


@cache
def honest() -> Files:
    return world().bundle


def failed_step(report: Report) -> int | None:
    """The number of the false step; it exits 1, names itself, and everything after it is not run."""
    if report.failed is None:
        assert report.error is None
        return None
    assert report.error is not None
    assert report.error.exit_code == 1
    step = report.failed.step
    assert report.error.code == step.code
    assert f"step {step.number} ({step.name})" in report.error.message
    assert all(r.status == "not run" for r in report.results[step.number :])
    return step.number


def test_an_honest_bundle_verifies_and_says_what_is_proved_and_what_is_asserted() -> None:
    report = world().verify(honest())
    assert report.error is None
    assert [r.status for r in report.results] == ["ok"] * len(STEPS)
    proved = "\n".join(report.fields()["proved"])
    assert "final checkpoint cosigned by 2" in proved
    assert (
        f"{REFUSED} (CN) was denied; the operator's log records no transfer to it: eu.no-basis (GDPR Art 44" in proved
    )
    assert report.fields()["epsilon_milli"].keys() == {"site-a", "site-b", "site-c", "site-d"}
    asserted = report.asserted()
    assert any("training code" in text for text in asserted["site-a"])
    assert any("jurisdiction" in text for text in asserted["site-a"])
    assert any("record count" in text for text in asserted["site-a"])
    text = "\n".join(report.lines())
    assert "NOT COVERED" in text
    assert "compliant" not in text.lower()


def _replace(path: str, data: bytes) -> Tamper:
    return lambda _, files: files.update({path: data})


def _remove(path: str) -> Tamper:
    return lambda _, files: files.pop(path)


def _answer(of: str, kind: str, role: str, **changes: Any) -> Tamper:
    def tamper(made: World, files: Files) -> None:
        path = f"answers/{of}.{kind}.json"
        files[path] = resealed(files[path], lambda p: p.update(changes), made.keys[of, role])

    return tamper


def _refusal_beside_contributions(made: World, files: Files) -> None:
    refusal = {
        "schema": "residency.refusal/1", "subject": "study", "digest": made.study_digest, "site": "site-b",
        "at": "2026-11-22T10:00:00Z", "reason": "no",
    }  # fmt: skip
    files["answers/site-b.refusal.json"] = seal(refusal, made.keys["site-b", "signatory"]).encode() + b"\n"


def _study_by_an_agent(made: World, files: Files) -> None:
    files["study.json"] = resealed(files["study.json"], lambda _: None, made.keys["site-a", "agent"])


def _without_countersignature(made: World, files: Files) -> None:
    others = [made.keys[s, "agent"] for s in ("site-a", "site-b", "site-c")]
    path = "rosters/round-002.json"
    files[path] = resealed(files[path], lambda _: None, made.operator, *others)


def _swapped_rosters(_: World, files: Files) -> None:
    first, second = "rosters/round-001.json", "rosters/round-002.json"
    files[first], files[second] = files[second], files[first]


def _other_study(made: World, files: Files) -> None:
    files["study.json"] = resealed(files["study.json"], lambda p: p.update(description="another"), made.operator)


def _pack_changed(_: World, files: Files) -> None:
    files["packs/eu.yaml"] += b"# reviewed\n"


def _one_bit_of_the_model(_: World, files: Files) -> None:
    data = bytearray(files["model/head.safetensors"])
    data[-1] ^= 1
    files["model/head.safetensors"] = bytes(data)


def _claim(**changes: int) -> Tamper:
    def tamper(_: World, files: Files) -> None:
        claims = json.loads(files["privacy.json"])
        claims["sites"][0] |= changes
        files["privacy.json"] = canonical(claims) + b"\n"

    return tamper


def _layout(**changes: Any) -> Tamper:
    def tamper(_: World, files: Files) -> None:
        layout = json.loads(files["layout.json"])
        layout["entries"][2] |= changes
        files["layout.json"] = canonical(layout) + b"\n"

    return tamper


RESIGNED: dict[str, tuple[Tamper, int]] = {
    "code in the bundle": (_replace("model/modeling.py", b"x = 1\n"), 1),
    "a pickle in the bundle": (_replace("model/pytorch_model.bin", b"x"), 1),
    "study signed by an agent": (_study_by_an_agent, 3),
    "another study": (_other_study, 3),
    "no approval": (_remove("answers/site-b.approval.json"), 4),
    "no advice": (_remove("answers/site-b.advice.json"), 4),
    "approval by the DPO": (_answer("site-b", "approval", "dpo"), 4),
    "approval of another site": (_answer("site-b", "approval", "signatory", site="site-c"), 4),
    "unfavourable advice": (_answer("site-b", "advice", "dpo", favourable=False), 4),
    "approval of other software": (
        _answer("site-b", "approval", "signatory", software={"version": "0.9", "bundle_sha256": "0" * 64}),
        5,
    ),
    "refused and contributed": (_refusal_beside_contributions, 4),
    "no pack": (_remove("packs/jp.yaml"), 6),
    "changed pack": (_pack_changed, 6),
    "malformed pack": (_replace("packs/eu.yaml", b"id: [\n"), 6),
    "no evidence of a contributor": (_remove("evidence/site-b.json"), 7),
    "no evidence of the operator": (_remove(f"evidence/{OPERATOR}.json"), 7),
    "malformed evidence": (_replace("evidence/site-c.json", b"{}"), 7),
    "a roster less": (_remove("rosters/round-002.json"), 8),
    "swapped rosters": (_swapped_rosters, 8),
    "roster not countersigned": (_without_countersignature, 8),
    "malformed roster": (_replace("rosters/round-001.json", b"[]"), 8),
    "no snapshot": (_remove("snapshots/round-002.f32"), 8),
    "another snapshot": (_replace("snapshots/round-002.f32", b"\0" * 64), 8),
    "an approval that was not logged": (
        _answer("site-b", "approval", "signatory", against_advice_reason="later"),
        9,
    ),
    "claimed less eps": (_claim(epsilon_milli=1), 12),
    "claimed fewer charges": (_claim(charges=1), 12),
    "claimed another limit": (_claim(limit_milli=9000), 12),
    "no privacy claims": (_remove("privacy.json"), 12),
    "model changed by one bit": (_one_bit_of_the_model, 13),
    "model without adapters": (_remove("model/adapter_model.safetensors"), 13),
    "other adapter configuration": (_replace("model/adapter_config.json", b"{}\n"), 13),
    "another width of A": (_layout(a_width=8), 13),
    "another shape": (_layout(shape=[8, 2]), 13),
    "another card": (_replace("model/README.md", b"# safe for all uses\n"), 14),
}


@pytest.mark.parametrize("name", RESIGNED)
def test_a_dishonest_operator_signs_the_manifest_again(name: str) -> None:
    tamper, step = RESIGNED[name]
    files = dict(honest())
    tamper(world(), files)
    assert failed_step(world().verify(world().resigned(files))) == step


@pytest.mark.parametrize("change", ["extra", "missing", "empty", "no manifest", "not signed by the operator"])
def test_files_are_those_of_the_manifest(change: str) -> None:
    files = dict(honest())
    if change == "extra":
        files["answers/site-e.refusal.json"] = b"{}"
    elif change == "missing":
        del files["packs/uk.yaml"]
    elif change == "empty":
        files["packs/uk.yaml"] = b""
    elif change == "no manifest":
        del files["manifest.json"]
    else:
        files["manifest.json"] = resealed(files["manifest.json"], lambda _: None, world().keys["site-a", "agent"])
    report = world().verify(files)
    assert failed_step(report) == 1
    if change in ("extra", "missing", "empty"):
        assert report.error is not None
        path = "answers/site-e.refusal.json" if change == "extra" else "packs/uk.yaml"
        assert path in report.error.message


def test_the_trust_file_is_the_one_that_the_manifest_names_and_in_force() -> None:
    made = world()
    other = made.resigned(honest(), trust={"sha256": "0" * 64, "version": 2})
    assert failed_step(made.verify(other)) == 2
    from compliance.release.verify import verify_bundle

    assert failed_step(verify_bundle(honest(), made.anchor, AT + timedelta(days=400))) == 2
    assert failed_step(verify_bundle(honest(), made.anchor, AT - timedelta(days=2))) == 2
    assert failed_step(verify_bundle(honest(), made.anchor, AT + timedelta(days=300))) is None


def _set(member: str, kind: str, **changes: Any) -> Callable[[str, str, dict[str, Any]], None]:
    """Change every entry of this kind at this member."""

    def change(who: str, what: str, body: dict[str, Any]) -> None:
        if (who, what) == (member, kind):
            body.update(changes)

    return change


def _event(**changes: int) -> Callable[[str, str, dict[str, Any]], None]:
    def change(who: str, kind: str, body: dict[str, Any]) -> None:
        if (who, kind) == ("site-a", "charge"):
            body["event"] = {**body["event"], **changes}

    return change


def _decision(**changes: Any) -> Callable[[str, str, dict[str, Any]], None]:
    def change(who: str, kind: str, body: dict[str, Any]) -> None:
        if (who, kind, body.get("peer")) == ("site-a", "decision", OPERATOR):
            body.update(changes)

    return change


def _told(**guarantees: Any) -> Callable[[str, str, dict[str, Any]], None]:
    def change(who: str, kind: str, body: dict[str, Any]) -> None:
        if (who, kind) == ("site-a", "decision"):
            body["transfer"] = {**body["transfer"], "guarantees": {**body["transfer"]["guarantees"], **guarantees}}

    return change


def _invented_paper(who: str, kind: str, body: dict[str, Any]) -> None:
    if (who, kind) == ("site-a", "decision"):
        papers = [*body["transfer"]["documents"], {**body["transfer"]["documents"][0], "kind": "scc"}]
        body["transfer"] = {**body["transfer"], "documents": papers}


def _hide_denial(who: str, kind: str, body: dict[str, Any]) -> None:
    if (who, kind, body.get("peer")) == ("site-d", "decision", REFUSED):
        body.update(effect="allow", allow=True)


def _send_to_the_refused(roster: dict[str, Any]) -> None:
    roster["recipients"] = [*roster["recipients"], REFUSED]


def _refused_without_denial(roster: dict[str, Any]) -> None:
    _send_to_the_refused(roster)
    roster["rows"][-1]["denied_by"] = []


def _wrong_grounds(roster: dict[str, Any]) -> None:
    roster["rows"][-1]["denied_by"] = [roster["rows"][0]["decision"]]


def _other_base(roster: dict[str, Any]) -> None:
    if roster["round"] == 2:
        roster["base_sha256"] = "0" * 64


def _drop_row(roster: dict[str, Any]) -> None:
    del roster["rows"][1]


def _later_than_the_study(roster: dict[str, Any]) -> None:
    roster["at"] = "2027-05-01T00:00:00Z"


PLANS: dict[str, tuple[Plan, int]] = {
    "a site has no row": (Plan(roster=_drop_row), 8),
    "a round with another base": (Plan(roster=_other_base), 8),
    "a roster after the study": (Plan(roster=_later_than_the_study), 8),
    "committed after it was sent": (Plan(order=("charge", "decision", "transfer", "commit")), 9),
    "charged after it was committed": (Plan(order=("commit", "charge", "decision", "transfer")), 9),
    "decided after it was sent": (Plan(order=("charge", "commit", "transfer", "decision")), 9),
    "another digest was sent": (Plan(body=_set("site-a", "transfer", sha256="0" * 64)), 9),
    "another digest was committed": (Plan(body=_set("site-a", "commit", update_sha256="0" * 64)), 9),
    "charged for another base": (Plan(body=_set("site-a", "charge", base_sha256="0" * 64)), 9),
    "charged for another round": (Plan(body=_set("site-a", "charge", round=1)), 9),
    "sent elsewhere": (Plan(body=_set("site-a", "transfer", recipient="site-b")), 9),
    "the operator sent something else": (Plan(body=_set(OPERATOR, "transfer", sha256="0" * 64)), 9),
    "a field that nobody reads": (Plan(body=_set("site-a", "commit", note="x")), 9),
    "one evaluator denied": (Plan(body=_decision(evaluators={"python": "allow", "cedar": "deny"})), 10),
    "another rule was logged": (Plan(body=_decision(rule="eu.update.adequate")), 10),
    "a denial was turned": (Plan(body=_hide_denial), 10),
    "told of better privacy": (Plan(body=_told(epsilon_milli=10)), 10),
    "told of a smaller delta": (Plan(body=_told(inverse_delta=10**9)), 10),
    "a paper that the study lacks": (Plan(body=_invented_paper), 10),
    "another exporter": (Plan(body=_set("site-a", "decision", peer="site-b")), 10),
    "the denied site is a recipient": (Plan(roster=_send_to_the_refused), 9),
    "an allow as the ground of a denial": (Plan(roster=_wrong_grounds), 11),
    "less noise than the study": (Plan(body=_event(noise_multiplier_micro=1_900_000)), 12),
    "more steps than the study": (Plan(body=_event(steps=3)), 12),
    "more records in a batch": (Plan(body=_event(sample_numerator=65)), 12),
    "no reservation": (Plan(body=_set("site-a", "reservation", source="elsewhere")), 12),
    "a sequence number twice": (Plan(body=_set("site-a", "charge", seq=3)), 12),
    "the study's noise is too small": (Plan(noise_multiplier_micro=400_000), 12),
}


@pytest.mark.parametrize("name", PLANS)
def test_all_members_sign_a_run_that_broke_a_rule(name: str) -> None:
    plan, step = PLANS[name]
    with patch.object(store, "check_body", lambda *_: None):  # nobody makes a dishonest member look
        made = build_world(plan)
    assert failed_step(made.verify(dishonest(made))) == step


def test_a_denied_recipient_is_found_by_the_logs_alone() -> None:
    """The roster names no denial and the operator logs that it sent the model: the sites' logs still deny it."""

    def sent_to_the_refused(who: str, kind: str, body: dict[str, Any]) -> None:
        if (who, kind, body.get("recipient")) == (OPERATOR, "transfer", "site-c"):
            body["recipient"] = REFUSED

    def instead_of_site_c(roster: dict[str, Any]) -> None:
        roster["recipients"] = ["site-a", "site-b", "site-d", REFUSED]
        roster["rows"][2] = {
            "site": "site-c", "jurisdiction": "GB", "outcome": "late",
            "reason": {"code": "RSD-6102", "rule": "", "message": "late"},
        }  # fmt: skip
        roster["rows"][-1]["denied_by"] = []

    made = build_world(Plan(roster=instead_of_site_c, body=sent_to_the_refused))
    report = made.verify(made.bundle)
    assert failed_step(report) in (9, 10, 11)  # 9: site-c's log says that it contributed


def test_a_refused_site_without_grounds_is_only_asserted() -> None:
    made = build_world(Plan(skip_denials=True))
    report = made.verify(made.bundle)
    assert failed_step(report) is None
    assert any(f"{REFUSED} itself refused" in text for text in report.asserted()[OPERATOR])


def test_a_signed_refusal_is_shown_and_is_no_recipient() -> None:
    made = build_world(Plan(self_refusal=True, skip_denials=True))
    report = made.verify(made.bundle)
    assert failed_step(report) is None
    assert any(f"{REFUSED} (CN) refused the study itself" in line for line in report.fields()["proved"])
    broken = build_world(Plan(self_refusal=True, skip_denials=True, roster=_send_to_the_refused))
    assert failed_step(broken.verify(broken.bundle)) in (9, 11)


@cache
def crashed() -> World:
    """site-a's first attempt of round 1 was charged and lost, the second contributed."""
    return build_world(Plan(failed_first=True))


def test_failed_attempts_count() -> None:
    made = crashed()
    bundle = made.bundle
    assert failed_step(made.verify(bundle)) is None
    claims = {s["site"]: s for s in json.loads(bundle["privacy.json"])["sites"]}
    assert claims["site-a"]["charges"] == claims["site-b"]["charges"] + 1
    assert claims["site-a"]["epsilon_milli"] > claims["site-b"]["epsilon_milli"]
    claims["site-a"] |= {k: claims["site-b"][k] for k in ("charges", "epsilon_milli")}
    record = json.loads(bundle["privacy.json"]) | {"sites": list(claims.values())}
    cheaper = made.resigned({**bundle, "privacy.json": canonical(record) + b"\n"})
    assert failed_step(made.verify(cheaper)) == 12


def _unopened(made: World, member: str, kind: str, which: int) -> Files:
    """The run folder, with one entry of the member's evidence left out (its hash stays)."""
    entry = [e for e in made.entries(member) if e.kind == kind][which]
    path = f"evidence/{member}.json"
    evidence = json.loads(made.run[path])
    evidence["entries"] = [e for e in evidence["entries"] if e["index"] != entry.index]
    return {**made.run, path: canonical(evidence)}


def test_a_charge_that_is_not_opened() -> None:
    from compliance.release.build import build_bundle

    made = crashed()
    lost = build_bundle(_unopened(made, "site-a", "charge", 0), made.operator, made.anchor)
    assert failed_step(made.verify(lost)) == 7  # the closing entry counts it
    named = build_bundle(_unopened(made, "site-a", "charge", 1), made.operator, made.anchor)
    assert failed_step(made.verify(named)) == 7  # the roster names it


def test_the_order_of_a_run_is_the_documented_one() -> None:
    kinds = [e.kind for e in world().entries("site-a") if e.kind in ORDER]
    assert tuple(kinds[1:5]) == ORDER  # the first decision is the denial at joining
    assert parse_envelope(honest()["manifest.json"], "manifest").encode() + b"\n" == honest()["manifest.json"]

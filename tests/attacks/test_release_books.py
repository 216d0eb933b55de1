"""What the members record and sign does not fit together: layouts, keys, dates, updates beside the books."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from compliance.canonical import canonical
from compliance.identity import Signer, new_signer, parse_envelope, seal
from compliance.messages import LayoutEntry, layout_digest
from compliance.release import bodies
from compliance.release.build import build_bundle
from compliance.release.case import Contents
from compliance.release.report import Report
from compliance.release.verify import verify_bundle
from compliance.trust.root import open_trust
from tests.world import (
    AT,
    CONTRIBUTORS,
    LAYOUT,
    OPERATOR,
    Plan,
    World,
    build_world,
    failed,
    released,
    world,
)

Files = dict[str, bytes]


# --- 9: the layout is what the sites joined with


def _layout(change: Callable[[list[dict[str, Any]]], Any]) -> Files:
    layout = json.loads(world().bundle["layout.json"])
    change(layout["entries"])
    return world().resigned({**world().bundle, "layout.json": canonical(layout) + b"\n"})


LAYOUTS: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "another width of A": lambda e: e[2].update(a_width=7),
    "another layer": lambda e: e[2].update(name=e[2]["name"].replace("layer.0", "layer.5")),
    "another order": lambda e: e.insert(0, e.pop(2)),
    "head permuted": lambda e: e.insert(0, e.pop(1)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_that_no_site_joined_with(name: str) -> None:
    step, message = failed(world().verify(_layout(LAYOUTS[name])))
    assert (step, "is not the layout with which site-a joined" in message) == (13, True), message


def test_the_layouts_digest_is_the_one_that_sites_log() -> None:
    entries = tuple(LayoutEntry.model_validate({**e, "shape": tuple(e["shape"])}) for e in LAYOUT["entries"])
    assert Contents(world().run).layout.digest == layout_digest(entries)


# --- 11: keys that were revoked since


def judged(made: World, change: Callable[[dict[str, Any]], None]) -> Report:
    """The bundle under a later trust file, signed by sites whose keys are still good; the operator makes it anew."""
    payload = json.loads(parse_envelope(made.trust, "trust").payload)
    payload |= {"version": 2, "previous": made.anchor.digest, "issued": "2026-11-22T00:00:00Z"}
    change(payload)
    anchor = open_trust(
        seal(payload, *(made.keys[s, "signatory"] for s in ("site-b", "site-c", "site-d"))).encode(), "t"
    )
    return verify_bundle(build_bundle(made.run, made.operator, anchor), anchor, AT)


def revoked(role: str, holder: str, at: str) -> Callable[[dict[str, Any]], None]:
    def change(payload: dict[str, Any]) -> None:
        for key in payload["keys"]:
            if (key["role"], key["holder"]) == (role, holder):
                key["revoked_at"] = at

    return change


def revoked_key(key: Signer, at: str) -> Callable[[dict[str, Any]], None]:
    """One key, and no other of that holder in that role."""

    def change(payload: dict[str, Any]) -> None:
        for one in payload["keys"]:
            if one["public"] == key.identity.public:
                one["revoked_at"] = at

    return change


def backdated(at: str) -> World:
    """site-a's answers bear another date; everybody records them when they are made."""
    answers = {("site-a", "advice"), ("site-a", "approval")}
    return build_world(
        Plan(answer=lambda site, kind, answer: answer.update(at=at) if (site, kind) in answers else None)
    )


@pytest.mark.parametrize(("kind", "role"), [("approval", "signatory"), ("advice", "dpo")])
def test_a_backdated_answer_by_a_key_that_was_revoked_before_it_was_logged(kind: str, role: str) -> None:
    made = backdated("2026-11-06T00:00:00Z")
    assert failed(judged(made, lambda _: None)) == (0, "")
    key = made.keys["site-a", role]
    assert failed(judged(made, revoked_key(key, "2026-12-01T00:00:00Z"))) == (0, "")
    step, message = failed(judged(made, revoked_key(key, "2026-11-10T00:00:00Z")))
    assert (step, f"nobody entitled signed answers/site-a.{kind}.json" in message) == (9, True), message


@pytest.mark.parametrize(("kind", "who"), [("adoption", "adopter"), ("advice", "adviser")])
def test_a_law_set_adopted_by_a_key_that_was_revoked_before_the_site_joined(kind: str, who: str) -> None:
    made = world()
    key = made.keys["site-a", who]
    assert failed(judged(made, revoked_key(key, "2026-12-01T00:00:00Z"))) == (0, "")
    step, message = failed(judged(made, revoked_key(key, "2026-11-10T00:00:00Z")))
    assert (step, f"nobody entitled signed law/site-a.{kind}.json" in message) == (6, True), message


@pytest.mark.parametrize("at", ["2026-11-22T12:00:00Z", "2027-12-31T00:00:00Z"])
def test_an_answer_that_is_dated_after_it_was_logged(at: str) -> None:
    made = backdated(at)
    step, message = failed(released(made, made.run))
    assert (step, "dated in the future" in message) == (9, True), message


def test_a_study_signed_with_a_key_that_was_revoked_before_sites_saw_it() -> None:
    made = world()
    payload = json.loads(parse_envelope(made.trust, "trust").payload)
    new = new_signer("operator", OPERATOR, "2026-11-10T00:00:00Z", "2028-01-01T00:00:00Z")

    def replaced(record: dict[str, Any]) -> None:
        revoked("operator", OPERATOR, "2026-11-10T00:00:00Z")(record)
        record["keys"].append(new.identity.as_json())

    replaced(payload)
    payload |= {"version": 2, "previous": made.anchor.digest}
    signers = [made.keys[s, "signatory"] for s in ("site-b", "site-c", "site-d")]
    anchor = open_trust(seal(payload, *signers).encode(), "t")
    from compliance.release import verify_records
    from compliance.release.case import Context

    with pytest.raises(Exception, match=r"nobody entitled signed study\.json") as caught:
        verify_records.recorded(Contents(build_bundle(made.run, new, anchor)), Context(anchor, AT))
    assert caught.value.code == "RSD-6011"  # type: ignore[attr-defined]


def test_a_manifest_that_is_not_dated_by_the_logs() -> None:
    files = world().resigned(world().bundle, created="2026-11-20T00:00:00Z")
    step, message = failed(world().verify(files))
    assert (step, "is not dated by the last entry" in message) == (7, True), message


# --- 12: updates beside the books


def _second_update(run: Any, member: str) -> None:
    if member == "site-a":
        decided = run._decide("site-a", "dp_update", OPERATOR, 2)
        body = bodies.TransferBody(
            artifact="dp_update", recipient=OPERATOR, round=2, attempt=2, sha256="ab" * 32, decision=decided.index
        )
        run.append("site-a", "transfer", body.as_json())


def _second_commit(run: Any, member: str) -> None:
    if member == "site-a":
        run._charge("site-a", 2, 2, "0" * 64)
        body = bodies.CommitBody(round=2, attempt=2, update_sha256="ab" * 32, conformance={"noise": True})
        run.append("site-a", "commit", body.as_json())


def _beyond_the_last_round(run: Any, member: str) -> None:
    if member == "site-a":
        run._charge("site-a", 3, 1, "0" * 64)
        body = bodies.CommitBody(round=3, attempt=1, update_sha256="ab" * 32, conformance={"noise": True})
        run.append("site-a", "commit", body.as_json())


def _conformance(value: dict[str, bool]) -> Callable[[str, str, dict[str, Any]], None]:
    def change(member: str, kind: str, body: dict[str, Any]) -> None:
        if (member, kind) == ("site-c", "commit"):
            body["conformance"] = value

    return change


BESIDE: dict[str, tuple[Plan, int, str]] = {
    "sent, never charged": (Plan(before_close=_second_update), 9, "that was not committed before"),
    "a second commit": (Plan(before_close=_second_commit), 9, "commits a second update of round 2"),
    "a round that is none": (Plan(before_close=_beyond_the_last_round), 9, "of a round that no roster covers"),
    "noise that failed": (Plan(body=_conformance({"noise": False})), 9, "did not pass its checks"),
    "noise that nobody checked": (Plan(body=_conformance({})), 9, "did not pass its checks"),
    "decided without a recipient": (Plan(told=CONTRIBUTORS[:3]), 10, "was not told that the model goes on to site-d"),
}


@pytest.mark.parametrize("name", BESIDE)
def test_updates_beside_the_books(name: str) -> None:
    plan, step, message = BESIDE[name]
    made = build_world(plan)
    found = failed(released(made, made.run))
    assert (found[0], message in found[1]) == (step, True), found

"""Members log decisions that no honest one makes: by the engine's own rules, of another day, by packs of their own.

And a release is cleared for whom no site was told of. Each bundle is signed by all, and each is caught.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cache
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

from compliance import study_transfer
from compliance.clock import parse_time, rfc3339
from compliance.errors import InputError
from compliance.law.decide import Engine, builtin_packs
from compliance.law.law_adoption import draft_law_set
from compliance.law.law_set import LawSet
from compliance.law.pack import Pack, load_pack
from compliance.law.regions import load_regions
from compliance.log.entry import new_entry
from compliance.release import bodies, verify_decisions, verify_packs, verify_told
from compliance.release.case import Contents
from compliance.software import VERSION
from tests import world_run
from tests.world import (
    CONTRIBUTORS,
    OPERATOR,
    REFUSED,
    START,
    Plan,
    World,
    build_world,
    dishonest,
    failed,
    said,
    world,
)

Record = dict[str, Any]
ALLOWED = {"allow": True, "effect": "allow", "evaluators": {"python": "allow", "cedar": "allow"}}


# --- a rule of the engine allows nothing


def forged(rule: str) -> Plan:
    """Every denial becomes an ALLOW of all evaluators and legs, by `rule`."""

    def change(_: str, kind: str, body: Record) -> None:
        if kind == "decision" and not body["allow"]:
            body.update(ALLOWED, rule=rule)
            for leg in body["legs"]:
                leg["effect"] = "allow"

    return Plan(body=change, skip_denials=True)


@cache
def forged_world(rule: str) -> World:
    return build_world(forged(rule))


@pytest.mark.parametrize("rule", ["engine.no-pack", "engine.disagreement"])
def test_an_allow_by_a_rule_of_the_engine(rule: str) -> None:
    made = forged_world(rule)
    files = dishonest(made)
    step, message = failed(made.verify(files))
    assert (step, "contradicts itself" in message) == (10, True), message


def test_whatever_allows_is_decided_again() -> None:
    """Even if nobody noticed that the entry contradicts itself."""
    made = forged_world("engine.no-pack")
    with patch.object(bodies, "_contradiction", lambda _: ""):
        step, message = failed(made.verify(made.bundle))
    assert (step, "is decided otherwise now: allow" in message) == (10, True), message


@cache
def decisions() -> dict[bool, Record]:
    """An ALLOW with several legs and a DENY, as they stand in a log."""
    logged = [dict(e.body) for e, _ in Contents(world().run).decisions("site-a")]
    return {
        allow: max((d for d in logged if d["allow"] is allow), key=lambda d: len(d["legs"])) for allow in (True, False)
    }


def votes(python: str, cedar: str) -> Record:
    return {"evaluators": {"python": python, "cedar": cedar}}


def legs(allow: bool, *effects: str) -> Record:
    return {"legs": [{**decisions()[allow]["legs"][0], "effect": e} for e in effects]}


CONTRADICTIONS: dict[str, tuple[bool, Callable[[], Record]]] = {
    "effect": (True, lambda: {"effect": "deny"}),
    "allow": (True, lambda: {"allow": False}),
    "a vote": (True, lambda: votes("allow", "deny")),
    "both votes": (True, lambda: votes("deny", "deny")),
    "a leg": (True, lambda: legs(True, "allow", "deny")),
    "an inner leg": (True, lambda: legs(True, "deny", "allow")),
    "no leg": (True, lambda: {"legs": []}),
    "the engine allows": (True, lambda: {"rule": "engine.pack-missing"}),
    "a denial turned": (False, lambda: {"allow": True, "effect": "allow"}),
    "a denial that both allow": (False, lambda: votes("allow", "allow")),
    "a denial that one allows": (False, lambda: votes("deny", "allow")),
    "a denial of no leg": (False, lambda: legs(False, "allow", "allow")),
    "a denial of two legs": (False, lambda: legs(False, "deny", "deny")),
    "a rule that denies nobody": (False, lambda: {"legs": []}),
}


def read(body: Record) -> bodies.LoggedDecision:
    return bodies.read_decision(new_entry(1, rfc3339(START), "decision", body, "ab" * 32), "entry 1")


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_decision_that_contradicts_itself_is_not_read(name: str) -> None:
    allow, change = CONTRADICTIONS[name]
    assert read(decisions()[allow]).decision.allow is allow
    with pytest.raises(InputError, match="contradicts itself") as caught:
        read({**decisions()[allow], **change()})
    assert caught.value.code == "RSD-9041"


def test_what_the_engine_itself_denies_is_read() -> None:
    no_leg = {**decisions()[False], "rule": "engine.no-pack", "legs": []}
    disagreed = {**decisions()[False], "rule": "engine.disagreement", **votes("allow", "deny")}
    for body in (no_leg, disagreed, {**disagreed, **votes("allow", "allow")}):
        assert verify_packs.undecided(read(body).decision)


# --- a decision is of the moment at which it was logged


def dated(monkeypatch: pytest.MonkeyPatch, when: Callable[[datetime], datetime]) -> World:
    """A world in which site-a decides as of another time."""
    honest = study_transfer.transfer_of

    def told(*args: Any, at: str, **more: Any) -> Any:
        return honest(*args, at=rfc3339(when(parse_time(at))) if args[2] == "site-a" else at, **more)

    monkeypatch.setattr(world_run, "transfer_of", told)
    decide = world_run.Run._decide
    monkeypatch.setattr(world_run.Run, "_decide", lambda self, *a, **_: decide(self, *a, allow=None))
    return build_world(Plan(skip_denials=True))


@pytest.mark.parametrize(
    ("shift", "words"),
    [(timedelta(days=2300), "before it was logged"), (timedelta(hours=1), "before it was logged"),
     (timedelta(hours=-1), "decides for later")],
    ids=["years-before", "an-hour-before", "after"],
)  # fmt: skip
def test_a_decision_of_another_day(monkeypatch: pytest.MonkeyPatch, shift: timedelta, words: str) -> None:
    """In 2020 the United Kingdom still stood in the set of the EEA."""
    made = dated(monkeypatch, lambda at: at - shift)
    step, message = failed(made.verify(made.bundle))
    assert (step, words in message) == (10, True), message


@pytest.mark.parametrize(
    ("seconds", "wrong"), [(0, 0), (900, 0), (901, 1), (-1, 1)], ids=["at-once", "15-minutes", "more", "later"]
)
def test_fifteen_minutes(seconds: int, wrong: int) -> None:
    entry = new_entry(1, rfc3339(START), "decision", decisions()[True], "ab" * 32)
    told = read(decisions()[True]).decision.transfer
    told = told.model_copy(update={"at": rfc3339(START - timedelta(seconds=seconds))})
    assert len(verify_told.mistimed(None, entry, told)) == wrong
    assert len(verify_told.mistimed(world().study, entry, told)) == wrong


def test_a_decision_outside_the_term_of_its_study() -> None:
    ends = parse_time(world().study.ends)
    for at, wrong in ((ends, 0), (ends + timedelta(seconds=1), 1)):
        entry = new_entry(1, rfc3339(at), "decision", decisions()[True], "ab" * 32)
        told = read(decisions()[True]).decision.transfer.model_copy(update={"at": rfc3339(at)})
        assert len(verify_told.mistimed(world().study, entry, told)) == wrong


# --- a release reaches only those of whom the updates' decisions were told


def _absent(roster: Record) -> None:
    """site-d is in no round."""
    roster["recipients"] = [s for s in CONTRIBUTORS if s != "site-d"]
    reason = {"code": "RSD-6105", "rule": "", "message": "not connected"}
    roster["rows"][3] = {"site": "site-d", "jurisdiction": "JP", "outcome": "late", "reason": reason}


@pytest.fixture
def without_one(monkeypatch: pytest.MonkeyPatch) -> Callable[[tuple[str, ...]], World]:
    """Worlds in which site-d takes part in no round; updates are told that the model goes on to those who are given."""
    contribute, send = world_run.Run._contribute, world_run.Run._send_base

    def skipped(self: Any, site: str, *args: Any) -> Record:
        return {} if site == "site-d" else contribute(self, site, *args)

    def sent(self: Any, *args: Any) -> None:
        with patch.object(world_run, "CONTRIBUTORS", tuple(s for s in CONTRIBUTORS if s != "site-d")):
            send(self, *args)

    monkeypatch.setattr(world_run.Run, "_contribute", skipped)
    monkeypatch.setattr(world_run.Run, "_send_base", sent)
    return lambda told: build_world(Plan(roster=_absent, told=told))


def test_a_site_of_which_no_update_was_told_is_not_cleared(without_one: Any) -> None:
    made = without_one(("site-a", "site-b", "site-c"))
    assert Contents(made.bundle).manifest.cleared == ("site-a", "site-b", "site-c")
    step, message = failed(made.verify(made.resigned(made.bundle, cleared=list(CONTRIBUTORS))))
    assert (step, "clears the release for others" in message) == (11, True), message


def test_an_absent_site_of_which_every_update_was_told_is_cleared(without_one: Any) -> None:
    made = without_one(CONTRIBUTORS)
    assert Contents(made.bundle).manifest.cleared == CONTRIBUTORS
    assert failed(made.verify(made.bundle)) == (0, "")


def test_one_update_that_was_not_told_is_enough() -> None:
    def forget(member: str, kind: str, body: Record) -> None:
        if (member, kind, body.get("round")) == ("site-b", "decision", 2):
            body["transfer"]["onward"] = [p for p in body["transfer"]["onward"] if p["name"] != "site-d"]

    made = build_world(Plan(body=forget))
    assert "site-d" not in Contents(made.bundle).manifest.cleared


@pytest.mark.parametrize(("figures", "cleared"), [(("auc",), ("site-a",)), (None, CONTRIBUTORS)], ids=["shown", "none"])
def test_a_published_count_that_was_told_to_go_to_nobody(figures: Any, cleared: tuple[str, ...]) -> None:
    def counted(run: Any, member: str) -> None:
        if member == "site-a":
            decided = run._decide(member, bodies.METRIC, OPERATOR, 0)
            sent = bodies.TransferBody(
                artifact=bodies.METRIC, recipient=OPERATOR, round=0, attempt=1, sha256="ab" * 32, decision=decided.index
            )
            run.append(member, "transfer", sent.as_json())

    contents = Contents(build_world(Plan(before_close=counted)).run)
    record = SimpleNamespace(figures=figures, contributed=("site-a",))
    contents.__dict__["evaluation"] = (record, None)
    assert verify_decisions.cleared(contents) == cleared


def test_an_allow_that_nobody_decides_again_clears_nobody() -> None:
    """site-b's word on site-d stands under a law set that is not shown."""

    def elsewhere(member: str, kind: str, body: Record) -> None:
        about = kind == "decision" and (body["transfer"]["artifact"], body["peer"])
        if (member, about) == ("site-b", (bodies.RELEASED, "site-d")):
            body["law_set"] = "00" * 32

    made = build_world(Plan(body=elsewhere))
    assert Contents(made.bundle).manifest.cleared == ("site-a", "site-b", "site-c")


# --- counts are of no fewer persons than the study says


def test_which_sites_are_behind_the_operators_models() -> None:
    contents = Contents(world().bundle)
    behind = verify_told.behind_models(contents)
    sent = {b.decision: b.round for _, b in contents.bodies(OPERATOR, "transfer", bodies.TransferBody)}
    for entry, logged in contents.decisions(OPERATOR):
        if logged.decision.transfer.artifact == bodies.RELEASED:
            assert behind[entry.index] == set(CONTRIBUTORS)
        elif logged.peer != REFUSED:
            assert behind[entry.index] == (set() if sent[entry.index] == 1 else set(CONTRIBUTORS))


def test_verify_asks_for_the_counts_of_those_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[set[str]] = []

    def spy(study: Any, digest: str, told: Any, behind: Any = ()) -> Any:
        if told.exporter.name == OPERATOR and told.artifact == bodies.RELEASED:
            asked.append(set(behind))
        else:
            assert told.exporter.name == OPERATOR or not behind
        return study_transfer.differences(study, digest, told, behind)

    monkeypatch.setattr(verify_told, "differences", spy)
    assert failed(world().verify(world().bundle)) == (0, "")
    assert asked == [set(CONTRIBUTORS)] * 5


# --- packs of this version are those that this version installs


def _mild(id_: str) -> Pack:
    """The Japanese pack without its papers, under an id."""
    text = builtin_packs()["jp"].raw.decode()
    text = re.sub(r"^id: jp$", f"id: {id_}", text, count=1, flags=re.MULTILINE).replace("id: jp.", f"id: {id_}.")
    begin = text.index(f"  - id: {id_}.no-basis")
    text = text[:begin] + text[text.index("  - id:", begin + 5) :]
    return load_pack(text.replace("requires:", "#requires:").encode())


@pytest.fixture
def adopts(monkeypatch: pytest.MonkeyPatch) -> Callable[..., World]:
    """A world in which site-d's signatory adopts a pack of its own in place of the installed one."""

    def made(pack: Pack, software: str = VERSION) -> World:
        packs = {**{n: p for n, p in builtin_packs().items() if n != "jp"}, pack.id: pack}
        law_set: LawSet = draft_law_set("site-d", "JP", packs, load_regions(), {})
        of, engine = world_run.law_set_of, world_run._engine
        monkeypatch.setattr(world_run, "law_set_of", lambda s: law_set if s == "site-d" else of(s))
        own = Engine.of(law_set, packs, load_regions())
        monkeypatch.setattr(world_run, "_engine", lambda m, *more: own if m == "site-d" else engine(m, *more))
        monkeypatch.setattr(world_run, "builtin_packs", lambda: packs)
        decide = world_run.Run._decide
        monkeypatch.setattr(world_run.Run, "_decide", lambda self, *a, **_: decide(self, *a, allow=None))
        return build_world(Plan(skip_denials=True, software=software))

    return made


@pytest.mark.parametrize("id_", ["mild", "jp"])
def test_a_signatory_adopts_a_pack_of_its_own(adopts: Callable[..., World], id_: str) -> None:
    made = adopts(_mild(id_))
    step, message = failed(made.verify(made.bundle))
    assert (step, "law/site-d.adoption.json is without a pack that binds JP" in message) == (6, True), message


def test_what_another_version_installed_is_the_sites_word(adopts: Callable[..., World]) -> None:
    made = adopts(_mild("mild"), "0.0.9")
    told = said(made.verify(made.bundle))
    assert "site-d: that no other pack binds JP, and that these are the packs and region sets of 0.0.9" in told
    assert "no other pack binds DE" not in told


def test_region_sets_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The installed ones are others than those that everybody adopted and shows."""
    later = load_regions(load_regions().raw + b"# later\n")
    monkeypatch.setattr(verify_packs, "load_regions", lambda: later)
    step, message = failed(world().verify(world().bundle))
    assert (step, "other region sets than those of version" in message) == (6, True), message


def test_the_operators_packs_are_the_installed_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pack that binds the operator's jurisdiction is installed in other bytes; nobody else is there."""
    packs = builtin_packs()
    eu = load_pack(packs["eu"].raw + b"# later\n")
    monkeypatch.setattr(verify_packs, "builtin_packs", lambda: {**packs, "eu": eu})
    step, message = failed(world().verify(world().bundle))
    assert (step, "is without a pack that binds IE" in message) == (6, True), message

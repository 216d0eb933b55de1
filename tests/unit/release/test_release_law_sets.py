"""Step 6: whoever verifies sees which law set each site adopted, and that its decisions used just that."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from compliance.canonical import canonical, sha256_hex
from compliance.identity import parse_envelope, seal
from compliance.law import regions
from compliance.release import verify_packs
from tests import world_run
from tests.world import OPERATOR, Plan, World, build_world, failed, resealed, said, world

Files = dict[str, bytes]
ADOPTION, ADVICE = "law/site-b.adoption.json", "law/site-b.advice.json"


@cache
def honest() -> Files:
    return world().bundle


def payload(files: Files, path: str = ADOPTION) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(parse_envelope(files[path], path).payload)
    return found


def by(site: str, role: str) -> Callable[[World, Files], None]:
    """The adoption as it is, signed by somebody else."""

    def tamper(made: World, files: Files) -> None:
        files[ADOPTION] = resealed(files[ADOPTION], lambda _: None, made.keys[site, role])

    return tamper


def set_changed(**changes: Any) -> Callable[[World, Files], None]:
    """The signatory signs another set afterwards."""

    def tamper(made: World, files: Files) -> None:
        def change(record: dict[str, Any]) -> None:
            record["law_set"] |= changes
            record["digest"] = sha256_hex(canonical(record["law_set"]))

        files[ADOPTION] = resealed(files[ADOPTION], change, made.keys["site-b", "signatory"])

    return tamper


def edited(_: World, files: Files) -> None:
    """After it was signed."""
    record = json.loads(files[ADOPTION])
    changed = payload(files)
    changed["reason"] = "another reason"
    record["payload"] = json.loads(seal(changed).encode())["payload"]
    files[ADOPTION] = canonical(record) + b"\n"


def without(path: str) -> Callable[[World, Files], None]:
    return lambda _, files: files.pop(path) and None


def advice(role: str, **changes: Any) -> Callable[[World, Files], None]:
    def tamper(made: World, files: Files) -> None:
        files[ADVICE] = resealed(files[ADVICE], lambda p: p.update(changes), made.keys["site-b", role])

    return tamper


def anothers(_: World, files: Files) -> None:
    files[ADOPTION] = files["law/site-a.adoption.json"]


def of_no_site(_: World, files: Files) -> None:
    files["law/site-e.adoption.json"] = files["law/site-a.adoption.json"]


def other_regions(_: World, files: Files) -> None:
    files["regions.yaml"] += b"# later\n"


TAMPERS: dict[str, tuple[Callable[[World, Files], None], str]] = {
    "no adoption": (without(ADOPTION), "is missing"),
    "edited": (edited, "RSD-6006"),
    "signed by the DPO": (by("site-b", "dpo"), "RSD-6011"),
    "signed by the agent": (by("site-b", "agent"), "RSD-6011"),
    "signed by another site's signatory": (by("site-a", "signatory"), "RSD-6011"),
    "signed by the operator": (by(OPERATOR, "operator"), "RSD-6011"),
    "the adoption of another site": (anothers, "RSD-6011"),
    "of another set, signed afterwards": (set_changed(regions="00" * 32), "RSD-2202"),
    "for another jurisdiction": (set_changed(jurisdiction="DE"), "RSD-3031"),
    "for another site": (set_changed(site="site-a"), "another site"),
    "no advice": (without(ADVICE), "RSD-2202"),
    "advice by the signatory": (advice("signatory"), "RSD-6011"),
    "other advice": (advice("dpo", text="later words"), "RSD-2202"),
    "no region sets": (without("regions.yaml"), "regions.yaml is missing"),
    "other region sets": (other_regions, "other region sets"),
    "an adoption of nobody who is shown": (of_no_site, "no site whose log is shown"),
}


@pytest.mark.parametrize("name", TAMPERS)
def test_a_dishonest_operator_shows_another_adoption(name: str) -> None:
    tamper, words = TAMPERS[name]
    files = dict(honest())
    tamper(world(), files)
    step, message = failed(world().verify(world().resigned(files)))
    assert (step, words in message) == (6, True), message


def _each(member: str, kind: str, change: Callable[[dict[str, Any]], None]) -> Plan:
    """A world in which everybody signs what `change` makes of the member's entries of one kind."""
    return Plan(body=lambda who, what, body: change(body) if (who, what) == (member, kind) else None)


def _signed(kind: str, change: Callable[[dict[str, Any]], None]) -> Plan:
    """A world in which site-b's statement says something else before it is signed."""
    return Plan(answer=lambda site, what, record: change(record) if (site, what) == ("site-b", kind) else None)


def _updates(**changes: Any) -> Callable[[dict[str, Any]], None]:
    """Of decisions on what goes to the operator: those that updates rest on."""
    return lambda body: body.update(changes) if body["peer"] == OPERATOR else None


_PACKS_OF_ANOTHER = {"packs": world_run.law_set_of("site-c").packs}
_SMALLER = world_run.law_set_of("site-b").model_copy(update=_PACKS_OF_ANOTHER)


def _left_out(site: str, what: str, record: dict[str, Any]) -> None:
    """site-b is in France: the British pack alone leaves out the one that binds it."""
    if (site, what) == ("site-b", "adoption"):
        record |= {"law_set": _SMALLER.as_json(), "digest": _SMALLER.digest}
    elif (site, what) == ("site-b", "law advice"):
        record["digest"] = _SMALLER.digest


def _no_advice_named(record: dict[str, Any]) -> None:
    record["advice"], record["reason"] = "", "No officer."


PLANS: dict[str, tuple[Plan, str]] = {
    "joined under another set": (_each("site-b", "join", lambda b: b.update(law_set="00" * 32)), "joins under another"),
    "the operator was shown another": (
        Plan(
            body=lambda who, what, body: (
                body.update(digest="00" * 32) if (who, what, body.get("site")) == (OPERATOR, "law", "site-b") else None
            )
        ),
        "not the adoption that the operator saw",
    ),
    "updates decided under another set": (
        _each("site-b", "decision", _updates(law_set="00" * 32)),
        "rests on a decision under another law set",
    ),
    "a later decision under another set": (
        _each("site-a", "decision", _updates(law_set="00" * 32)),
        "was decided under another law set",
    ),
    "decided by other region sets": (
        _each("site-b", "decision", lambda b: b.update(regions="00" * 32)),
        "other packs or region sets",
    ),
    "decided with a pack declared as not binding": (
        _each("site-b", "decision", lambda b: b.update(not_binding=["uk"])),
        "other packs or region sets",
    ),
    "decided by a pack that was not adopted": (
        _each("site-b", "decision", lambda b: b.update(packs={})),
        "other packs or region sets",
    ),
    "the operator by other region sets": (
        _each(OPERATOR, "decision", lambda b: b.update(regions="00" * 32)),
        "other region sets than those in the bundle",
    ),
    "advised against, without a reason": (_signed("law advice", lambda r: r.update(favourable=False)), "RSD-2203"),
    "adopted with a key of another time": (_signed("adoption", lambda r: r.update(at="2025-06-01T00:00:00Z")), "RSD-"),
    "adopted after the join": (_signed("adoption", lambda r: r.update(at="2026-11-23T00:00:00Z")), "RSD-2211"),
    "a pack that binds left out": (
        Plan(
            answer=_left_out,
            body=lambda who, what, body: (
                body.update(law_set=_SMALLER.digest) if (who, what) == ("site-b", "join") else None
            ),
        ),
        "leaves out a pack that binds FR",
    ),
    "advice that the adoption does not name": (_signed("adoption", _no_advice_named), "RSD-2202"),
}


@pytest.mark.parametrize("name", PLANS)
def test_all_members_sign_a_run_that_left_its_law_set(name: str) -> None:
    plan, words = PLANS[name]
    made = build_world(plan)
    step, message = failed(made.verify(made.bundle))
    assert (step, words in message) == (6, True), message


def test_what_is_proved_and_what_is_only_said() -> None:
    report = world().verify(honest())
    assert failed(report) == (0, "")
    proved = "\n".join(report.fields()["proved"])
    assert "the signatory of site-c adopted law set" in proved
    assert "(uk) on its DPO's advice" in proved
    assert "the policy stays at the site" in said(report)


def test_without_or_against_advice_with_a_reason() -> None:
    def against(site: str, kind: str, record: dict[str, Any]) -> None:
        if (site, kind) == ("site-b", "law advice"):
            record["favourable"] = False
        elif (site, kind) == ("site-b", "adoption"):
            record["reason"] = "The regulator asked for it."

    made = build_world(Plan(answer=against))
    report = made.verify(made.bundle)
    assert failed(report) == (0, "")
    assert "on its DPO's advice, with a reason" in "\n".join(report.fields()["proved"])


def test_decisions_of_an_earlier_attempt_are_the_sites_word() -> None:
    """A site adopts another set between two runs: what came before the first decision under it moved nothing."""
    seen: list[int] = []

    def first_under_another(who: str, kind: str, body: dict[str, Any]) -> None:
        if (who, kind) == ("site-a", "decision"):
            seen.append(1)
            if len(seen) == 1:
                body.update(law_set="00" * 32)

    made = build_world(Plan(body=first_under_another))
    report = made.verify(made.bundle)
    assert failed(report) == (0, "")
    assert "1 decisions before those of this run were made under another law set" in said(report)


def test_an_old_bundle_replays_under_the_region_sets_of_its_day(monkeypatch: pytest.MonkeyPatch) -> None:
    old = regions.load_regions(regions.load_regions().raw + b"# as of another day\n")
    monkeypatch.setattr(world_run, "load_regions", lambda: old)
    caches = (world_run.law_set_of, world_run._engine)
    for cached in caches:
        cached.cache_clear()
    try:
        made = build_world(Plan(software="0.0.9"))
    finally:
        for cached in caches:
            cached.cache_clear()
    bundle = made.bundle
    assert sha256_hex(bundle["regions.yaml"]) == old.digest != regions.load_regions().digest
    report = made.verify(bundle)
    assert failed(report) == (0, "")
    assert "site-d: that no other pack binds JP, and that these are the packs and region sets of 0.0.9" in said(report)


def test_what_no_pack_decided_is_not_decided_again() -> None:
    """The engine's own denials name no rule of a pack; there is nothing to show for them."""
    assert "engine.group-export" not in verify_packs.NOT_DECIDED
    assert all(name.startswith("engine.") for name in verify_packs.NOT_DECIDED)


# --- the operator's own ---------------------------------------------------------------------------------------------

OWN = f"law/{OPERATOR}.adoption.json"


@cache
def declared() -> World:
    """A world whose operator adopted a law set that declares a pack as not binding it."""
    return build_world(Plan(operator_law=True))


def own_by(site: str, role: str) -> Callable[[World, Files], None]:
    def tamper(made: World, files: Files) -> None:
        files[OWN] = resealed(files[OWN], lambda _: None, made.keys[site, role])

    return tamper


def own_without_reason(made: World, files: Files) -> None:
    """Another declaration, signed by the operator after the run."""

    def change(record: dict[str, Any]) -> None:
        record["law_set"]["not_binding"] = []
        record["digest"] = sha256_hex(canonical(record["law_set"]))

    files[OWN] = resealed(files[OWN], change, made.operator)


OWN_TAMPERS: dict[str, tuple[Callable[[World, Files], None], str]] = {
    "signed by a site's signatory": (own_by("site-a", "signatory"), "RSD-6011"),
    "signed by a site's agent": (own_by("site-a", "agent"), "RSD-6011"),
    "a site's adoption": (lambda _, files: files.update({OWN: files[ADOPTION]}), "RSD-6011"),
    "not shown": (without(OWN), "is missing"),
    "another one, signed afterwards": (own_without_reason, "not the adoption that the operator saw"),
    "with a site's advice": (
        lambda _, files: files.update({f"law/{OPERATOR}.advice.json": files[ADVICE]}),
        "RSD-2202",
    ),
}


@pytest.mark.parametrize("name", OWN_TAMPERS)
def test_a_dishonest_operator_shows_another_law_set_of_its_own(name: str) -> None:
    tamper, words = OWN_TAMPERS[name]
    files = dict(declared().bundle)
    tamper(declared(), files)
    step, message = failed(declared().verify(declared().resigned(files)))
    assert (step, words in message) == (6, True), message


def test_what_does_not_bind_the_operator_is_its_word() -> None:
    report = declared().verify(declared().bundle)
    assert failed(report) == (0, "")
    assert f"the operator {OPERATOR} adopted law set" in "\n".join(report.fields()["proved"])
    assert f"these packs do not bind it, for the reasons in {OWN}: us-ca" in said(report)


def _own(change: Callable[[dict[str, Any]], None], kind: str = "decision", *, law: bool = True) -> Plan:
    """A world in which the operator logs what `change` makes of its entries of one kind."""
    return Plan(
        operator_law=law, body=lambda who, what, body: change(body) if (who, what) == (OPERATOR, kind) else None
    )


OWN_PLANS: dict[str, tuple[Plan, str]] = {
    "decided with another declaration": (_own(lambda b: b.update(not_binding=[])), "other packs or region sets"),
    "decided by fewer packs": (_own(lambda b: b.update(packs={})), "other packs or region sets"),
    "a declaration that nobody adopted": (
        _own(lambda b: b.update(not_binding=["us-ca"]), law=False),
        f"{OWN} is missing",
    ),
    "a law set that is not shown": (_own(lambda b: b.update(law_set="00" * 32), law=False), f"{OWN} is missing"),
    "a pack left out without a law set": (_own(lambda b: b.update(packs={}), law=False), "leaves out a pack"),
    "another one was logged": (
        _own(lambda b: b.update(digest="00" * 32) if b["site"] == OPERATOR else None, "law"),
        "not the adoption that the operator saw",
    ),
}


@pytest.mark.parametrize("name", OWN_PLANS)
def test_all_members_sign_a_run_in_which_the_operator_left_its_law(name: str) -> None:
    plan, words = OWN_PLANS[name]
    made = build_world(plan)
    step, message = failed(made.verify(made.bundle))
    assert (step, words in message) == (6, True), message

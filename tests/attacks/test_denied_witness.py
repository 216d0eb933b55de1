"""An outside witness that a log's owner denied, and that cosigned it nonetheless, is named to whoever verifies."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import cache
from typing import Any

import pytest

from compliance.canonical import canonical
from compliance.law.model import Party
from compliance.log import cosign, note
from tests.world import AT, OPERATOR, START, WITNESS, Plan, World, build_world, failed, released, said

# What each member decides about the witness before it closes its log, and where the witness is then: the engine denies
# what goes to no country.
WORDS = {OPERATOR: (), "site-a": ("ZZ",), "site-b": ("ZZ", "DE"), "site-c": ("DE", "ZZ"), "site-d": ("DE",)}
LAST = -1


@cache
def made() -> World:
    def before_close(run: Any, member: str) -> None:
        for country in WORDS[member]:
            run.parties[WITNESS] = Party(name=WITNESS, jurisdiction=country)
            run._decide(member, "log_checkpoint", WITNESS, 0, allow=country != "ZZ")

    return build_world(Plan(before_close=before_close))


def cosigned(member: str, which: int = LAST, at: datetime = AT) -> dict[str, bytes]:
    """The run, with a line of the witness under the last checkpoint of the member's log, or under an earlier one."""
    world = made()
    evidence = world.evidence(member)
    notes = [*evidence.earlier, evidence.checkpoint]
    signed = note.parse(notes[which])
    line = cosign.cosign(signed.text, WITNESS, world.keys[WITNESS, "witness"].private, int(at.timestamp()))
    notes[which] = note.with_signature(signed, line).encode()
    record = evidence.model_copy(update={"earlier": tuple(notes[:-1]), "checkpoint": notes[-1]})
    return {**world.run, f"evidence/{member}.json": canonical(record.model_dump(mode="json"))}


def named(run: dict[str, bytes]) -> list[str]:
    """Who is told about, in a bundle that verifies."""
    report = released(made(), run)
    assert failed(report) == (0, "")
    return [line.partition(":")[0] for line in said(report).splitlines() if f"that {WITNESS} saw" in line]


@pytest.mark.parametrize("member", ["site-a", "site-c"])
def test_a_line_after_the_last_word_denied_it_is_named(member: str) -> None:
    report = released(made(), cosigned(member))
    assert named(cosigned(member)) == [member]
    denial = made().anchor.trust.log_origin(member)
    assert f"of log {denial} denies it, and it cosigned " in said(report)
    assert failed(report) == (0, "")  # it may have come by another study's run: docs/adr/0036


@pytest.mark.parametrize("member", [OPERATOR, "site-b", "site-d"])
def test_a_line_that_the_last_word_allows_or_no_word_is_about_is_not(member: str) -> None:
    assert named(cosigned(member)) == []


def test_without_a_line_nothing_is_named() -> None:
    assert named(dict(made().run)) == []


@pytest.mark.parametrize(("at", "who"), [(START, []), (AT, ["site-a"])], ids=["then", "since"])
def test_a_checkpoint_of_before_the_denial_counts_by_the_time_of_the_line(at: datetime, who: list[str]) -> None:
    assert named(cosigned("site-a", 0, at)) == who


@pytest.mark.parametrize(("late", "who"), [(timedelta(minutes=14), []), (timedelta(minutes=16), ["site-a"])])
def test_clocks_may_differ_by_as_much_as_for_a_decision(late: timedelta, who: list[str]) -> None:
    (denial,) = (e for e in made().entries("site-a") if e.body.get("peer") == WITNESS)
    assert named(cosigned("site-a", 0, datetime.fromisoformat(denial.at) + late)) == who

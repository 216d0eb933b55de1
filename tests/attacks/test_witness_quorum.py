"""The witnesses that a study asks for: a release below it is refused, whoever left the cosignatures out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from functools import cache

import pytest

from compliance.canonical import canonical
from compliance.log import cosign, note
from compliance.release.case import Contents
from compliance.trust.witnesses import neutral
from tests.world import CONTRIBUTORS, OPERATOR, START, WITNESS, Plan, World, build_world, failed, released, world

MEMBERS = (OPERATOR, *CONTRIBUTORS)


@cache
def two() -> World:
    """A study that asks for two: site-c and site-d have one neutral cosigner each."""
    return build_world(Plan(witnesses=2))


def changed(made: World, member: str, lines: Callable[[note.Note], Iterable[note.Signature]]) -> dict[str, bytes]:
    """The run with other signatures under the last checkpoint of the member's log."""
    evidence = made.evidence(member)
    end = note.parse(evidence.checkpoint)
    text = note.Note(end.text, tuple(lines(end))).encode()
    record = evidence.model_copy(update={"checkpoint": text}).model_dump(mode="json")
    return {f"evidence/{member}.json": canonical(record)}


def outside(made: World, text: str, name: str = WITNESS, at: datetime = START) -> note.Signature:
    """The outside witness's cosignature."""
    return cosign.cosign(text, name, made.keys[WITNESS, "witness"].private, int(at.timestamp()))


def by_log(end: note.Note) -> tuple[note.Signature, ...]:
    return tuple(s for s in end.signatures if s.name == end.text.split("\n")[0])


def by(made: World, *members: str) -> Callable[[note.Note], tuple[note.Signature, ...]]:
    """The signature of the log, the operator's cosignature if there is one, and those of `members`."""
    names = {made.anchor.trust.witness_name(m) for m in members}
    return lambda end: (*by_log(end), *(s for s in end.signatures if s.name in names))


def run(made: World, lines: Callable[[note.Note], Iterable[note.Signature]]) -> dict[str, bytes]:
    return {**made.run, **{p: d for m in MEMBERS for p, d in changed(made, m, lines).items()}}


def test_a_release_below_the_quorum_is_refused_with_both_values() -> None:
    report = released(two(), two().run)
    step, message = failed(report)
    assert (step, "fewer witnesses than the study asks for" in message) == (7, True), message
    assert report.error is not None
    assert report.error.found.startswith("1 (site-d")
    assert report.error.limit.startswith("2 ")


def test_outside_witnesses_count_towards_it() -> None:
    made = two()
    everybody = run(made, lambda end: (*end.signatures, outside(made, end.text)))
    assert failed(released(made, everybody)) == (0, "")


def test_an_outside_witness_may_be_the_only_neutral_cosigner() -> None:
    made = world()
    alone = run(made, lambda end: (*by(made, OPERATOR)(end), outside(made, end.text)))
    assert failed(released(made, alone)) == (0, "")
    none = run(made, by(made, OPERATOR))
    assert failed(released(made, none))[0] == 7


def test_who_cosigned_an_earlier_checkpoint_only_does_not_count() -> None:
    made = two()
    files = dict(made.run)
    for member in MEMBERS:
        evidence = made.evidence(member)
        last = note.parse(evidence.earlier[-1])
        earlier = note.with_signature(last, outside(made, last.text)).encode()
        record = evidence.model_copy(update={"earlier": (*evidence.earlier[:-1], earlier)}).model_dump(mode="json")
        files[f"evidence/{member}.json"] = canonical(record)
    step, message = failed(released(made, files))
    assert (step, "fewer witnesses than the study asks for" in message) == (7, True), message


@pytest.mark.parametrize("member", [OPERATOR, "site-a"])
def test_an_operator_that_drops_one_witness_of_one_log_is_refused(member: str) -> None:
    made = two()
    full = run(made, lambda end: (*by(made, OPERATOR, "site-b")(end), outside(made, end.text)))
    short = {**full, **changed(made, member, lambda end: (*by_log(end), outside(made, end.text)))}
    assert failed(released(made, short))[0] == 7


def test_a_line_of_another_log_or_under_another_name_does_not_count() -> None:
    made = two()
    other = note.parse(made.evidence("site-b").checkpoint).text
    for lines in (
        lambda end: (*end.signatures, outside(made, other)),
        lambda end: (*end.signatures, outside(made, end.text, "stranger")),
        lambda end: (*end.signatures, outside(made, end.text, made.anchor.trust.witness_name("site-e"))),
    ):
        assert failed(released(made, run(made, lines)))[0] == 7


@pytest.mark.parametrize("year", [1971, 2099])
def test_a_line_dated_outside_the_period_of_its_key_does_not_count(year: int) -> None:
    made = two()
    dated = run(made, lambda end: (*end.signatures, outside(made, end.text, at=START.replace(year=year))))
    assert failed(released(made, dated))[0] == 7


def test_the_operator_and_one_site_are_not_enough_for_two() -> None:
    """A coalition of the operator and site-b can sign what it likes: for site-a's log that is one neutral cosigner."""
    made = two()
    step, message = failed(released(made, run(made, by(made, OPERATOR, "site-b"))))
    assert (step, "witnesses" in message or "nobody" in message) == (7, True), message


def test_somebody_with_two_keys_is_one_witness() -> None:
    trust = world().anchor.trust
    name = trust.witness_name
    assert neutral(trust, "site-a", [name("site-b"), "site-b", name("site-a"), "site-a", OPERATOR]) == {"site-b"}
    assert Contents(world().run).study.quorum.witnesses == 1

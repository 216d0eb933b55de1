"""A bucketed count is never below the exact one, whatever was sent to whom, when, and in which order of studies."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from compliance.clock import rfc3339
from compliance.law.counters import EDGES, Counters
from compliance.law.model import Count, Party

US, CN = Party(name="us", jurisdiction="US"), Party(name="cn", jurisdiction="CN")
PLACES = {"rival": "RU", "rival-two": "RU", "friend": "DE", "beijing": "CN"}
TO = {name: Party(name=name, jurisdiction=code) for name, code in PLACES.items()}
BEGIN = datetime(2026, 12, 31, 15, 0, tzinfo=UTC)  # an hour before the new year in China
STEPS = [0, 1, 30, 3600, 4000, 86_399, 86_400, 40 * 86_400, 183 * 86_400, 365 * 86_400, 366 * 86_400]

# (source, persons, recipient, study, genomic, seconds since the one before)
sendings = st.tuples(
    st.sampled_from(["hospital", "registry"]),
    st.sampled_from([1, 60, 99, 100, 101, 900, 5_000, 9_999, 10_000]),
    st.sampled_from(sorted(TO)),
    st.sampled_from(["aa" * 32, "bb" * 32]),
    st.booleans(),
    st.sampled_from(STEPS),
)
Sent = tuple[str, int, str, tuple[str, ...], datetime]


def _exact(sent: list[Sent], since: datetime, to: set[str]) -> tuple[int, set[str]]:
    """Distinct persons, the first n of each source, and the categories of what was sent."""
    window = [one for one in sent if one[4] >= since and one[2] in to]
    most: dict[str, int] = {}
    for source, persons, *_ in window:
        most[source] = max(persons, most.get(source, 0))
    return sum(most.values()), {category for one in window for category in one[3]}


def _holds(count: Count, exact: tuple[int, set[str]]) -> None:
    persons, categories = exact
    assert count.at_most >= persons
    assert count.at_most in EDGES
    assert set(count.categories) >= categories


@settings(max_examples=60, deadline=None)
@given(st.lists(sendings, min_size=1, max_size=12))
def test_a_count_is_never_below_the_exact_one(plan):
    sent: list[Sent] = []
    at = BEGIN
    with tempfile.TemporaryDirectory() as folder, Counters.open(Path(folder) / "counters.db") as counters:
        for source, persons, name, study, genomic, step in plan:
            at += timedelta(seconds=step)
            categories = ("genomic", "health") if genomic else ("health",)
            sent.append((source, persons, name, categories, at))
            told = (source, persons, categories, rfc3339(at))
            (us,) = counters.counts(US, [TO[name]], *told)
            (cn,) = counters.counts(CN, [TO[name]], *told)
            same = {other for other, code in PLACES.items() if code == PLACES[name]}
            _holds(us, _exact(sent, at.replace(year=at.year - 1), same))
            year = (at + timedelta(hours=8)).year
            abroad = {other for other, code in PLACES.items() if code != "CN"}
            _holds(cn, _exact(sent, datetime(year, 1, 1, tzinfo=UTC) - timedelta(hours=8), abroad))
            counters.record(study, source, TO[name], persons, categories, rfc3339(at))

"""One unit at several sites: the sites' events compose, for the sites where it is worst."""

from __future__ import annotations

import time
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compliance.privacy import overlap
from compliance.privacy.accounting import epsilon, epsilon_coarse
from compliance.privacy.events import PrivacyEvent
from compliance.privacy.overlap import epsilon_at_sites

DELTA = 10**5


def site(noise: int = 1_500_000, batch: int = 10, of: int = 100, steps: int = 100, femto: int = 0) -> PrivacyEvent:
    return PrivacyEvent(
        noise_multiplier_micro=noise, sample_numerator=batch, sample_denominator=of, steps=steps, unit="patient",
        tv_error_femto=femto,
    )  # fmt: skip


def test_the_published_example() -> None:
    """sigma 1.5, q .1, 100 steps, delta 1e-5: eps 3.54 at one site, 5.05 at two."""
    assert epsilon([site()], DELTA) == pytest.approx(3540, abs=6)
    assert epsilon_at_sites([(site(),), (site(),)], DELTA)[2] == pytest.approx(5050, abs=6)


def test_none_and_one_site_have_nothing_in_common() -> None:
    assert epsilon_at_sites([], DELTA) == epsilon_at_sites([(site(),)], DELTA) == {}
    assert epsilon_at_sites([(site(),), ()], DELTA) == {}


def test_different_sites_are_composed_where_it_is_worst() -> None:
    sites = [(site(1_312_000, 24, 240, 80),), (site(1_415_000, 96, 960, 80), site(1_415_000, 96, 960, 4)),
             (site(2_900_000, 60, 260, 80),), (site(1_500_000, 15, 150, 80),)]  # fmt: skip
    found = epsilon_at_sites(sites, DELTA)
    for k in (2, 3, 4):
        every = [epsilon_coarse([e for s in c for e in s], DELTA) for c in combinations(sites, k)]
        assert found[k] == max(every)


def test_many_equal_sites_are_a_few_compositions(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def counted(events: list[PrivacyEvent], inverse_delta: int) -> int:
        asked.append(sum(e.steps for e in events) // 100)
        return epsilon_coarse(events, inverse_delta)

    monkeypatch.setattr(overlap, "epsilon_coarse", counted)
    found = epsilon_at_sites([(site(4_000_000),)] * 12, DELTA)
    assert sorted(asked) == [*range(2, 11), 12]
    assert list(found) == [*range(2, 11), 12]
    assert [*found.values()] == sorted(x or 0 for x in found.values())


@pytest.mark.parametrize("charges", [1, 12])
def test_a_thousand_equal_sites_take_less_than_a_second(charges: int) -> None:
    epsilon_coarse([site()], DELTA)  # the accountant's import
    began = time.monotonic()
    found = epsilon_at_sites([(site(60_000_000, steps=10),) * charges] * 1000, DELTA)
    assert time.monotonic() - began < 1
    assert found[3] == epsilon_coarse([site(60_000_000, steps=30 * charges)], DELTA)
    assert found[1000] == epsilon_coarse([site(60_000_000, steps=10_000)] * charges, DELTA)


def test_two_kinds_of_sites_are_composed_as_often_as_there_are_sites_of_them() -> None:
    """One loud site among many: somebody at three sites is at the loud one once, not three times."""
    loud, quiet = (site(1_500_000),), (site(5_000_000),)
    found = epsilon_at_sites([*[quiet] * 40, loud], DELTA)
    assert found[3] == epsilon_coarse([*loud, *quiet, *quiet], DELTA)
    assert found[41] == epsilon_coarse([*loud, *quiet * 40], DELTA)


def test_a_thousand_different_sites_end_and_are_bounded() -> None:
    sites = [(site(60_000_000 + i, steps=10),) for i in range(1000)]
    began = time.monotonic()
    found = epsilon_at_sites(sites, DELTA)
    assert time.monotonic() - began < 5
    assert (found[1000] or 0) >= epsilon_coarse([site(60_000_999, steps=10_000)], DELTA)


def test_many_different_sites_are_bounded_by_the_worst_and_by_all_together() -> None:
    sites = [(site(3_000_000 + 50_000 * i, 10, 100 + i, 20), site(20_000_000, 1, 1, 1)) for i in range(8)]
    found = epsilon_at_sites(sites, DELTA)
    assert list(found) == list(range(2, 9))
    assert [*found.values()] == sorted(x for x in found.values() if x is not None)
    assert found[8] == epsilon_coarse([e for s in sites for e in s], DELTA)
    worst_pair = max(epsilon_coarse([*a, *b], DELTA) for a, b in combinations(sites, 2))
    assert worst_pair <= (found[2] or 0) <= 1.1 * worst_pair


@settings(max_examples=4, deadline=None)
@given(st.lists(st.builds(site, st.integers(1_500_000, 6_000_000), st.integers(1, 30), st.just(100),
                          st.integers(1, 60)), min_size=7, max_size=7))  # fmt: skip
def test_the_bound_for_many_sites_covers_every_choice(events: list[PrivacyEvent]) -> None:
    found = epsilon_at_sites([(e,) for e in events], DELTA)
    for k in (2, 5):
        some = list(combinations(events, k))[:: 5]  # fmt: skip
        assert all(epsilon_coarse(c, DELTA) <= (found[k] or 0) for c in some)


def test_a_delta_that_is_used_up_is_said_and_not_hidden() -> None:
    femto = int(10**15 / DELTA / 200)
    assert epsilon([site(femto=femto)], DELTA) > 0
    assert epsilon_at_sites([(site(femto=femto),)] * 3, DELTA) == {2: None, 3: None}

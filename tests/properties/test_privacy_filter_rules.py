"""The filter and the accountants behave: more spending never costs less."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from compliance.privacy.accounting import epsilon, epsilon_rdp
from compliance.privacy.events import PrivacyEvent
from compliance.privacy.rdp_filter import needed_milli, total

EVENTS = st.builds(
    PrivacyEvent,
    noise_multiplier_micro=st.integers(600_000, 20_000_000),
    sample_numerator=st.integers(1, 50),
    sample_denominator=st.just(100),
    steps=st.integers(1, 500),
    unit=st.just("record"),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(EVENTS, max_size=3), EVENTS)
def test_one_more_event_never_costs_less_and_order_does_not_matter(
    events: list[PrivacyEvent], more: PrivacyEvent
) -> None:
    before, after = total(events), total([*events, more])
    assert all(a < b for a, b in zip(before.nano, after.nano, strict=True))
    assert needed_milli(before, 10**5) <= needed_milli(after, 10**5)
    assert after == total([more, *reversed(events)])


@settings(max_examples=8, deadline=None)
@given(EVENTS.filter(lambda e: e.noise_multiplier_micro > 2_000_000))
def test_the_filter_never_promises_less_than_the_accountants_find(e: PrivacyEvent) -> None:
    filtered, rdp = needed_milli(total([e]), 10**5), epsilon_rdp([e], 10**5)
    assert filtered >= rdp
    assert epsilon([e], 10**5) <= 1.02 * rdp + 1


@settings(max_examples=60, deadline=None)
@given(EVENTS, st.integers(1, 2**20))
def test_json_there_and_back_and_rates_are_rationals(e: PrivacyEvent, k: int) -> None:
    assert PrivacyEvent.model_validate_json(e.model_dump_json()) == e
    scaled = e.model_copy(
        update={"sample_numerator": e.sample_numerator * k, "sample_denominator": e.sample_denominator * k}
    )
    assert scaled.same_mechanism(e)
    assert total([scaled]) == total([e])

"""Rate limits, deadlines and bounds of the governance service: decisions, with a clock of the test's own."""

from __future__ import annotations

import pytest

from compliance.errors import InputError, Refused
from compliance.governance import ENROL, METHODS, MOST_REQUEST, SERVICE, StatusRequest
from server.governance.door import check_deadline
from server.governance.limits import AT_A_TIME, MOST_CALLERS, Limits


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


def test_a_burst_is_served_and_refilled_evenly() -> None:
    clock = Clock()
    limits = Limits(clock)
    for _ in range(6):
        limits.take("a", "Renew", 6)
    with pytest.raises(Refused, match="RSD-6303"):
        limits.take("a", "Renew", 6)
    clock.at = 9.9
    with pytest.raises(Refused):
        limits.take("a", "Renew", 6)
    clock.at = 20.1
    limits.take("a", "Renew", 6)
    limits.take("a", "Renew", 6)
    with pytest.raises(Refused):
        limits.take("a", "Renew", 6)
    clock.at = 1e6
    for _ in range(6):
        limits.take("a", "Renew", 6)
    with pytest.raises(Refused):
        limits.take("a", "Renew", 6)


def test_callers_and_methods_have_shares_of_their_own() -> None:
    limits = Limits(Clock())
    limits.take("a", "Renew", 1)
    limits.take("b", "Renew", 1)
    limits.take("a", "Trust", 1)
    with pytest.raises(Refused):
        limits.take("a", "Renew", 1)


def test_memory_is_bounded_whoever_calls() -> None:
    limits = Limits(Clock())
    for i in range(MOST_CALLERS + 500):
        limits.take(f"ipv4:{i}", "Enrol", 5)
    assert len(limits._buckets) == MOST_CALLERS


def test_few_calls_of_one_caller_are_served_at_a_time() -> None:
    limits = Limits(Clock())
    held = [limits.serving("a", "Status") for _ in range(AT_A_TIME)]
    for one in held:
        one.__enter__()
    with pytest.raises(Refused, match="RSD-6303"), limits.serving("a", "Status"):
        pass
    with limits.serving("b", "Status"):
        pass
    held[0].__exit__(None, None, None)
    with limits.serving("a", "Status"):
        pass
    for one in held[1:]:
        one.__exit__(None, None, None)
    assert limits._serving == {}


@pytest.mark.parametrize("left", [None, float("inf"), 9e9, 12.0])
def test_a_call_needs_a_deadline_that_is_not_longer_than_the_methods(left: float | None) -> None:
    with pytest.raises(InputError, match="RSD-6304"):
        check_deadline("Status", METHODS["Status"], left)
    check_deadline("Status", METHODS["Status"], 10.2)


def test_every_method_is_bounded() -> None:
    assert SERVICE == "residency.Governance"
    for method in (*METHODS.values(), *ENROL.values()):
        assert 0 < method.most_bytes <= MOST_REQUEST
        assert 0 < method.deadline_s <= 30
        assert 0 < method.per_minute <= 60
    assert METHODS["Status"].request is StatusRequest

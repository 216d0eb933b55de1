"""FedAvg and FedAdam against plain numpy; the accumulator's refusals; state and restart."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from compliance.errors import InputError, Refused
from strategies.fedadam import AdamRates, FedAdam
from strategies.fedavg import Accumulator, FedAvg, ServerRule

D = 257


def deltas(rounds: int, seed: int = 1) -> list[npt.NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    return [rng.normal(0, 0.1, D).astype("<f4") for _ in range(rounds)]


def adam() -> FedAdam:
    return FedAdam(AdamRates(rate_micro=100_000, beta1_micro=900_000, beta2_micro=990_000, tau_micro=1_000), D)


def test_fedadam_is_algorithm_2_of_the_paper() -> None:
    rule, x = adam(), np.zeros(D, "<f4")
    oracle, m, v = np.zeros(D), np.zeros(D), np.full(D, 1e-6)
    for delta in deltas(20):
        x = rule.apply(x, delta)
        for i in range(D):
            m[i] = 0.9 * m[i] + 0.1 * float(delta[i])
            v[i] = 0.99 * v[i] + 0.01 * float(delta[i]) ** 2
            oracle[i] = np.float32(oracle[i] + 0.1 * m[i] / (v[i] ** 0.5 + 1e-3))
    np.testing.assert_allclose(x, oracle, rtol=1e-6, atol=1e-7)


def test_fedavg_adds_the_mean() -> None:
    x, delta = deltas(2)
    np.testing.assert_array_equal(FedAvg().apply(x, delta), (x.astype(float) + delta).astype("<f4"))


def test_a_restored_rule_goes_on_bit_for_bit() -> None:
    whole, x = adam(), np.zeros(D, "<f4")
    for delta in deltas(6):
        x = whole.apply(x, delta)
    first, y = adam(), np.zeros(D, "<f4")
    for delta in deltas(6)[:3]:
        y = first.apply(y, delta)
    second: ServerRule = adam()
    second.restore(first.state())
    for delta in deltas(6)[3:]:
        y = second.apply(y, delta)
    assert x.tobytes() == y.tobytes()


def test_state_is_a_copy_and_a_refused_step_keeps_it() -> None:
    rule = adam()
    state = rule.state()
    with pytest.raises(Refused, match=r"RSD-8422.*257 of 257"):
        rule.apply(np.full(D, np.inf, "<f4"), deltas(1)[0])
    assert all(np.array_equal(rule.state()[k], v) for k, v in state.items())
    state["momentum"][:] = 7
    assert not rule.state()["momentum"].any()


def test_states_of_something_else_are_refused() -> None:
    good = adam().state()
    bad = [
        {},
        {"momentum": good["momentum"]},
        {**good, "more": good["momentum"]},
        {**good, "momentum": np.zeros(D - 1)},
        {**good, "momentum": np.zeros(D, np.float32)},
        {**good, "momentum": np.full(D, np.nan)},
        {**good, "second_moment": np.full(D, -1.0)},
    ]
    for state in bad:
        with pytest.raises(InputError, match="RSD-8430"):
            adam().restore(state)
    with pytest.raises(InputError, match="RSD-8430"):
        FedAvg().restore(good)
    FedAvg().restore(FedAvg().state())


@pytest.mark.parametrize("rule", [FedAvg(), adam()])
def test_arrays_that_do_not_fit_are_refused(rule: ServerRule) -> None:
    x = np.zeros(D, "<f4")
    for other in (np.zeros(D - 1, "<f4"), np.zeros(D, "<f8"), np.zeros((D, 1), "<f4")):
        with pytest.raises(Refused, match="RSD-8422"):
            rule.apply(x, other)


@pytest.mark.parametrize(
    "rates", [{"rate_micro": 0}, {"rate_micro": 1, "beta1_micro": 10**6}, {"rate_micro": 1, "tau_micro": 0}]
)
def test_rates_out_of_range(rates: dict[str, int]) -> None:
    with pytest.raises(InputError, match="RSD-8431"):
        AdamRates(**rates)


def test_the_weighted_mean() -> None:
    weights = {"a": 3, "b": 1, "c": 5}
    updates = dict(zip("ab", deltas(2), strict=True))
    acc = Accumulator(weights, D)
    for site, delta in updates.items():
        acc.add(site, delta)
    mean = acc.mean()
    assert (mean.sites, mean.weight) == (("a", "b"), 4)  # c did not come: the weights of those that did
    expected = (3 * updates["a"].astype(float) + updates["b"]) / 4
    np.testing.assert_array_equal(mean.delta, expected.astype("<f4"))


def test_each_site_once_and_only_sites_of_the_study() -> None:
    acc = Accumulator({"a": 1}, D)
    acc.add("a", deltas(1)[0])
    for site, found in (("a", "a second update"), ("x", "no public weight")):
        with pytest.raises(Refused) as refused:
            acc.add(site, deltas(1)[0])
        assert (refused.value.code, refused.value.found) == ("RSD-8421", found)
    assert acc.sites == ("a",)


def test_a_refused_update_leaves_no_trace() -> None:
    acc = Accumulator({"a": 1, "b": 1}, D)
    acc.add("a", deltas(1)[0])
    before = acc.mean().delta.tobytes()
    for spoil, code in ((np.nan, "RSD-8412"), (4.2e6, "RSD-8413"), (-4.2e6, "RSD-8413")):
        bad = deltas(1)[0]
        bad[-1] = spoil
        with pytest.raises(Refused, match=code):
            acc.add("b", bad)
    assert acc.mean().delta.tobytes() == before
    acc.add("b", deltas(1)[0])


def test_an_empty_round_has_no_mean() -> None:
    with pytest.raises(Refused, match="RSD-8423"):
        Accumulator({"a": 1}, D).mean()


def test_a_cleared_sum_is_a_new_one() -> None:
    weights = {"a": 3, "b": 1}
    used, fresh = Accumulator(weights, D), Accumulator(weights, D)
    for site, delta in zip("ab", deltas(2), strict=True):
        used.add(site, delta)
    used.clear()
    assert used.sites == ()
    later = deltas(3)[2]
    for acc in (used, fresh):
        acc.add("b", later)
    assert used.mean().delta.tobytes() == fresh.mean().delta.tobytes()


def test_rules_and_sums_over_many_blocks_are_those_of_whole_arrays() -> None:
    d = 2 * (1 << 15) + 17
    rng = np.random.default_rng(5)
    model, delta = (rng.standard_normal(d).astype("<f4") for _ in range(2))
    acc = Accumulator({"a": 1}, d)
    acc.add("a", delta)
    np.testing.assert_array_equal(acc.mean().delta, delta)
    np.testing.assert_array_equal(FedAvg().apply(model, delta), (model.astype(float) + delta).astype("<f4"))
    wide, rates = delta.astype(float), AdamRates(rate_micro=10_000)
    momentum, second = 0.1 * wide, 0.99 * 1e-6 + 0.01 * (wide * wide)
    moved = model.astype(float) + 0.01 * momentum / (np.sqrt(second) + 1e-3)
    np.testing.assert_allclose(FedAdam(rates, d).apply(model, delta), moved, rtol=1e-6)
    model[-1], delta[-1] = 3e38, 3e38
    with pytest.raises(Refused, match="RSD-8422"):
        FedAvg().apply(model, delta)


@pytest.mark.parametrize("weights", [{}, {"a": 0}, {"a": -1, "b": 5}, {"a": 2**20, "b": 1}])
def test_weights_out_of_range(weights: dict[str, int]) -> None:
    with pytest.raises(InputError, match="RSD-8420"):
        Accumulator(weights, D)


def test_the_extremes_do_not_overflow() -> None:
    acc = Accumulator({"a": 2**19, "b": 2**19}, 2)
    for site in "ab":
        acc.add(site, np.array([2.0**22, -(2.0**22)], "<f4"))
    np.testing.assert_array_equal(acc.mean().delta, np.array([2.0**22, -(2.0**22)], "<f4"))

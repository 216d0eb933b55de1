"""From events to (eps, delta): privacy-loss distributions for what is reported, Renyi DP as the second opinion.

The reported eps comes from dp_accounting's pessimistic PLD (Koskela et al. 2020, arXiv 1906.03049; Doroshenko et al.
2022, arXiv 2207.04380), for add/remove neighbours. It is an upper bound for parameters fixed in advance, which a
signed study does; across studies the ledger's filter decides (rdp_filter). Gaussian DP is not offered: its central
limit approximation gave less noise than PLD needs, so it is no bound.

dp_accounting takes two seconds to import and is imported on first use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import lru_cache
from typing import Any, Final

from compliance.errors import InputError, Refused
from compliance.privacy.events import LEAST_NOISE_MICRO, MOST_EPSILON_MILLI, MOST_NOISE_MICRO, PrivacyEvent
from compliance.privacy.rdp_filter import conversion, step_cost_nano

_FINE = 1e-4  # spacing of the loss grid: the pessimistic error is far below a milli-eps
_COARSE = 1e-3  # ten times faster, still an upper bound: narrows the search, and serves little noise
_LITTLE_NOISE_MICRO = 500_000  # below it losses are so large that the fine grid gains nothing and takes seconds
_RDP_ORDERS = (*range(2, 33), 40, 48, 64, 96, 128, 256, 512)
_LOUD_ORDERS = (2, 3, 4, 6, 9, 14)
_LOUD_MILLI = 40_000  # beyond eps 40 the RDP bound is given: PLD's grids would grow to gigabytes to say the same
_SLACK = 1e-6  # milli-eps, above the rounding of the Fourier transforms
# Where a sampler errs, eps and delta also hold this for its pointwise error: every probability is within e^(+-rho), so
# that N draws turn (eps, delta) into (eps + 2 N rho, e^(N rho) delta). A site refuses a study with 2 N rho above it.
SAMPLER_MICRO_EPSILON: Final = 250
_SAMPLER_DELTA: Final = Fraction(10**6, 10**6 + SAMPLER_MICRO_EPSILON)  # below e^(-N rho)

Merged = tuple[tuple[int, Fraction, int], ...]  # (noise multiplier in micro, q, steps), sorted


def epsilon(events: Iterable[PrivacyEvent], inverse_delta: int) -> int:
    """Milli-eps, rounded up, such that all `events` together are (eps, 1 / inverse_delta)-DP; 0 for no events.

    Includes the sampler's errors. Where Renyi DP finds more than eps 40, that looser bound is returned. Raises
    InputError RSD-4001 for events of different units, RSD-4002 for a delta above 1/2, Refused RSD-4003 if the
    sampler's errors alone use up delta.
    """
    merged, tv_femto = _merge(events, inverse_delta)
    return _pld_epsilon(merged, tv_femto, inverse_delta, _FINE) if merged else 0


def epsilon_coarse(events: Iterable[PrivacyEvent], inverse_delta: int) -> int:
    """`epsilon` on a ten times coarser grid: an upper bound too, looser by about a milli-eps, and much quicker."""
    merged, tv_femto = _merge(events, inverse_delta)
    return _pld_epsilon(merged, tv_femto, inverse_delta, _COARSE) if merged else 0


def epsilon_against(events: Iterable[PrivacyEvent], inverse_delta: int, limit_milli: int) -> int:
    """A bound that tells whether `limit_milli` is kept: the coarse one where that does, else `epsilon`. Same errors."""
    events = tuple(events)
    try:
        bound = epsilon_coarse(events, inverse_delta)
    except Refused:  # a looser bound leaves less of delta to the sampler: the fine one may still do
        return epsilon(events, inverse_delta)
    return bound if bound <= limit_milli else epsilon(events, inverse_delta)


def epsilon_rdp(events: Iterable[PrivacyEvent], inverse_delta: int) -> int:
    """Milli-eps, rounded up, by Renyi DP at integer orders: looser than `epsilon`, independent code, no imports.

    The best order is taken at the end, which is right for parameters fixed in advance and wrong as a filter.
    Same errors as `epsilon`.
    """
    merged, tv_femto = _merge(events, inverse_delta)
    return _rdp_epsilon(merged, tv_femto, inverse_delta, _RDP_ORDERS) if merged else 0


def calibrate(
    target_epsilon_milli: int,
    inverse_delta: int,
    sample_numerator: int,
    sample_denominator: int,
    steps_total: int,
    tv_error_femto: int = 0,
    also: tuple[PrivacyEvent, ...] = (),
) -> int:
    """The smallest noise multiplier of four significant digits, in micro, whose `epsilon` meets the target.

    Four digits are at most 1e-3 apart, relatively. Deterministic. `steps_total` and `tv_error_femto` cover all
    rounds and spare attempts. What is done `also` is paid from the same target (its sampler errors stand in
    `tv_error_femto`). Raises Refused RSD-4004 if no multiplier up to 100 meets the target, InputError RSD-4002,
    RSD-4122 for a delta or an eps out of range.
    """
    _check_epsilon(target_epsilon_milli)
    rate = Fraction(sample_numerator, sample_denominator)
    beside = tuple((e.noise_multiplier_micro, e.rate, e.steps) for e in also)

    def meets(index: int, grid: float) -> bool:
        merged = tuple(sorted(((_noise(index), rate, steps_total), *beside)))
        try:
            return _pld_epsilon(merged, tv_error_femto, inverse_delta, grid) <= target_epsilon_milli
        except Refused:  # with so little noise the sampler's error uses up delta: more noise is needed
            return False

    PrivacyEvent(  # the ranges of the arguments
        noise_multiplier_micro=1_000_000,
        sample_numerator=sample_numerator,
        sample_denominator=sample_denominator,
        steps=steps_total,
        unit="record",
        tv_error_femto=tv_error_femto,
    )
    _check_delta(inverse_delta)
    low, high = _bracket(lambda i: meets(i, _COARSE), target_epsilon_milli)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if meets(middle, _COARSE) else (middle, high)
    while _noise(high - 1) >= LEAST_NOISE_MICRO and meets(high - 1, _FINE):
        high -= 1
    return _noise(high)


def check_claim(
    event: PrivacyEvent, epsilon_milli: int, inverse_delta: int, also: tuple[PrivacyEvent, ...] = ()
) -> int:
    """A bound on the eps of `event` and what is done `also`, at most `epsilon_milli`; else Refused RSD-4005 with both.

    Call it before a study is approved and reserved: the ledger records a study's claim, it does not prove it.
    """
    _check_epsilon(epsilon_milli)
    found = epsilon_against([event, *also], inverse_delta, epsilon_milli)
    if found > epsilon_milli:
        raise Refused(
            "RSD-4005",
            "the study's noise does not give the eps that the study claims",
            rule=f"PLD, add/remove, delta 1/{inverse_delta}",
            found=f"{found} milli-eps",
            limit=f"{epsilon_milli} milli-eps",
            next="calibrate the noise multiplier for all steps, spare attempts included, and propose the study again",
        )
    return found


def _noise(index: int) -> int:
    """Noise multiplier, micro, of the `index`-th number of four digits: 1000..9999, then the next decade."""
    decade, mantissa = divmod(index, 9000)
    return (1000 + mantissa) * int(10**decade)


def _index(noise_micro: int) -> int:
    decade = len(str(noise_micro)) - 4
    return decade * 9000 + noise_micro // int(10**decade) - 1000


def _bracket(meets: Callable[[int], bool], target: int) -> tuple[int, int]:
    """(low, high): `high` meets the target, `low` does not or lies below the range."""
    bottom, top = _index(LEAST_NOISE_MICRO), _index(MOST_NOISE_MICRO)
    at, stride = _index(1_000_000), 2000
    if meets(at):
        while at > bottom and meets(max(at - stride, bottom)):
            at = max(at - stride, bottom)
        return (bottom - 1, bottom) if at == bottom else (max(at - stride, bottom), at)
    while not meets(min(at + stride, top)):
        if at + stride >= top:
            raise Refused(
                "RSD-4004",
                "no noise multiplier up to 100 meets this eps",
                found="more than the target at 100",
                limit=f"{target} milli-eps",
                next="allow a larger eps, fewer steps or a smaller sampling rate",
            )
        at += stride
    return at, min(at + stride, top)


def _merge(events: Iterable[PrivacyEvent], inverse_delta: int) -> tuple[Merged, int]:
    _check_delta(inverse_delta)
    events = tuple(events)
    units = sorted({e.unit for e in events})
    if len(units) > 1:
        raise InputError(
            "RSD-4001", "events of different privacy units have no common eps", found=", ".join(units), limit="one unit"
        )
    steps: dict[tuple[int, Fraction], int] = {}
    for e in events:
        key = (e.noise_multiplier_micro, e.rate)
        steps[key] = steps.get(key, 0) + e.steps
    return tuple(sorted((s, q, n) for (s, q), n in steps.items())), sum(e.tv_error_femto for e in events)


def _check_delta(inverse_delta: int) -> None:
    if inverse_delta < 2:
        raise InputError("RSD-4002", "delta must be below one", found=f"1/{inverse_delta}", limit="1/2 or smaller")


def _check_epsilon(milli: int) -> None:
    if not 1 <= milli <= MOST_EPSILON_MILLI:
        raise InputError(
            "RSD-4122", "eps is out of range", found=f"{milli} milli-eps", limit=f"1 to {MOST_EPSILON_MILLI}",
            next="give an eps in this range",
        )  # fmt: skip


def _rdp_epsilon(merged: Merged, tv_femto: int, inverse_delta: int, orders: tuple[int, ...]) -> int:
    sums = [sum(step_cost_nano(noise, rate, order, steps) for noise, rate, steps in merged) for order in orders]

    def at(delta: Fraction) -> int:
        best = min(nano + conversion(order, 1 / delta) for order, nano in zip(orders, sums, strict=True))
        best += 1000 * SAMPLER_MICRO_EPSILON if tv_femto else 0
        return max(-(-best // 10**6), 0)

    return _with_sampler(at, tv_femto, inverse_delta)


@lru_cache(maxsize=256)
def _pld_epsilon(merged: Merged, tv_femto: int, inverse_delta: int, grid: float) -> int:
    loud = _rdp_epsilon(merged, 0, inverse_delta, _LOUD_ORDERS)
    if loud > _LOUD_MILLI:
        return _rdp_epsilon(merged, tv_femto, inverse_delta, _LOUD_ORDERS) if tv_femto else loud
    distribution = _distribution(merged, grid)

    def at(delta: Fraction) -> int:
        eps = float(distribution.get_epsilon_for_delta(float(delta)))
        if not math.isfinite(eps):
            raise Refused(
                "RSD-4003", "no finite eps at this delta", found="infinite", limit="finite", next="use a larger delta"
            )
        slack = _SLACK + (SAMPLER_MICRO_EPSILON / 1000 if tv_femto else 0)
        return math.ceil(eps * 1000 + slack) if eps > 0 or tv_femto else 0

    return _with_sampler(at, tv_femto, inverse_delta)


@lru_cache(maxsize=32)
def _distribution(merged: Merged, grid: float) -> Any:
    grid = max(grid, _COARSE) if merged[0][0] < _LITTLE_NOISE_MICRO else grid
    whole = None
    for noise_micro, rate, steps in merged:
        one = _one(noise_micro, rate, steps, grid)
        whole = one if whole is None else whole.compose(one)
    return whole


@lru_cache(maxsize=64)
def _one(noise_micro: int, rate: Fraction, steps: int, grid: float) -> Any:
    return _step(noise_micro, rate, grid).self_compose(steps)


@lru_cache(maxsize=8)
def _step(noise_micro: int, rate: Fraction, grid: float) -> Any:
    """Of one step: it takes longest, and what several sites did together differs in the number of steps alone."""
    from compliance.privacy.pld import one_step  # noqa: PLC0415 - two seconds, only when needed

    return one_step(noise_micro / 1e6, float(rate), grid)


def _with_sampler(at: Callable[[Fraction], int], tv_femto: int, inverse_delta: int) -> int:
    """Least milli-eps e with at(delta - (1 + exp(e)) t) <= e, found from below; `at` maps a delta to milli-eps."""
    delta, error = Fraction(1, inverse_delta), Fraction(tv_femto, 10**15)
    delta *= _SAMPLER_DELTA if error else 1
    eps = at(delta)
    while error:
        left = delta - error * (1 + Fraction(math.exp(min(eps / 1000, 700.0))))
        if left <= 0:
            raise Refused(
                "RSD-4003",
                "the sampler's error uses up delta",
                rule="(1 + e^eps) times the total-variation error comes out of delta",
                found=f"{tv_femto} femto at {eps} milli-eps",
                limit=f"delta 1/{inverse_delta}",
                next="use a sampler with a smaller error, fewer steps or a smaller eps",
            )
        needed = at(left)
        if needed <= eps:
            break
        eps = needed
    return eps

"""The privacy filter that admits studies to a data source: Renyi DP at fixed orders, fully adaptive composition.

Why a filter. Later studies, their noise and their number are chosen after earlier results were seen. Ordinary
composition theorems fix all parameters in advance and say nothing about that; a filter does.

What is proved, and where.

1. Feldman and Zrnic (NeurIPS 2021, arXiv 2008.11193, fully adaptive composition for Renyi DP) and Lecuyer (2021,
   arXiv 2103.01379, Renyi filters): fix ONE order a > 1 and ONE bound B. If mechanisms are chosen adaptively and the
   sum of their order-a Renyi costs never exceeds B, the whole interaction is (a, B)-RDP.
2. Canonne, Kamath and Steinke (NeurIPS 2020, arXiv 2004.00010, Proposition 12): (a, B)-RDP implies (eps, delta)-DP
   with eps = B + ln((a - 1) / a) - (ln delta + ln a) / (a - 1).

Taking the smallest eps(delta) over several orders after the fact is NOT covered by 1: which order is best may depend
on the outcomes. So each of the K orders of `ORDERS`, fixed here once and for all, gets its own share delta / K, and
an interaction is admitted while at least one order still has room. Proof: let S be any set of transcripts and S_k its
part on which k is the first order whose sum stayed within its bound B_k. On S_k the interaction coincides with the
one that stops as soon as order k would exceed B_k; that one is (a_k, B_k)-RDP by 1, hence P(S_k) <= e^eps Q(S_k) +
delta / K by 2. The sum over k is P(S) <= e^eps Q(S) + delta. The price is ln K / (a - 1) of eps, about a tenth.

The sampler's total-variation error t is no Renyi divergence. A tenth of delta is set aside for it: the sum of all
errors must satisfy (1 + e^eps) t <= delta / 10 at the limit eps, and the orders share the other nine tenths.

Arithmetic is decimal (correctly rounded in every CPython) and ends in integers, nano-eps, costs rounded up: all
machines decide alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from fractions import Fraction
from functools import lru_cache
from math import comb

from compliance.privacy.events import PrivacyEvent

ORDERS: tuple[int, ...] = (2, 3, 4, 6, 9, 14, 24, 48)
"""Orders of the filter. Changing them invalidates every ledger: the union over orders must be fixed in advance."""

_SAMPLER_SHARE = 10  # one tenth of delta is for the sampler's error
_CONTEXT = Context(prec=40)
_NANO = Decimal(10) ** 9


@lru_cache(maxsize=4096)
def step_cost(noise_multiplier_micro: int, rate: Fraction, order: int) -> Decimal:
    """Renyi cost of one step at the integer `order` >= 2, for adding or removing one unit. Nats, 40 digits.

    Exact formula for integer orders: Mironov, Talwar, Zhang 2019 (arXiv 1908.10530), section 3.3; there also that the
    add direction dominates.
    """
    c = _CONTEXT
    twice_variance = c.multiply(Decimal(2), c.power(c.divide(Decimal(noise_multiplier_micro), Decimal(10**6)), 2))
    q = c.divide(Decimal(rate.numerator), Decimal(rate.denominator))
    rest = c.subtract(Decimal(1), q)
    moment = Decimal(0)
    for k in range(order + 1):
        if rest == 0 and k < order:
            continue  # no sampling: only the last term is left
        weight = c.multiply(
            Decimal(comb(order, k)),
            c.multiply(_power(q, k), _power(rest, order - k)),
        )
        moment = c.add(moment, c.multiply(weight, c.exp(c.divide(Decimal(k * (k - 1)), twice_variance))))
    return c.divide(c.ln(moment), Decimal(order - 1))


def _power(base: Decimal, exponent: int) -> Decimal:
    return Decimal(1) if exponent == 0 else _CONTEXT.power(base, exponent)


def step_cost_nano(noise_multiplier_micro: int, rate: Fraction, order: int, steps: int) -> int:
    """Cost of `steps` steps at `order`, nano-eps, rounded up. Positive."""
    nats = _CONTEXT.multiply(step_cost(noise_multiplier_micro, rate, order), Decimal(steps))
    nano = int(_CONTEXT.multiply(nats, _NANO).to_integral_value(rounding=ROUND_CEILING))
    return max(nano, 0) + 1  # one nano covers the last of the 40 digits


def curve(event: PrivacyEvent) -> tuple[int, ...]:
    """Cost of `event` at each order of `ORDERS`, nano-eps, rounded up. Positive."""
    return tuple(step_cost_nano(event.noise_multiplier_micro, event.rate, a, event.steps) for a in ORDERS)


@lru_cache(maxsize=1024)
def conversion(order: int, inverse_delta: Fraction) -> int:
    """What turning (order, B)-RDP into (eps, 1 / inverse_delta)-DP adds to B: nano-eps, rounded up. May be negative."""
    c = _CONTEXT
    log_inverse = c.ln(c.divide(Decimal(inverse_delta.numerator), Decimal(inverse_delta.denominator)))
    first = c.ln(c.divide(Decimal(order - 1), Decimal(order)))
    second = c.divide(c.subtract(log_inverse, c.ln(Decimal(order))), Decimal(order - 1))
    return int(c.multiply(c.add(first, second), _NANO).to_integral_value(rounding=ROUND_CEILING)) + 1


@dataclass(frozen=True)
class Total:
    """What a set of events costs: nano-eps at each order of `ORDERS`, and the sampler's errors, femto."""

    nano: tuple[int, ...]
    tv_error_femto: int

    def is_nothing(self) -> bool:
        """True if no event was counted."""
        return not any(self.nano)


def total(events: Iterable[PrivacyEvent]) -> Total:
    """Sum of the events' curves; zero for none."""
    sums, errors = [0] * len(ORDERS), 0
    for event in events:
        sums = [a + b for a, b in zip(sums, curve(event), strict=True)]
        errors += event.tv_error_femto
    return Total(tuple(sums), errors)


def needed_milli(spent: Total, inverse_delta: int) -> int:
    """The smallest limit, milli-eps, at which the filter with this delta would have admitted `spent`; 0 for nothing.

    The sampler's part is judged by `sampler_allowance_femto`, not here.
    """
    if spent.is_nothing():
        return 0
    shared = Fraction(inverse_delta * len(ORDERS) * _SAMPLER_SHARE, _SAMPLER_SHARE - 1)
    best = min(nano + conversion(order, shared) for order, nano in zip(ORDERS, spent.nano, strict=True))
    return max(-(-best // 10**6), 0)


@lru_cache(maxsize=1024)
def sampler_allowance_femto(epsilon_milli: int, inverse_delta: int) -> int:
    """The most total-variation error, femto, that fits: (1 + e^eps) t <= delta / 10. Rounded down."""
    c = _CONTEXT
    growth = c.add(Decimal(1), c.exp(c.divide(Decimal(epsilon_milli), Decimal(1000))))
    allowed = c.divide(Decimal(10**15), c.multiply(growth, Decimal(_SAMPLER_SHARE * inverse_delta)))
    return int(allowed.to_integral_value(rounding=ROUND_FLOOR))

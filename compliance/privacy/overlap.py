"""What a study costs somebody whose records are at several of its sites: the sites' events together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import islice
from typing import Final

from compliance.errors import Refused
from compliance.privacy.accounting import epsilon_coarse
from compliance.privacy.events import PrivacyEvent

Events = tuple[PrivacyEvent, ...]
MOST_TOGETHER: Final = 10  # numbers of sites that have a row of their own, beside all sites
_MOST_CHOICES: Final = 64  # compositions of different sites that are tried one by one, a hundredth of a second each


def epsilon_at_sites(by_site: Sequence[Events], inverse_delta: int) -> dict[int, int | None]:
    """k -> milli-eps of one unit that is present at some k of the sites, whichever they are.

    k = 2 to `MOST_TOGETHER`, and the number of sites that did anything; for a k between them the next larger one
    holds. Nothing for fewer than two sites. An upper bound by PLD of the composed events at the one delta, never
    falling with k; the value None where no finite eps holds at this delta. Up to some 64 different choices of sites
    each is composed and the largest counts; beyond that each site counts as the worst there is (least noise, largest
    rate, most steps of any), which dominates every choice, as it does for all sites where they did more than 64
    different things. Sites that did the same are one choice, however many they are.
    Raises InputError RSD-4001, RSD-4002.
    """
    sites = Counter(_together((e, 1) for e in events) for events in by_site if events)
    number = sites.total()
    if number < 2:
        return {}
    worst = _worst([*sites])
    whole = _composed(sites)
    if len(whole) > _MOST_CHOICES:
        whole = _together((e, number) for e in worst)
    everywhere = _epsilon(whole, inverse_delta)
    numbers = range(2, min(number - 1, MOST_TOGETHER) + 1)
    choices = {k: list(islice(_choices([*sites.items()], k), _MOST_CHOICES + 1)) for k in numbers}
    few = sum(map(len, choices.values())) <= _MOST_CHOICES
    found: dict[int, int | None] = {}
    last: int | None = 0
    for k in numbers:
        tried = [_composed(c) for c in choices[k]] if few else [_together((e, k) for e in worst)]
        costs = [_epsilon(events, inverse_delta) for events in tried]
        finite = [c for c in costs if c is not None]
        most = max(finite) if len(finite) == len(costs) else None
        found[k] = last = _least(_most(last, most), everywhere)
    return {**found, number: _most(last, everywhere)}


def _choices(sites: Sequence[tuple[Events, int]], k: int, start: int = 0) -> Iterator[dict[Events, int]]:
    """What k sites did together, each different combination once; `sites`: what was done, and by how many."""
    if k == 0:
        yield {}
        return
    room = sum(number for _, number in sites[start:])
    for i, (events, number) in enumerate(sites[start:], start):
        if room < k:
            return
        room -= number
        for times in range(min(number, k), max(k - room, 1) - 1, -1):
            for others in _choices(sites, k - times, i + 1):
                yield {events: times, **others}


def _composed(chosen: Mapping[Events, int]) -> Events:
    return _together((e, times) for events, times in chosen.items() for e in events)


def _together(events: Iterable[tuple[PrivacyEvent, int]]) -> Events:
    """Events, each so many times, as the fewest of the same cost: equal and in one order for sites that did the same.

    Their steps and errors may exceed what one event of a log may hold.
    """
    sums: dict[tuple[int, Fraction, str], tuple[PrivacyEvent, int, int]] = {}
    for e, times in events:
        key = (e.noise_multiplier_micro, e.rate, e.unit)
        first, steps, femto = sums.get(key, (e, 0, 0))
        sums[key] = (first, steps + times * e.steps, femto + times * e.tv_error_femto)
    return tuple(
        first.model_copy(
            update={
                "sample_numerator": rate.numerator,
                "sample_denominator": rate.denominator,
                "steps": steps,
                "tv_error_femto": femto,
            }
        )
        for (_, rate, _), (first, steps, femto) in sorted(sums.items(), key=lambda item: item[0])
    )


def _worst(sites: Sequence[Events]) -> list[PrivacyEvent]:
    """Events that cost at least as much, in every composition, as all that any one of the sites did.

    What takes every unit (an evaluation) has one of its own: a rate of 1 would make all steps look like it.
    """
    sampled = [[e for e in events if e.rate < 1] for events in sites]
    whole = [[e for e in events if e.rate == 1] for events in sites]
    return [_dominating(part) for part in (sampled, whole) if any(part)]


def _dominating(sites: Sequence[Sequence[PrivacyEvent]]) -> PrivacyEvent:
    every = [e for events in sites for e in events]
    rate = max(e.rate for e in every)
    return every[0].model_copy(
        update={
            "noise_multiplier_micro": min(e.noise_multiplier_micro for e in every),
            "sample_numerator": rate.numerator,
            "sample_denominator": rate.denominator,
            "steps": max(sum(e.steps for e in events) for events in sites),
            "tv_error_femto": max(sum(e.tv_error_femto for e in events) for events in sites),
        }
    )


def _epsilon(events: Sequence[PrivacyEvent], inverse_delta: int) -> int | None:
    try:
        return epsilon_coarse(events, inverse_delta)
    except Refused:  # RSD-4003: the delta is used up
        return None


def _most(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else max(a, b)


def _least(a: int | None, b: int | None) -> int | None:
    """The smaller bound; what holds at all sites holds at some of them."""
    return b if a is None else a if b is None else min(a, b)

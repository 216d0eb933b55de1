"""What a study costs somebody whose records are at several of its sites: the sites' events together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Final

from compliance.errors import Refused
from compliance.privacy.accounting import epsilon_coarse
from compliance.privacy.events import PrivacyEvent

Events = tuple[PrivacyEvent, ...]
_MOST_CHOICES: Final = 64  # compositions of different sites that are tried one by one, a hundredth of a second each


def epsilon_at_sites(by_site: Sequence[Events], inverse_delta: int) -> tuple[int | None, ...]:
    """For k = 2 to the number of sites: milli-eps of one unit that is present at some k of them, whichever they are.

    An upper bound by PLD of the composed events at the one delta, never falling with k; None where no finite eps holds
    at this delta. Up to some 64 different choices of k sites each is composed and the largest counts; beyond that each
    site counts as the worst there is (least noise, largest rate, most steps of any), which dominates every choice.
    Raises InputError RSD-4001, RSD-4002.
    """
    sites = sorted(((_key(events), events) for events in by_site if events), key=lambda s: s[0])
    if len(sites) < 2:
        return ()
    everywhere = _epsilon([e for _, events in sites for e in events], inverse_delta)
    choices = [_choices(sites, k) for k in range(2, len(sites))]
    few = sum(map(len, choices)) <= _MOST_CHOICES
    found: list[int | None] = [0]
    for k, chosen in enumerate(choices, 2):
        tried = chosen if few else [_worst([events for _, events in sites]) * k]
        costs = [_epsilon(events, inverse_delta) for events in tried]
        finite = [c for c in costs if c is not None]
        most = max(finite) if len(finite) == len(costs) else None
        found.append(_least(_most(found[-1], most), everywhere))
    return (*found[1:], _most(found[-1], everywhere))


def _key(events: Events) -> tuple[tuple[int, int, int, int, int], ...]:
    """Equal for sites that did the same; orders sites."""
    return tuple(sorted((e.noise_multiplier_micro, e.sample_numerator, e.sample_denominator, e.steps, e.tv_error_femto)
                        for e in events))  # fmt: skip


def _choices(sites: Sequence[tuple[object, Events]], k: int) -> list[list[PrivacyEvent]]:
    """What k sites did together, each different combination once; one more than are tried ends the count."""
    seen: dict[object, list[PrivacyEvent]] = {}
    for chosen in combinations(sites, k):
        seen.setdefault(tuple(key for key, _ in chosen), [e for _, events in chosen for e in events])
        if len(seen) > _MOST_CHOICES:
            break
    return list(seen.values())


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

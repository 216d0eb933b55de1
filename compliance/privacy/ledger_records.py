"""What a ledger's state is made of: limits, reservations, charges, and the figures that it tells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from compliance.privacy.events import PrivacyEvent, Unit
from compliance.study_event import EVALUATION_ROUND


class LogHead(NamedTuple):
    """What a log was at `size` entries; `root` in hex."""

    origin: str
    size: int
    root: str


@dataclass(frozen=True)
class Limit:
    """The budget of a data source for ever: (epsilon_milli, 1 / inverse_delta), by the policy of this digest."""

    epsilon_milli: int
    inverse_delta: int
    policy_sha256: str


@dataclass(frozen=True)
class Reservation:
    """Room held for one study: its whole `event`, spare attempts included, and what it does `also`, such as evaluate.

    `claim_*` is what the study's PLD promises for all of it. `spent`: steps and sampler error charged of each event.
    `units`: in which the events hold. On an extract in which nobody has several rows a record is a patient: both.
    """

    source: str
    study: str
    event: PrivacyEvent
    also: tuple[PrivacyEvent, ...]
    units: tuple[Unit, ...]
    claim_epsilon_milli: int
    claim_inverse_delta: int
    spent: tuple[tuple[int, int], ...]
    released: bool
    seq: int

    @property
    def events(self) -> tuple[PrivacyEvent, ...]:
        """All that the study reserved."""
        return (self.event, *self.also)

    def charged(self) -> tuple[PrivacyEvent, ...]:
        """What was charged so far."""
        pairs = zip(self.events, self.spent, strict=True)
        return tuple(e.model_copy(update={"steps": n, "tv_error_femto": t}) for e, (n, t) in pairs if n)

    def held(self) -> tuple[PrivacyEvent, ...]:
        """What counts against the budget: all of it while open, what was charged once released."""
        return self.charged() if self.released else self.events

    def part(self, round_: int) -> int | None:
        """Which of `events` the round is paid from: rounds from the first, the evaluation from what is done `also`."""
        if round_ != EVALUATION_ROUND:
            return 0
        return 1 if self.also else None

    def after(self, round_: int, event: PrivacyEvent) -> Reservation | None:
        """With `event` charged to the round's part; None if that is of another mechanism, or has no room."""
        i = self.part(round_)
        if i is None:
            return None
        whole, (steps, femto) = self.events[i], self.spent[i]
        now = (steps + event.steps, femto + event.tv_error_femto)
        if not whole.same_mechanism(event) or now[0] > whole.steps or now[1] > whole.tv_error_femto:
            return None
        return replace(self, spent=(*self.spent[:i], now, *self.spent[i + 1 :]))


@dataclass(frozen=True)
class Charge:
    """One attempt of one round, paid for. `seq` and `head` place it in the source's chain."""

    source: str
    study: str
    round: int
    attempt: int
    event: PrivacyEvent
    seq: int
    head: str


@dataclass(frozen=True)
class Balance:
    """Milli-eps by the filter, at the source's delta. `held` counts open reservations whole; left = limit - held."""

    source: str
    limit_milli: int
    inverse_delta: int
    charged_milli: int
    held_milli: int
    left_milli: int


@dataclass(frozen=True)
class Plan:
    """What one more event would take: `needed_milli` on top of what is held. `fits` if a reservation would succeed."""

    source: str
    needed_milli: int
    left_milli: int
    fits: bool

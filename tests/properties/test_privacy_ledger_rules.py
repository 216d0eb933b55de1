"""Whatever is asked, in whatever order: never over the limit, one charge per attempt, nothing is given back."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from compliance.errors import Refused
from compliance.privacy.events import PrivacyEvent
from compliance.privacy.ledger import Ledger
from compliance.privacy.rdp_filter import needed_milli, sampler_allowance_femto, total

SOURCE, STUDIES = "s", ("one", "two", "three")
LIMITS = st.sampled_from([3000, 5000, 9000])
NOISES = st.sampled_from([900_000, 1_600_000, 4_000_000])


def event(noise: int, steps: int, femto: int) -> PrivacyEvent:
    return PrivacyEvent(
        noise_multiplier_micro=noise,
        sample_numerator=1,
        sample_denominator=10,
        steps=steps,
        unit="record",
        tv_error_femto=femto,
    )


class LedgerMachine(RuleBasedStateMachine):
    """The model: the charges that returned, nothing else."""

    @initialize(limit=LIMITS)
    def begin(self, limit: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "ledger.db"
        self.ledger = Ledger.open(self.path)
        self.ledger._connection.execute("PRAGMA synchronous=OFF")  # speed; durability is tested in tests/faults
        self.limit = limit
        self.highest = limit  # a lowered limit stops new spending; what was spent before stays spent
        self.ledger.set_limit(SOURCE, limit, 10**5)
        self.charged: dict[tuple[str, int, int], PrivacyEvent] = {}
        self.lowest_spend = 0

    @rule(
        study=st.sampled_from(STUDIES), noise=NOISES, steps=st.integers(1, 200), femto=st.sampled_from([0, 10, 10**6])
    )
    def reserve(self, study: str, noise: int, steps: int, femto: int) -> None:
        wanted = event(noise, steps, femto)
        planned = self.ledger.plan(SOURCE, wanted)
        new = self.ledger.reservation(SOURCE, study) is None
        admitted = False
        with suppress(Refused):
            self.ledger.reserve(SOURCE, study, wanted, 8000, 10**5)
            admitted = new
        if new:
            assert admitted == planned.fits

    @rule(
        study=st.sampled_from(STUDIES),
        round_no=st.integers(1, 2),
        attempt=st.integers(1, 3),
        steps=st.integers(1, 120),
        other_noise=st.none() | NOISES,
        femto=st.sampled_from([0, 0, 5]),
    )
    def charge(self, study: str, round_no: int, attempt: int, steps: int, other_noise: int | None, femto: int) -> None:
        held = self.ledger.reservation(SOURCE, study)
        noise = other_noise or (held.event.noise_multiplier_micro if held else 900_000)
        asked = event(noise, steps, femto)
        try:
            charge = self.ledger.charge(SOURCE, study, round_no, attempt, asked)
        except Refused:
            return
        key = (study, round_no, attempt)
        assert key not in self.charged
        assert attempt == 1 or (study, round_no, attempt - 1) in self.charged
        assert held is not None
        assert not held.released
        assert charge.event == asked
        self.charged[key] = asked
        paid = total(self.charged.values())
        assert needed_milli(paid, 10**5) <= self.limit + 1  # the charges' curves round up one by one
        assert paid.tv_error_femto <= sampler_allowance_femto(self.limit, 10**5)

    @rule(study=st.sampled_from(STUDIES))
    def release(self, study: str) -> None:
        self.ledger.release_unused(study)

    @rule(limit=LIMITS)
    def change_limit(self, limit: int) -> None:
        if limit <= self.limit:
            self.ledger.set_limit(SOURCE, limit, 10**5)
            self.limit = limit
        else:
            with suppress(Refused):
                self.ledger.set_limit(SOURCE, limit, 10**5)
                raise AssertionError("raised without a policy")

    @rule()
    def reopen(self) -> None:
        self.ledger.close()
        self.ledger = Ledger.open(self.path)
        self.ledger._connection.execute("PRAGMA synchronous=OFF")

    @invariant()
    def nothing_is_lost_or_given_back(self) -> None:
        if not hasattr(self, "ledger"):
            return
        on_file = {(c.study, c.round, c.attempt): c.event for s in STUDIES for c in self.ledger.charges(s)}
        assert on_file == self.charged
        balance = self.ledger.balance(SOURCE)
        assert self.lowest_spend <= balance.charged_milli <= balance.held_milli <= self.highest
        assert balance.left_milli == max(self.limit - balance.held_milli, 0)
        self.lowest_spend = balance.charged_milli

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.close()
            self.folder.cleanup()


LedgerMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestLedger = LedgerMachine.TestCase

"""Which of a log's words about a witness stood when it was shown a checkpoint."""

from __future__ import annotations

from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from compliance.clock import rfc3339
from compliance.log.entry import Entry
from compliance.release import verify_shown
from tests.world import START


def _at(minutes: int) -> datetime:
    return START + timedelta(minutes=minutes)


def _words(*told: tuple[int, int, bool]) -> list[Any]:
    """Of (index, minute, allow)."""
    made = []
    for index, minute, allow in told:
        entry = Entry.model_construct(index=index, at=rfc3339(_at(minute)))
        made.append((entry, SimpleNamespace(decision=SimpleNamespace(allow=allow))))
    return made


@pytest.mark.parametrize(
    ("told", "size", "minute", "denial"),
    [
        ([], 30, 60, None),
        ([(5, 0, False)], 30, 60, 5),
        ([(5, 0, False)], 30, 0, 5),  # the checkpoint holds the denial, whatever the witness's clock says
        ([(5, 0, True), (9, 1, False)], 30, 60, 9),
        ([(5, 0, False), (9, 1, True)], 30, 60, None),
        ([(5, 0, False), (40, 50, True)], 30, 60, None),  # shown an hour later, by then allowed
        ([(5, 0, False), (40, 74, True)], 30, 60, None),  # or perhaps: clocks differ
        ([(5, 0, False), (40, 76, True)], 30, 60, 5),  # cosigned before anybody allowed it
        ([(5, 0, False), (40, 60, True), (41, 61, False)], 30, 60, None),
        ([(5, 0, True), (40, 50, False)], 30, 60, None),  # shown before, perhaps
        ([(5, 0, True), (40, 44, False)], 30, 60, 40),
        ([(40, 44, False)], 30, 60, 40),
        ([(40, 46, False)], 30, 60, None),
        ([(31, 44, True), (40, 46, False)], 30, 60, None),
    ],
    ids=str,
)
def test_the_denial_that_stood(told: list[tuple[int, int, bool]], size: int, minute: int, denial: int | None) -> None:
    found = verify_shown._stood(_words(*told), size, _at(minute))
    assert (found.index if found else None) == denial

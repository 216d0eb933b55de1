"""Calls in the operator's log: what stands by itself, what is counted, and what happens when nothing can be written."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from compliance.errors import EnvironmentFault
from compliance.log.entry import MAX_ENCODED, new_entry
from compliance.log.store import LogStore
from compliance.trust.home import OperatorHome
from server.calls import CONTROL, FLEET, MOST_REFUSED, MOST_SINGLE, OK, POLL, Call, CallLog, batch
from tests.desk import ok

AT = "2026-11-21T10:00:00Z"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    ok("consortium", "init", "x", "--operator", "hub", "--jurisdiction", "IE", "--threshold", 1,
       "--server", "127.0.0.1:9092", "--home", tmp_path / "hub")  # fmt: skip
    return tmp_path / "hub"


def written(home: Path) -> list[dict[str, Any]]:
    signer = OperatorHome(home).signer()
    with LogStore.open(home / "log.db", "residency/x/hub", signer.private) as log:
        log.fsck()
        return [part for e in log.entries(kind="calls") if e.study == "" for part in e.body["calls"]]


def test_single_calls_have_their_time_and_data_calls_are_counted(home: Path) -> None:
    calls = CallLog(home)
    for _ in range(3):
        calls.note(FLEET, "push-object", "berlin", OK)
        calls.note(FLEET, "pull-messages", "berlin", POLL)
    calls.note(FLEET, "push-object", "leeds", "RSD-6207")
    calls.note(CONTROL, "start-run", "", OK)
    calls.close()
    found = written(home)
    assert [p for p in found if "count" in p] == [
        {"surface": FLEET, "method": "push-object", "site": "berlin", "outcome": OK, "count": 3}
    ]
    single = [(p["method"], p["outcome"]) for p in found if "at" in p]
    assert single == [("push-object", "RSD-6207"), ("start-run", OK)]
    assert len(found) == 3


def test_a_batch_is_on_disk_soon(home: Path) -> None:
    calls = CallLog(home)
    calls.note(CONTROL, "start-run", "", OK)
    end = time.monotonic() + 10
    while not written(home):
        assert time.monotonic() < end
        time.sleep(0.05)
    calls.close()


def test_a_flood_of_refused_calls_is_bounded_and_complete() -> None:
    flood = [Call("door", f"method-{i % 7}", "é" * 1000, "http-404", AT) for i in range(5000)]
    flood += [Call(CONTROL, "start-run", "", OK, AT)] * 1000
    drafts = batch(flood)
    parts = [part for draft in drafts for part in draft.body["calls"]]
    assert sum(part.get("count", 1) for part in parts) == 6000
    assert len(parts) <= MOST_SINGLE + 1 + MOST_REFUSED + 7
    for draft in drafts:
        assert len(new_entry(2**40, AT, draft.kind, draft.body).encode()) <= MAX_ENCODED


@pytest.mark.parametrize(
    ("flood", "most"),
    [
        ([("ipv4:192.0.2.1", "RSD-6212")], 20_000),  # ten seconds of it; one caller
        ([("ipv4:192.0.2.1", "RSD-6303")], 5_000),
        ([(f"ipv6:[2001:db8::{i:x}]", "RSD-6212") for i in range(1000)], 70_000),  # whoever has a whole network
        ([(f"ipv6:[2001:db8::{i:x}]", "RSD-6303") for i in range(1000)], 35_000),
    ],
)
def test_an_outsider_does_not_decide_how_fast_the_log_grows(flood: list[tuple[str, str]], most: int) -> None:
    calls = [Call("enrolment", "Enrol", *flood[i % len(flood)], AT) for i in range(1000)]
    drafts = batch(calls) * 10
    assert sum(part.get("count", 1) for draft in drafts for part in draft.body["calls"]) == 10_000
    assert sum(len(new_entry(2**40, AT, draft.kind, draft.body).encode()) for draft in drafts) < most


def test_what_is_refused_for_its_number_is_only_counted() -> None:
    (draft,) = batch([Call("enrolment", "Enrol", "ipv4:192.0.2.1", "RSD-6303", AT)])
    assert [("at" in part, part["count"]) for part in draft.body["calls"]] == [(False, 1)]


def test_noting_costs_next_to_nothing(home: Path) -> None:
    calls = CallLog(home)
    start = time.perf_counter()
    for _ in range(10_000):
        calls.note(FLEET, "push-object", "berlin", OK)
    seconds = time.perf_counter() - start
    calls.close()
    assert seconds < 1.0  # 0.1 ms each; measured 2 to 5 us
    assert sum(p["count"] for p in written(home)) == 10_000


def test_what_cannot_be_written_is_trouble_and_not_lost_silently(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = CallLog(home)

    def full(drafts: object) -> None:
        raise EnvironmentFault("RSD-5030", "disk full")

    monkeypatch.setattr(calls._log, "append_many", full)
    calls.note(CONTROL, "start-run", "", OK)
    end = time.monotonic() + 10
    while calls.trouble is None:
        assert time.monotonic() < end
        time.sleep(0.02)
    calls.note(CONTROL, "start-run", "", OK)
    with pytest.raises(EnvironmentFault) as e:
        calls.close()
    assert e.value.code == "RSD-5030"

"""kill -9, two spenders, a full disk: with real processes on a real file."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compliance.errors import EnvironmentFault, Refused
from compliance.privacy.events import PrivacyEvent
from compliance.privacy.ledger import Ledger
from tests import programs

ROOT = Path(__file__).resolve().parents[2]
PREAMBLE = """
import sys
from pathlib import Path
from compliance.errors import ResidencyError
from compliance.privacy.events import PrivacyEvent
from compliance.privacy.ledger import Ledger

def event(steps):
    return PrivacyEvent(
        noise_multiplier_micro=1_600_000, sample_numerator=1, sample_denominator=4, steps=steps, unit="record"
    )

path = Path(sys.argv[1])
"""
CHARGE_FOR_EVER = """
ledger = Ledger.open(path)
first = len(ledger.charges("study"))
print("ready", flush=True)
for number in range(first + 1, 20_000):
    charge = ledger.charge("s", "study", number, 1, event(1))
    print(f"{charge.round} {charge.seq} {charge.head}", flush=True)
"""
RESERVE_ONCE = """
ledger = Ledger.open(path)
print("ready", flush=True)
sys.stdin.readline()
try:
    ledger.reserve("s", sys.argv[2], event(80), 8000, 10**5)
    print("won", flush=True)
except ResidencyError as e:
    print(e.code, flush=True)
"""
CHARGE_ONCE = """
ledger = Ledger.open(path)
print("ready", flush=True)
sys.stdin.readline()
for number in range(1, 21):
    try:
        ledger.charge("s", "study", number, 1, event(1))
        print("won", number, flush=True)
    except ResidencyError as e:
        print(e.code, number, flush=True)
"""
KILLED_INSIDE = """
import os, signal

ledger = Ledger.open(path)
name = {"inserted": "_append", "committed": "_read"}[sys.argv[3]]
real, calls = getattr(ledger, name), []

def dying(*args):
    out = real(*args)
    calls.append(name)
    if len(calls) == (1 if name == "_append" else 2):  # the second reading comes after the commit
        os.kill(os.getpid(), signal.SIGKILL)
    return out

setattr(ledger, name, dying)
act = {
    "reserve": lambda: ledger.reserve("s", "other", event(1), 8000, 10**5),
    "charge": lambda: ledger.charge("s", "study", 1, 1, event(1)),
    "limit": lambda: ledger.set_limit("s", 5000, 10**5),
}[sys.argv[2]]
act()
"""
OPEN_FIRST = """
sys.stdin.readline()
with Ledger.open(path) as ledger:
    ledger.set_limit(sys.argv[2], 1000, 10**5)
print("opened", flush=True)
"""


def event(steps: int) -> PrivacyEvent:
    return PrivacyEvent(
        noise_multiplier_micro=1_600_000, sample_numerator=1, sample_denominator=4, steps=steps, unit="record"
    )


def start(script: str, *args: str) -> subprocess.Popen[str]:
    programs.start()
    return programs.Forked(
        [sys.executable, "-c", PREAMBLE + script, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def make(path: Path, epsilon_milli: int, study_steps: int | None = None) -> None:
    with Ledger.open(path) as ledger:
        ledger.set_limit("s", epsilon_milli, 10**5)
        if study_steps is not None:
            ledger.reserve("s", "study", event(study_steps), 8000, 10**5)


def charge_all(ledger: Ledger) -> None:
    for number in range(1, 81):
        ledger.charge("s", "study", number, 1, event(1))


def race(children: list[subprocess.Popen[str]], *, wait_ready: bool = True) -> list[list[str]]:
    """Let all children go at once; their lines of output. A child's failure is the test's failure."""
    for child in children:
        if wait_ready:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    lines = []
    for child in children:
        out, err = child.communicate(timeout=60)
        assert child.returncode == 0, err
        lines.append(out.splitlines())
    return lines


def test_a_charge_that_returned_is_there_after_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    make(path, 1_000_000, study_steps=20_000)
    returned: list[str] = []
    for delay_ms in (0, 3, 11, 23, 40, 61):
        child = start(CHARGE_FOR_EVER, str(path))
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        returned.append(child.stdout.readline().strip())
        time.sleep(delay_ms / 1000)
        os.kill(child.pid, signal.SIGKILL)
        rest = child.stdout.read()  # not communicate(): it would lose what readline() has buffered
        child.communicate(timeout=30)
        returned += [line for line in rest.split("\n")[:-1] if line]  # the last piece may be cut
        with Ledger.open(path) as ledger:
            kept = {c.round: f"{c.round} {c.seq} {c.head}" for c in ledger.charges("study")}
            assert set(returned) <= set(kept.values())
            # at most the one charge that was on its way when each process died, and each exactly once
            assert len(returned) <= len(kept) <= len(returned) + 6
            assert sorted(kept) == list(range(1, len(kept) + 1))
            held = ledger.reservation("s", "study")
            assert held is not None
            assert held.spent[0][0] == len(kept)
    assert len(returned) > 6


@pytest.mark.parametrize("kind", ["reserve", "charge", "limit"])
@pytest.mark.parametrize(("point", "there"), [("inserted", False), ("committed", True)])
def test_kill_9_inside_a_write_leaves_the_entry_whole_or_absent(
    tmp_path: Path, kind: str, point: str, there: bool
) -> None:
    """Absent before the commit, whole after it; the next one goes on from there: no attempt is charged twice."""
    path = tmp_path / "ledger.db"
    make(path, 11_000, study_steps=40)
    child = start(KILLED_INSIDE, str(path), kind, point)
    assert child.wait(60) == -signal.SIGKILL
    child.communicate()
    with Ledger.open(path) as ledger:
        assert [r["kind"] for r in ledger.show("s")] == ["limit", "reserve", *([kind] if there else [])]
        assert [r["seq"] for r in ledger.show("s")] == list(range(1, 4 if there else 3))
        assert len(ledger.charges("study")) == (kind == "charge" and there)
        if kind == "charge" and there:
            with pytest.raises(Refused, match="RSD-4105"):
                ledger.charge("s", "study", 1, 1, event(1))
        else:
            assert ledger.charge("s", "study", 1, 1, event(1)).seq == 3 + there


def test_two_processes_race_for_the_last_budget_and_one_wins(tmp_path: Path) -> None:
    for attempt in range(2):
        path = tmp_path / f"{attempt}.db"
        make(path, 11_000)
        out = race([start(RESERVE_ONCE, str(path), name) for name in ("one", "two")])
        assert sorted(line for lines in out for line in lines) == ["RSD-4101", "won"]
        with Ledger.open(path) as ledger:
            assert ledger.spent("s") <= 11_000


def test_two_processes_race_for_each_attempt_and_one_gets_it(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    make(path, 11_000, study_steps=80)
    out = race([start(CHARGE_ONCE, str(path)) for _ in range(2)])
    for number in range(1, 21):
        mine = sorted(line.split()[0] for lines in out for line in lines if line.split()[1] == str(number))
        assert mine == ["RSD-4105", "won"]
    with Ledger.open(path) as ledger:
        assert [c.seq for c in ledger.charges("study")] == list(range(3, 23))


def test_several_processes_create_the_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ledger.db"
    out = race([start(OPEN_FIRST, str(path), f"s{i}") for i in range(4)], wait_ready=False)
    assert out == [["opened"]] * 4
    with Ledger.open(path) as ledger:
        assert ledger.sources() == ("s0", "s1", "s2", "s3")


def test_a_full_database_refuses_and_keeps_what_it_had(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    make(path, 11_000, study_steps=80)
    with Ledger.open(path) as ledger:
        pages = ledger._connection.execute("PRAGMA page_count").fetchone()[0]
        ledger._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(EnvironmentFault, match="RSD-4120"):
            charge_all(ledger)
        done = ledger.charges("study")[-1].round
        assert 0 < done < 80
        assert len(ledger.charges("study")) == done
        ledger._connection.execute(f"PRAGMA max_page_count = {pages + 100}")
        assert ledger.charge("s", "study", done + 1, 1, event(1)).seq == done + 3
    with Ledger.open(path) as again:
        assert len(again.charges("study")) == done + 1


def test_a_disk_that_takes_no_more_bytes_stops_the_charge(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    make(path, 11_000, study_steps=80)
    child = subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + CHARGE_FOR_EVER, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=_little_room,  # noqa: PLW1509 - no threads here
    )
    out, err = child.communicate(timeout=60)
    assert child.returncode == 1
    assert "RSD-4120" in err
    returned = out.splitlines()[1:]
    with Ledger.open(path) as ledger:
        kept = [f"{c.round} {c.seq} {c.head}" for c in ledger.charges("study")]
        assert kept == returned
        ledger.charge("s", "study", len(kept) + 1, 1, event(1))
    assert 0 < len(kept) < 79


def _little_room() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

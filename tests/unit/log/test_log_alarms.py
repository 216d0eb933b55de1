"""Alarms: told once per cause, on stderr and in the log, for as long as they stand."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from compliance import clock
from compliance.clock import now, parse_time, rfc3339
from compliance.codes_index import index
from compliance.doctor_facts import alarms_check, others_check
from compliance.errors import CheckFailed, EnvironmentFault, Refused
from compliance.log import alarms, cosign, note
from compliance.log.alarms import TITLES, alarm, alarms_of, of_checkpoint, of_silence, raise_alarm, standing
from compliance.log.order import refuse_set_back
from compliance.log.store import LogStore
from compliance.log.view import read_views
from compliance.log.witness import WitnessStore

KEY, WITNESS = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
ORIGIN = "residency/tiny/a"
STUDY = "ab" * 32


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LogStore]:
    with LogStore.open(tmp_path / "log.db", ORIGIN, KEY) as opened:
        yield opened


def fork(about: str = "residency/tiny/b") -> alarms.Alarm:
    return alarm("RSD-5040", about, found="5 entries with root 00", limit="5 entries with root 01")


def test_an_alarm_is_told_once_per_cause_on_stderr_and_in_the_log(
    log: LogStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert raise_alarm(log, fork(), STUDY)
    assert not raise_alarm(log, fork(), STUDY)
    assert raise_alarm(log, fork("residency/tiny/c"))
    told = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in told] == ["ALARM RSD-5040 fork"] * 2
    first, second = alarms_of(log)
    assert (first.index, first.code, first.about) == (0, "RSD-5040", "residency/tiny/b")
    assert second.about == "residency/tiny/c"
    assert log.entry(0).study == STUDY
    log.close()
    (view,) = read_views(tmp_path / "log.db")
    assert alarms_of(view) == (first, second)


def test_an_alarm_is_in_the_log_though_nobody_reads_stderr(log: LogStore, monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr("sys.stderr", Closed())
    assert raise_alarm(log, fork())
    assert [a.code for a in alarms_of(log)] == ["RSD-5040"]


def test_an_alarm_stands_for_thirty_days_and_may_be_told_again_then(
    log: LogStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = now()
    raise_alarm(log, fork())
    (told,) = alarms_of(log)
    before, after = start + timedelta(days=29, hours=23), start + timedelta(days=30, minutes=1)
    assert standing([told], before) == (told,)
    assert standing([told], after) == ()
    assert (alarms_check([told], before).state, alarms_check([told], after).state) == ("fail", "ok")
    assert "fork, residency/tiny/b (entry 0, RSD-5040)" in alarms_check([told], before).found
    for module in (alarms, clock):
        monkeypatch.setattr(module, "now", lambda: after)
    assert raise_alarm(log, fork())
    assert len(alarms_of(log)) == 2


def test_an_alarm_that_a_wild_clock_dated_silences_nothing_once_the_clock_is_right(
    log: LogStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = now()
    for module in (alarms, clock):
        monkeypatch.setattr(module, "now", lambda: start + timedelta(days=2000))
    assert raise_alarm(log, fork())
    for module in (alarms, clock):
        monkeypatch.setattr(module, "now", lambda: start)
    assert [raise_alarm(log, fork()) for _ in range(2)] == [True, False]


def test_what_a_peer_wrote_cannot_forge_lines_or_fill_the_log(
    log: LogStore, capsys: pytest.CaptureFixture[str]
) -> None:
    raise_alarm(log, alarm("RSD-5041", "x\nALARM forged\x1b[2J" + "y" * 9000, found="z\n" * 90_000, limit="\x00"))
    (line,) = capsys.readouterr().err.splitlines()
    assert "\x1b" not in line
    assert len(log.entry(0).encode()) < 3000


def test_a_log_that_cannot_be_written_is_said_all_the_same(
    log: LogStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise EnvironmentFault("RSD-5030", "disk full")

    monkeypatch.setattr(log, "append", full)
    with pytest.raises(EnvironmentFault):
        raise_alarm(log, fork())
    assert "ALARM RSD-5040" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "proved", "direct", "told"),
    [
        ("RSD-5040", False, False, True),
        ("RSD-5042", False, False, True),
        ("RSD-5011", True, False, True),
        ("RSD-5011", False, True, False),
        ("RSD-5041", False, True, True),
        ("RSD-5041", False, False, False),
        ("RSD-5043", True, True, False),
        ("RSD-5002", True, True, False),
    ],
)
def test_what_speaks_against_a_log_is_an_alarm_and_nothing_else(
    code: str, proved: bool, direct: bool, told: bool
) -> None:
    found = of_checkpoint(CheckFailed(code, "no", found="x", limit="y"), ORIGIN, proved=proved, direct=direct)
    assert (found is not None) == told


@pytest.mark.parametrize(
    ("ahead", "told"), [(0, False), (299, False), (301, True), (10**9, True), (-299, False), (-301, True)]
)
def test_a_cosignature_from_a_clock_that_runs_wild_is_an_alarm_and_kept(
    log: LogStore, monkeypatch: pytest.MonkeyPatch, ahead: int, told: bool
) -> None:
    fixed = datetime(2026, 11, 22, tzinfo=UTC)
    for module in (alarms, clock):
        monkeypatch.setattr(module, "now", lambda: fixed)
    log.append("cancel", {"run": "run-1", "reason": "x"})
    text = log.checkpoint()
    line = cosign.cosign(note.parse(text).text, "w", WITNESS, int(fixed.timestamp()) + ahead).line()
    alarms.add_cosignature(log, 1, line, {"w": WITNESS.public_key()})
    assert log.cosigned_sizes() == {"w": 1}
    assert [a.code for a in alarms_of(log)] == ["RSD-5108"] * told


def test_a_cosignature_that_travels_late_is_no_alarm(log: LogStore, monkeypatch: pytest.MonkeyPatch) -> None:
    log.append("cancel", {"run": "run-1", "reason": "x"})
    text = log.checkpoint()
    line = cosign.cosign(note.parse(text).text, "w", WITNESS, int(now().timestamp())).line()
    late = now() + timedelta(days=3)
    monkeypatch.setattr(alarms, "now", lambda: late)
    alarms.add_cosignature(log, 1, line, {"w": WITNESS.public_key()})
    assert alarms_of(log) == ()


def test_a_clock_that_was_set_back_is_an_alarm_and_a_refusal(log: LogStore) -> None:
    log.append("cancel", {"run": "run-1", "reason": "x"})
    early = rfc3339(parse_time(log.entry(0).at) - timedelta(minutes=6))
    for _ in range(2):
        with pytest.raises(Refused) as refused:
            refuse_set_back(log, early)
        assert refused.value.code == "RSD-3065"
    assert [(a.code, a.about) for a in alarms_of(log)] == [("RSD-3065", ORIGIN)]


def test_silence_is_told_after_the_limit_and_not_before() -> None:
    at, limit = datetime(2026, 11, 22, tzinfo=UTC), timedelta(hours=24)
    day = timedelta(days=1)
    assert of_silence(ORIGIN, at - day, at, at - 9 * day, limit) is None
    assert of_silence(ORIGIN, at - 2 * day, at, at - day, limit) is None  # the run began only then
    assert of_silence(ORIGIN, None, at, at - day, limit) is None
    told = of_silence(ORIGIN, at - 2 * day, at, at - 9 * day, limit)
    assert told is not None
    assert (told.code, told.since) == ("RSD-5107", rfc3339(at - 2 * day))
    never = of_silence(ORIGIN, None, at, at - 2 * day, limit)
    assert never is not None
    assert "never" in never.found


def test_the_doctor_names_a_log_that_was_not_seen_to_grow(tmp_path: Path) -> None:
    path = tmp_path / "witness.db"
    assert others_check(path, [ORIGIN], now()).state == "ok"
    with LogStore.open(tmp_path / "log.db", ORIGIN, KEY) as log, WitnessStore(path, "w", WITNESS) as witness:
        log.append("cancel", {"run": "run-1", "reason": "x"})
        witness.cosign(log.checkpoint(), KEY.public_key(), 0, ())
    assert others_check(path, [ORIGIN], now() + timedelta(hours=23)).state == "ok"
    late = others_check(path, [ORIGIN, "residency/tiny/b"], now() + timedelta(hours=25))
    assert (late.state, ORIGIN in late.found, "tiny/b" in late.found) == ("warn", True, False)


def test_every_alarm_has_a_title_and_is_explained() -> None:
    assert set(TITLES) <= set(index())

"""The counters: durable, chained, bucketed, and in the windows that the regimes name."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from compliance.errors import InputError, Refused
from compliance.law.counters import EDGES, Counters, bucket
from compliance.law.decide import Engine, builtin_packs
from compliance.law.model import Count, Guarantees, Party, Transfer

US, CN, DE = (Party(name=f"clinic-{code.lower()}", jurisdiction=code) for code in ("US", "CN", "DE"))
RIVAL = Party(name="rival", jurisdiction="RU")
STUDY = "cd" * 32
AT = "2026-11-22T10:00:00Z"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "counters.db"


def _record(path: Path, *rows: tuple[str, Party, int, str], categories=("health",), study=STUDY) -> None:
    with Counters.open(path) as counters:
        for source, recipient, persons, at in rows:
            counters.record(study, source, recipient, persons, categories, at)


def _us(path: Path, at: str, persons: int = 0, source: str = "hospital", to: Party = RIVAL) -> Count:
    with Counters.open(path) as counters:
        (count,) = counters.counts(US, [to], source, persons, ("health",), at)
    return count


def _cn(path: Path, at: str, persons: int = 0, to: Party = DE) -> Count:
    with Counters.open(path) as counters:
        (count,) = counters.counts(CN, [to], "hospital", persons, ("health",), at)
    return count


def _rows(path: Path) -> int:
    with sqlite3.connect(path) as connection:
        found = connection.execute("SELECT count(*) FROM counted").fetchone()[0]
    connection.close()
    return int(found)


@pytest.mark.parametrize(
    ("persons", "edge"),
    [(0, 100), (100, 100), (101, 1000), (1000, 1000), (9_999, 9_999), (10_000, 100_000), (10**9, 10**9)],
)
def test_a_count_is_told_as_the_edge_above_it(persons, edge):
    assert bucket(persons) == edge
    assert bucket(EDGES[-1] + 1) > EDGES[-1]


def test_the_transfer_itself_is_counted_before_it_is_recorded(path):
    assert _us(path, AT, persons=900) == Count(
        counter="us_12_months", recipient="rival", at_most=1000, categories=("health",)
    )
    assert _rows(path) == 0


def test_studies_of_one_source_count_its_largest_number_and_sources_are_summed(path):
    _record(path, ("hospital", RIVAL, 900, AT), ("hospital", RIVAL, 400, AT))
    _record(path, ("hospital", RIVAL, 950, AT), study="ef" * 32)
    assert _us(path, AT, persons=800).at_most == 1000
    _record(path, ("registry", RIVAL, 60, AT))  # these may be the same persons: an upper bound counts them twice
    assert _us(path, AT, persons=800).at_most == 9_999


def test_each_country_has_its_own_window_and_categories_combine(path):
    _record(path, ("hospital", RIVAL, 5000, AT), categories=("genomic",))
    assert _us(path, AT).categories == ("genomic", "health")
    assert _us(path, AT).at_most == 9_999
    another = Party(name="another", jurisdiction="DE")
    assert _us(path, AT, to=another) == Count(
        counter="us_12_months", recipient="another", at_most=100, categories=("health",)
    )
    with Counters.open(path) as counters:
        both = counters.counts(US, [RIVAL, another, RIVAL], "hospital", 7, ("health",), AT)
    assert [(c.recipient, c.at_most) for c in both] == [("rival", 9_999), ("another", 100)]


@pytest.mark.parametrize(
    ("at", "inside"),
    [
        ("2026-11-22T09:59:59Z", True),
        ("2027-11-21T23:59:59Z", True),
        ("2027-11-22T23:59:59Z", True),
        ("2027-11-23T00:00:00Z", False),
    ],
)
def test_twelve_months_end_after_the_same_date_of_the_next_year(path, at, inside):
    _record(path, ("registry", RIVAL, 5000, AT))
    assert (_us(path, at).at_most == 9_999) is inside


@pytest.mark.parametrize(
    ("recorded", "at", "inside"),
    [
        ("2028-02-29T12:00:00Z", "2029-02-28T12:00:00Z", True),
        ("2028-02-29T12:00:00Z", "2029-03-01T00:00:00Z", False),
        ("2027-02-28T12:00:00Z", "2028-02-29T12:00:00Z", True),  # 366 days
        ("2027-02-27T12:00:00Z", "2028-02-29T12:00:00Z", False),
        ("2027-03-01T00:00:00Z", "2028-03-01T12:00:00Z", True),
    ],
)
def test_twelve_months_over_a_leap_day(path, recorded, at, inside):
    _record(path, ("registry", RIVAL, 5000, recorded))
    assert (_us(path, at).at_most == 9_999) is inside


@pytest.mark.parametrize(
    ("recorded", "at", "inside"),
    [
        ("2026-12-31T15:59:59Z", "2026-12-31T15:59:59Z", True),
        ("2026-12-31T15:59:59Z", "2026-12-31T16:00:00Z", False),  # midnight in China
        ("2026-12-31T16:00:00Z", "2027-06-01T00:00:00Z", True),
        ("2026-12-31T16:00:00Z", "2027-12-31T15:59:59Z", True),
        ("2026-01-01T00:00:00Z", "2026-12-31T00:00:00Z", True),
    ],
)
def test_a_calendar_year_is_one_in_china_time(path, recorded, at, inside):
    _record(path, ("registry", DE, 5000, recorded))
    assert (_cn(path, at).at_most == 9_999) is inside


def test_the_same_transfer_in_a_new_year_or_on_a_later_day_is_recorded_again(path):
    early, late = "2026-12-31T15:59:59Z", "2026-12-31T16:00:00Z"
    _record(path, ("registry", DE, 5000, early), ("registry", DE, 5000, early), ("registry", DE, 4000, early))
    assert _rows(path) == 1
    _record(path, ("registry", DE, 5000, late))
    assert _rows(path) == 2
    assert _cn(path, "2027-02-01T00:00:00Z").at_most == 9_999
    _record(path, ("registry", DE, 5000, "2027-06-01T00:00:00Z"), ("registry", DE, 5001, "2027-06-01T00:00:00Z"))
    assert _rows(path) == 4


def test_what_stays_in_china_is_not_counted_and_what_can_be_reached_from_outside_is(path):
    inside = Party(name="beijing", jurisdiction="CN")
    _record(path, ("hospital", inside, 5000, AT))
    assert _cn(path, AT, persons=5000, to=inside).at_most == 100
    reached = Party(name="beijing", jurisdiction="CN", access=("HK",))
    assert _cn(path, AT, persons=5000, to=reached).at_most == 9_999
    _record(path, ("hospital", reached, 5000, AT))
    assert _cn(path, AT, to=inside).at_most == 9_999
    _record(path, ("registry", Party(name="beijing", jurisdiction="HK"), 5000, AT))
    assert _cn(path, AT, to=inside).at_most == 100_000
    assert _cn(path, AT).recipient == "*"


@pytest.mark.parametrize(
    ("sent", "asked", "together"),
    [
        (("rival", "RU", ()), ("rival-two", "RU", ()), True),
        (("rival", "RU", ()), ("rival", "DE", ()), True),
        (("rival", "RU", ()), ("front", "DE", ("RU",)), True),
        (("front", "DE", ("RU",)), ("rival", "RU", ()), True),
        (("front", "DE", ("RU",)), ("other", "FR", ("RU",)), True),
        (("front", "DE", ("RU",)), ("clinic", "DE", ()), True),
        (("rival", "RU", ()), ("clinic", "DE", ()), False),
        (("rival", "RU", ()), ("another", "CN", ()), False),  # one entity in two countries is not seen
    ],
)
def test_names_are_no_entities_so_whoever_shares_a_place_is_counted_with(path, sent, asked, together):
    before, now = (Party(name=n, jurisdiction=j, access=a) for n, j, a in (sent, asked))
    _record(path, ("registry", before, 5000, AT))
    assert _us(path, AT, persons=5000, to=now).at_most == (100_000 if together else 9_999)


def test_one_institution_with_three_names_does_not_get_three_thresholds(path):
    engine = _american()
    effects = []
    for n, name in enumerate(("union-east", "union-west", "union-north")):
        to, source = Party(name=name, jurisdiction="CN"), f"source-{n}"
        with Counters.open(path) as counters:
            counts = counters.counts(US, [to], source, 9000, ("health",), AT)
            decision = engine.decide(_sent(to, counts))
            effects.append((decision.effect, decision.rule, counts[0].at_most))
            if decision.allow:
                counters.record(STUDY, source, to, 9000, ("health",), AT)
    concern = ("deny", "us-202.concern.health", 100_000)
    assert effects == [("allow", "us-202.update", 9_999), concern, concern]


@pytest.mark.parametrize(
    ("exporter", "to"), [(US, Party(name="union", jurisdiction="CN")), (CN, DE)], ids=["12-months", "calendar-year"]
)
def test_three_studies_on_three_sources_add_up(path, exporter, to):
    for n in range(3):
        told = (f"source-{n}", 9000, ("health",), AT)
        with Counters.open(path) as counters:
            (count,) = counters.counts(exporter, [to], *told)
            counters.record("abc"[n] * 64, f"source-{n}", to, *told[1:])
        assert count.at_most == (9_999, 100_000, 100_000)[n]
        if exporter is US:
            assert _american().decide(_sent(to, (count,))).allow is (n == 0)
    with Counters.open(path) as counters:  # a fourth study on the first source brings nobody new
        (again,) = counters.counts(exporter, [to], "source-0", 9000, ("health",), AT)
    assert again == count


def _american() -> Engine:
    packs = {"us-202": builtin_packs()["us-202"]}
    return Engine(packs, {"us-202": packs["us-202"].digest})


def _sent(to: Party, counts: tuple[Count, ...]) -> Transfer:
    return Transfer(
        artifact="dp_update", exporter=US, recipient=to, purpose="scientific_research", study=STUDY, counts=counts,
        guarantees=Guarantees(unit="record", epsilon_milli=3000), at="2026-11-22T10:00:00Z",
    )  # fmt: skip


def test_no_counter_of_anybody_else(path):
    with Counters.open(path) as counters:
        assert counters.counts(DE, [RIVAL], "hospital", 10, ("health",), AT) == ()


_KILLED = """
    import os, signal, sys
    from pathlib import Path
    from compliance.law.counters import Counters
    from compliance.law.model import Party
    counters = Counters.open(Path(sys.argv[1]))
    for day in range(1, 8):
        counters.record("", f"source-{day}", Party(name="rival", jurisdiction="RU"), 100, ("health",), "2026-11-22")
        print(day, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_recorded_survives_a_kill_before_the_decision(path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_KILLED), str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == -9, done.stderr
    assert _us(path, AT, source="source-1").at_most == 1000
    assert _rows(path) == len(done.stdout.split()) == 7


def test_the_file_is_the_owners_alone(path):
    _record(path, ("hospital", RIVAL, 1, AT))
    assert path.stat().st_mode & 0o777 == 0o600


def _change(statement: str):
    def change(path: Path) -> None:
        with sqlite3.connect(path) as connection:
            connection.execute(statement)
        connection.close()

    return change


def _overwrite(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[100:4000] = os.urandom(3900)
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    "damage",
    [
        _overwrite,
        lambda path: path.write_bytes(b"no database at all, only some text that is long enough" * 40),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:5000]),
        _change("UPDATE counted SET body = CAST(replace(body, '900', '100') AS BLOB) WHERE n = 1"),
        _change("UPDATE counted SET chain = '00' WHERE n = 0"),
        _change("DELETE FROM counted WHERE n = 1"),
        _change("DELETE FROM counted WHERE n = 2"),
        _change("DELETE FROM counted"),
        _change("UPDATE first SET chain = '00'"),
        _change("DELETE FROM head"),
        _change("UPDATE head SET size = 2"),
        _change("DROP TABLE head"),
        _change("DROP TABLE counted"),
    ],
    ids=[
        "overwritten", "no-database", "empty", "cut", "body", "chain", "middle-row", "last-row", "all-rows", "first",
        "no-head", "head", "no-head-table", "no-table",
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused(path, damage, monkeypatch):
    monkeypatch.setattr("compliance.law.counters._SETTLE_S", 0.1)
    _record(path, *((source, RIVAL, 900, AT) for source in ("a", "b", "c")))
    Counters.open(path).close()
    for beside in (path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        beside.unlink(missing_ok=True)
    damage(path)
    with pytest.raises(InputError, match="RSD-3050"):
        Counters.open(path)


def test_damage_while_it_is_open_is_refused_too(path):
    _record(path, ("a", RIVAL, 900, AT))
    with Counters.open(path) as counters:
        _change("UPDATE counted SET chain = '00'")(path)
        with pytest.raises(InputError, match="RSD-3050"):
            counters.counts(US, [RIVAL], "a", 1, ("health",), AT)
        with pytest.raises(InputError, match="RSD-3050"):
            counters.record(STUDY, "a", RIVAL, 901, ("health",), AT)


def test_a_clock_set_back_is_refused(path):
    _record(path, ("a", RIVAL, 900, AT))
    assert _us(path, "2026-11-22T09:55:00Z").at_most == 1000
    for at in ("2026-11-22T09:54:59Z", "2025-11-22T10:00:00Z"):
        with pytest.raises(Refused, match="RSD-3051"):
            _us(path, at)
        with pytest.raises(Refused, match="RSD-3051"):
            _record(path, ("a", RIVAL, 900, at))
    assert _rows(path) == 1


def test_a_file_put_back_lacks_the_link_that_somebody_noted(path):
    _record(path, ("a", RIVAL, 900, AT), ("b", RIVAL, 900, AT))
    older = path.read_bytes()
    _record(path, ("c", RIVAL, 900, AT))
    with Counters.open(path) as counters:
        size, chain = counters.head()
        assert (size, counters.holds(size, chain)) == (3, True)
        assert not counters.holds(size - 1, chain)
    _record(path, ("d", RIVAL, 900, AT))
    with Counters.open(path) as counters:
        assert counters.holds(size, chain)
    for beside in path.parent.glob("counters.db-*"):
        beside.unlink()
    path.write_bytes(older)
    with Counters.open(path) as counters:
        assert not counters.holds(size, chain)


def test_two_processes_create_the_file_at_once(path):
    code = textwrap.dedent(_KILLED).replace("os.kill(os.getpid(), signal.SIGKILL)", "").replace('"",', "sys.argv[2],")
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(path), study * 32], stdout=subprocess.DEVNULL)
        for study in ("aa", "bb")
    ]
    assert [process.wait() for process in started] == [0, 0]
    assert _rows(path) == 14
    assert _us(path, AT, source="source-1").at_most == 1000

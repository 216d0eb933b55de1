"""The ledger's rules, one refusal after the other, on a real file."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from compliance.canonical import canonical, sha256_hex
from compliance.errors import CheckFailed, EnvironmentFault, InputError, Refused
from compliance.privacy.events import PrivacyEvent
from compliance.privacy.ledger import Ledger
from compliance.privacy.ledger_records import LogHead
from compliance.privacy.rdp_filter import sampler_allowance_femto

STUDY = "a" * 64
OTHER = "b" * 64


def event(steps: int = 80, **more: object) -> PrivacyEvent:
    fields = {"noise_multiplier_micro": 1_600_000, "sample_numerator": 1, "sample_denominator": 4, "unit": "record"}
    return PrivacyEvent.model_validate({**fields, "steps": steps, **more})


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path / "ledger.db") as opened:
        opened.set_limit("site/thyroid", 11_000, 10**5)
        yield opened


def reserved(ledger: Ledger) -> Ledger:
    ledger.reserve("site/thyroid", STUDY, event(), 8000, 10**5)
    return ledger


def test_a_source_without_a_limit_gives_nothing(ledger: Ledger) -> None:
    for act in (
        lambda: ledger.reserve("elsewhere", STUDY, event(), 8000, 10**5),
        lambda: ledger.charge("elsewhere", STUDY, 1, 1, event(8)),
        lambda: ledger.left("elsewhere"),
    ):
        with pytest.raises(Refused, match="RSD-4100"):
            act()
    assert "elsewhere" not in ledger.sources()


def test_reserve_holds_the_whole_study_and_is_idempotent(ledger: Ledger) -> None:
    planned = ledger.plan("site/thyroid", event())
    assert planned.fits
    assert planned.left_milli == 11_000
    first = reserved(ledger).reservation("site/thyroid", STUDY)
    assert ledger.reserve("site/thyroid", STUDY, event(), 8000, 10**5) == first
    assert ledger.spent("site/thyroid") == planned.needed_milli == 11_000 - ledger.left("site/thyroid")
    assert ledger.balance("site/thyroid").charged_milli == 0
    assert len(ledger.show("site/thyroid")) == 2


def test_a_study_too_many_is_refused_with_needed_and_left(ledger: Ledger) -> None:
    planned = reserved(ledger).plan("site/thyroid", event())
    assert not planned.fits
    with pytest.raises(Refused) as refused:
        ledger.reserve("site/thyroid", OTHER, event(), 8000, 10**5)
    assert refused.value.code == "RSD-4101"
    assert refused.value.found == f"{planned.needed_milli} milli-eps needed"
    assert refused.value.limit == f"{ledger.left('site/thyroid')} milli-eps left"
    assert planned.needed_milli > planned.left_milli


def test_two_studies_compose_below_the_sum_of_their_eps(ledger: Ledger) -> None:
    small = event(10)
    alone = ledger.plan("site/thyroid", small).needed_milli
    ledger.reserve("site/thyroid", STUDY, small, 3000, 10**5)
    ledger.reserve("site/thyroid", OTHER, small, 3000, 10**5)
    assert alone < ledger.spent("site/thyroid") < 2 * alone


def test_another_event_or_claim_under_the_same_study_is_refused(ledger: Ledger) -> None:
    reserved(ledger)
    for changed, eps, inverse_delta in ((event(81), 8000, 10**5), (event(), 7999, 10**5), (event(), 8000, 10**5 - 1)):
        with pytest.raises(Refused, match="RSD-4107"):
            ledger.reserve("site/thyroid", STUDY, changed, eps, inverse_delta)


def test_units_do_not_mix_on_one_source(ledger: Ledger) -> None:
    reserved(ledger)
    with pytest.raises(Refused, match="RSD-4108"):
        ledger.reserve("site/thyroid", OTHER, event(1, unit="patient"), 8000, 10**5)


def test_the_samplers_errors_have_their_own_limit(ledger: Ledger) -> None:
    allowed = sampler_allowance_femto(11_000, 10**5)
    too_many, just = event(tv_error_femto=allowed + 1), event(tv_error_femto=allowed)
    assert not ledger.plan("site/thyroid", too_many).fits
    with pytest.raises(Refused, match="RSD-4103"):
        ledger.reserve("site/thyroid", STUDY, too_many, 8000, 10**5)
    assert ledger.plan("site/thyroid", just).fits
    ledger.reserve("site/thyroid", STUDY, just, 8000, 10**5)


def test_charges_are_numbered_chained_and_listed(ledger: Ledger) -> None:
    reserved(ledger)
    before = ledger.head("site/thyroid")
    one = ledger.charge("site/thyroid", STUDY, 1, 1, event(8))
    two = ledger.charge("site/thyroid", STUDY, 2, 1, event(8))
    assert (one.seq, two.seq) == (3, 4)
    assert len({before, one.head, two.head}) == 3
    assert ledger.head("site/thyroid") == two.head
    assert ledger.charges(STUDY) == (one, two)
    assert ledger.charges(OTHER) == ()
    row = ledger.show("site/thyroid")[-1]
    assert (row["kind"], row["round"], row["attempt"], row["steps"], row["rate"]) == ("charge", 2, 1, 8, "1/4")


def test_one_charge_per_attempt_and_no_gap(ledger: Ledger) -> None:
    reserved(ledger).charge("site/thyroid", STUDY, 1, 1, event(8))
    with pytest.raises(Refused, match="RSD-4105"):
        ledger.charge("site/thyroid", STUDY, 1, 1, event(8))
    with pytest.raises(Refused, match="RSD-4106"):
        ledger.charge("site/thyroid", STUDY, 1, 3, event(8))
    with pytest.raises(Refused, match="RSD-4106"):
        ledger.charge("site/thyroid", STUDY, 2, 2, event(8))
    with pytest.raises(InputError, match="RSD-4121"):
        ledger.charge("site/thyroid", STUDY, 2, 0, event(8))
    assert ledger.charge("site/thyroid", STUDY, 1, 2, event(8)).attempt == 2


@pytest.mark.parametrize(
    "other",
    [event(8, noise_multiplier_micro=1_599_999), event(8, sample_denominator=5), event(81), event(8, tv_error_femto=1)],
)
def test_nothing_beyond_the_reservation(ledger: Ledger, other: PrivacyEvent) -> None:
    reserved(ledger)
    with pytest.raises(Refused, match="RSD-4109"):
        ledger.charge("site/thyroid", STUDY, 1, 1, other)
    assert ledger.charges(STUDY) == ()


def test_steps_add_up_against_the_reservation(ledger: Ledger) -> None:
    reserved(ledger)
    for round_no in range(1, 11):
        ledger.charge("site/thyroid", STUDY, round_no, 1, event(8))
    with pytest.raises(Refused, match=r"RSD-4109.*88 steps"):
        ledger.charge("site/thyroid", STUDY, 11, 1, event(8))


def test_the_samplers_errors_add_up_against_the_reservation(ledger: Ledger) -> None:
    ledger.reserve("site/thyroid", STUDY, event(tv_error_femto=10), 8000, 10**5)
    ledger.charge("site/thyroid", STUDY, 1, 1, event(8, tv_error_femto=6))
    with pytest.raises(Refused, match=r"RSD-4109.*sampler error 11 femto"):
        ledger.charge("site/thyroid", STUDY, 2, 1, event(8, tv_error_femto=5))
    ledger.charge("site/thyroid", STUDY, 2, 1, event(8, tv_error_femto=4))
    ledger.release_unused(STUDY)
    held = ledger.reservation("site/thyroid", STUDY)
    assert held is not None
    assert held.held() == (event(16, tv_error_femto=10),)


def test_release_keeps_what_was_charged_and_closes(ledger: Ledger) -> None:
    reserved(ledger).charge("site/thyroid", STUDY, 1, 1, event(8))
    charged = ledger.balance("site/thyroid").charged_milli
    ledger.release_unused(STUDY)
    ledger.release_unused(STUDY)
    assert ledger.spent("site/thyroid") == charged > 0
    with pytest.raises(Refused, match="RSD-4104"):
        ledger.charge("site/thyroid", STUDY, 2, 1, event(8))
    with pytest.raises(Refused, match="RSD-4104"):
        ledger.reserve("site/thyroid", STUDY, event(), 8000, 10**5)


def test_release_closes_the_study_on_every_source(ledger: Ledger) -> None:
    ledger.set_limit("a/other", 11_000, 10**5)
    for source in ("a/other", "site/thyroid"):
        ledger.reserve(source, STUDY, event(), 8000, 10**5)
    ledger.release_unused(STUDY)
    assert [ledger.spent(source) for source in ledger.sources()] == [0, 0]


def test_an_entry_is_there_with_its_head_or_it_is_another_one(ledger: Ledger) -> None:
    charge = reserved(ledger).charge("site/thyroid", STUDY, 1, 1, event(8))
    assert ledger.holds("site/thyroid", charge.seq, charge.head)
    assert not ledger.holds("site/thyroid", charge.seq, "0" * 64)  # an older ledger, put back and charged again
    assert not ledger.holds("site/thyroid", charge.seq - 1, charge.head)
    assert not ledger.holds("site/thyroid", charge.seq + 1, charge.head)
    assert not ledger.holds("elsewhere", charge.seq, charge.head)


def test_a_study_that_never_reserved_cannot_charge(ledger: Ledger) -> None:
    with pytest.raises(Refused, match="RSD-4104"):
        ledger.charge("site/thyroid", STUDY, 1, 1, event(8))


def test_a_limit_is_lowered_freely_and_raised_by_policy_only(ledger: Ledger) -> None:
    reserved(ledger)
    ledger.set_limit("site/thyroid", 2000, 10**5)
    assert ledger.left("site/thyroid") == 0
    with pytest.raises(Refused, match="RSD-4101"):  # a lowered limit binds the reserved study at once
        ledger.charge("site/thyroid", STUDY, 1, 1, event(60))
    for eps, inverse_delta in ((2001, 10**5), (1000, 10**4)):
        with pytest.raises(Refused, match="RSD-4102"):
            ledger.set_limit("site/thyroid", eps, inverse_delta)
    ledger.set_limit("site/thyroid", 12_000, 10**5, policy_sha256="c" * 64)
    assert ledger.show("site/thyroid")[-1]["policy_sha256"] == "c" * 64
    with pytest.raises(Refused, match="RSD-4102"):
        ledger.set_limit("site/thyroid", 13_000, 10**5, policy_sha256="c" * 64)
    ledger.set_limit("site/thyroid", 11_000, 10**5, policy_sha256="d" * 64)
    with pytest.raises(Refused, match="RSD-4102"):  # the policy before it was taken back with it
        ledger.set_limit("site/thyroid", 12_000, 10**5, policy_sha256="c" * 64)
    ledger.charge("site/thyroid", STUDY, 1, 1, event(60))
    ledger.set_limit("site/thyroid", ledger.balance("site/thyroid").charged_milli, 10**5)
    with pytest.raises(Refused, match=r"RSD-4101.*0 milli-eps left"):  # what was charged before counts along
        ledger.charge("site/thyroid", STUDY, 2, 1, event(8))


@pytest.mark.parametrize(
    ("source", "eps", "inverse_delta", "policy"),
    [("", 1, 10, ""), ("x y", 1, 10, ""), ("x", 0, 10, ""), ("x", 1, 1, ""), ("x", 1, 10, "C" * 64)],
)
def test_bad_values_are_named(ledger: Ledger, source: str, eps: int, inverse_delta: int, policy: str) -> None:
    with pytest.raises(InputError, match="RSD-4121"):
        ledger.set_limit(source, eps, inverse_delta, policy)


def test_everything_survives_reopening_and_only_the_owner_reads(ledger: Ledger, tmp_path: Path) -> None:
    charge = reserved(ledger).charge("site/thyroid", STUDY, 1, 1, event(8))
    with Ledger.open(tmp_path / "ledger.db") as again:
        assert again.charges(STUDY) == (charge,)
        assert again.balance("site/thyroid") == ledger.balance("site/thyroid")
        assert again.charge("site/thyroid", STUDY, 2, 1, event(8)).seq == 4
    assert len(ledger.charges(STUDY)) == 2  # the first connection sees the second's entry
    for file in tmp_path.glob("ledger.db*"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_file_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.touch()
    path.chmod(0o644)
    with Ledger.open(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def _seen(size: int, origin: str = "residency/tiny/a") -> LogHead:
    return LogHead(origin, size, sha256_hex(b"%d" % size))


def test_a_charge_keeps_what_the_log_was_and_the_longest_counts(ledger: Ledger, tmp_path: Path) -> None:
    assert reserved(ledger).logs_seen() == {}
    ledger.set_limit("site/other", 11_000, 10**5)
    ledger.reserve("site/other", STUDY, event(), 8000, 10**5)
    for number, (source, head) in enumerate(
        [
            ("site/thyroid", _seen(5)),
            ("site/thyroid", _seen(9)),
            ("site/thyroid", _seen(3, "residency/elsewhere/a")),
            ("site/other", _seen(7)),
            ("site/other", _seen(4, "residency/elsewhere/a")),
            ("site/other", None),
        ],
        1,
    ):
        ledger.charge(source, STUDY, number, 1, event(8), head)
    wanted = {"residency/tiny/a": _seen(9), "residency/elsewhere/a": _seen(4, "residency/elsewhere/a")}
    assert ledger.logs_seen() == wanted
    with Ledger.open(tmp_path / "ledger.db") as again:
        assert again.logs_seen() == wanted


def test_a_ledger_of_before_charges_held_the_log_opens_and_goes_on(tmp_path: Path) -> None:
    """Rows as an earlier version wrote them, its note of the log in a table of its own among them."""
    with Ledger.open(tmp_path / "ledger.db"):
        pass
    with sqlite3.connect(tmp_path / "ledger.db") as db:
        db.executemany("INSERT INTO entries VALUES ('s', ?, '2026-11-22T18:24:40Z', ?, CAST(? AS BLOB), ?)", _EARLIER)
        db.execute("CREATE TABLE log_seen (one INTEGER PRIMARY KEY, origin TEXT, size INTEGER, root TEXT) STRICT")
        db.execute("INSERT INTO log_seen VALUES (1, 'residency/tiny/a', 5, ?)", ("00" * 32,))
    db.close()
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        assert (ledger.head("s"), ledger.logs_seen()) == (_EARLIER[-1][-1], {})
        assert ledger.charge("s", STUDY, 2, 1, event(8), _seen(6)).seq == 4
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        assert ledger.logs_seen() == {"residency/tiny/a": _seen(6)}
        assert [c.round for c in ledger.charges(STUDY)] == [1, 2]


_EVENT = (
    '"event":{"adjacency":"add_remove","mechanism":"poisson_gaussian","noise_multiplier_micro":1600000,'
    '"sample_denominator":4,"sample_numerator":1,"steps":%d,"tv_error_femto":0,"unit":"record"}'
)
_EARLIER = (
    (
        1, "limit", '{"epsilon_milli":11000,"inverse_delta":100000,"policy_sha256":""}',
        "f9be38d7a0989eb1a8d4b58e7c1ec45202e612064bebb88797c75f448d35b362",
    ),
    (
        2, "reserve", '{"also":[],"claim_epsilon_milli":8000,"claim_inverse_delta":100000,' + _EVENT % 80
        + f',"study":"{STUDY}","units":["record"]}}',
        "3057160a55f6c111ca2ffe254d193d480c2a7fdda98163b78143177331033e04",
    ),
    (
        3, "charge", '{"attempt":1,' + _EVENT % 8 + f',"round":1,"study":"{STUDY}"}}',
        "43932a2256083bdd2d2380d1c76eba5851cf87f4286af9dc6bbe5f56774beb64",
    ),
)  # fmt: skip


def _damage(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as db:
        db.executescript("DROP TRIGGER entries_stay; DROP TRIGGER entries_last;" + statement)
    db.close()


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM entries WHERE seq = 3",
        "UPDATE entries SET body = CAST(replace(body, '\"steps\":8,', '\"steps\":7,') AS BLOB) WHERE seq = 3",
        "UPDATE entries SET at = '2020-01-01T00:00:00Z' WHERE seq = 2",
        "UPDATE entries SET kind = 'reserve' WHERE seq = 3",
        "UPDATE entries SET source = 'other' WHERE seq = 4",
        "UPDATE entries SET body = CAST(replace(body, '\"size\":9', '\"size\":8') AS BLOB) WHERE seq = 4",
        "UPDATE entries SET body = CAST(json_remove(CAST(body AS TEXT), '$.log') AS BLOB) WHERE seq = 4",
    ],
)
def test_an_altered_ledger_does_not_open(ledger: Ledger, tmp_path: Path, statement: str) -> None:
    reserved(ledger)
    ledger.charge("site/thyroid", STUDY, 1, 1, event(8))
    ledger.charge("site/thyroid", STUDY, 2, 1, event(8), _seen(9))
    ledger.close()
    _damage(tmp_path / "ledger.db", statement)
    with pytest.raises(CheckFailed, match="RSD-4110"):
        Ledger.open(tmp_path / "ledger.db")


@pytest.mark.parametrize(
    "body", [b'{"study":"' + STUDY.encode() + b'"}', b"[]", b'{"also":[],"event":{"sigma":1},"study":"x"}']
)
@pytest.mark.parametrize("kind", ["limit", "reserve", "charge", "release"])
def test_entries_with_other_fields_are_of_another_version(
    ledger: Ledger, tmp_path: Path, kind: str, body: bytes
) -> None:
    """The chain is whole: nobody altered it."""
    ledger.close()
    source, at = "site/thyroid", "2026-01-01T00:00:00Z"
    with sqlite3.connect(tmp_path / "ledger.db") as db:
        (head,) = db.execute("SELECT head FROM entries").fetchone()
        entry = {"source": source, "seq": 2, "at": at, "kind": kind, "body_sha256": sha256_hex(body)}
        head = sha256_hex(bytes.fromhex(head) + canonical(entry))
        db.execute("INSERT INTO entries VALUES (?, 2, ?, ?, ?, ?)", (source, at, kind, body, head))
    db.close()
    with pytest.raises(EnvironmentFault) as fault:
        Ledger.open(tmp_path / "ledger.db")
    assert (fault.value.code, fault.value.limit) == ("RSD-4111", "residency.ledger/2")
    assert "use the version that wrote it" in (fault.value.next or "")


def test_a_file_of_another_form_is_told_apart_from_an_altered_one(ledger: Ledger, tmp_path: Path) -> None:
    ledger.close()
    for version in (0, 1, 3):
        with sqlite3.connect(tmp_path / "ledger.db") as db:
            db.execute(f"PRAGMA user_version = {version}")
        db.close()
        with pytest.raises(EnvironmentFault) as fault:
            Ledger.open(tmp_path / "ledger.db")
        assert (fault.value.code, fault.value.found) == ("RSD-4111", f"residency.ledger/{version or 1}")


def test_a_file_that_is_no_ledger_is_an_environment_fault(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"not a database" * 100)
    with pytest.raises(EnvironmentFault, match="RSD-4120"):
        Ledger.open(tmp_path / "x.db")


def test_entries_cannot_be_changed_through_sql(ledger: Ledger, tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "ledger.db")
    for statement in ("DELETE FROM entries", "UPDATE entries SET seq = 9"):
        with pytest.raises(sqlite3.IntegrityError, match="append only"):
            db.execute(statement)
    db.close()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_round_and_the_evaluation_are_each_paid_from_their_own_part(ledger: Ledger, order: tuple[int, int]) -> None:
    """Also where both are the same mechanism: neither can use up what the other holds."""
    one = event(1, sample_denominator=1, noise_multiplier_micro=4_000_000)
    ledger.reserve("site/thyroid", STUDY, one, 8000, 10**5, also=(one,))
    for round_ in order:
        ledger.charge("site/thyroid", STUDY, round_, 1, one)
        once_more = (0, 2) if round_ == 0 else (2, 1)
        with pytest.raises(Refused, match="RSD-4109"):
            ledger.charge("site/thyroid", STUDY, *once_more, one)
    assert ledger.reservation("site/thyroid", STUDY).charged() == (one, one)  # type: ignore[union-attr]


def test_a_study_without_an_evaluation_pays_for_none(ledger: Ledger) -> None:
    with pytest.raises(Refused, match="RSD-4109"):
        reserved(ledger).charge("site/thyroid", STUDY, 0, 1, event(8))


@pytest.mark.parametrize("act", ["removed", "replaced", "write-ahead file removed"])
def test_a_charge_in_a_file_that_nobody_finds_is_no_charge(ledger: Ledger, tmp_path: Path, act: str) -> None:
    reserved(ledger)
    ledger.charge("site/thyroid", STUDY, 1, 1, event(8))
    path = tmp_path / "ledger.db"
    if act == "replaced":
        (tmp_path / "copy.db").write_bytes(path.read_bytes())
        (tmp_path / "copy.db").replace(path)
    else:
        (path if act == "removed" else tmp_path / "ledger.db-wal").unlink()
    for write in (
        lambda: ledger.charge("site/thyroid", STUDY, 2, 1, event(8)),
        lambda: ledger.set_limit("site/thyroid", 10_000, 10**5),
        lambda: ledger.release_unused(STUDY),
    ):
        with pytest.raises(EnvironmentFault, match="RSD-4120"):
            write()

"""A withdrawal: no further batch with the subject, nothing derived stays or leaves, nobody is told who it was."""

import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from click.testing import CliRunner

from client import registration, session, subjects
from client.data import withdrawals
from client.data.withdrawals import excluded_rows, stop_file
from client.home import AgentHome
from client.stop_file import stop_mark
from compliance.canonical import parse_canonical
from compliance.errors import CheckFailed, EnvironmentFault, Refused, RunFailed
from residency import cli
from tests.desk import ok
from tests.federation import (
    DATA_TERMS,
    DATASET,
    StandIn,
    entries,
    environment,
    in_child,
    joined_home,
    main_study,
    open_home,
)
from tests.tiny_bert import write_table

FIRST = "9000"  # the identifier of row 0 of the table


@pytest.fixture
def home(tmp_path):
    """The home of site a after it joined the study."""
    return AgentHome(joined_home("a", tmp_path))


def _withdraw(home, *ids, ground="consent"):
    """By the public command."""
    done = _run_withdraw(home, "\n".join(ids).encode(), ground)
    assert done.exit_code == 0, done.output
    return done


def _run_withdraw(home, data, ground="consent"):
    words = ["agent", "subject", "withdraw", "--home", str(home.path), "--ground", ground]
    return CliRunner().invoke(cli, words, input=data)


def _as_another_process(home, *ids):
    """By the public command, beside the agent."""
    words = ["agent", "subject", "withdraw", "--home", str(home.path), "--ground", "consent"]
    subprocess.run(
        [sys.executable, "-m", "residency", *words], input="\n".join(ids).encode(), env=environment(), check=True
    )


def _here(home, *ids, ground="consent"):
    return subjects.withdraw(home, subjects.read_ids("\n".join(ids).encode()), ground)


def _sha(home):
    return home.registry().datasets[0].sha256


class Watching(StandIn):
    """Keeps the cases that it was asked to train, and lets something happen in the middle of it."""

    def __init__(self, during=lambda _: None):
        super().__init__()
        self.cases, self._during = [], during

    def train(self, case, cache, *rest):
        self.cases.append(case)
        cache.mkdir(exist_ok=True)
        (cache / "trunk.safetensors").write_bytes(b"patient data")
        self._during(case)
        return super().train(case, cache, *rest)


def _answer(home, request, bench=None):
    with open_home(home.path) as site:
        site.workbench = bench or Watching()
        return session.answer(site, request)


def _failed(home, request, bench=None):
    with pytest.raises(RunFailed) as error:
        _answer(home, request, bench)
    return error.value.code


def _round_folder(home, number=1):
    return home.study_folder(main_study().digest) / "rounds" / f"{number:03d}"


def _cache(home):
    return home.study_folder(main_study().digest) / "cache"


def _charges(home):
    with home.ledger() as ledger:
        return [(c.round, c.attempt) for c in ledger.charges(main_study().digest)]


# --- left out from the next batch on --------------------------------------------------------------------------------


def test_the_rows_are_left_out_and_the_stop_file_changes(home):
    stop = stop_file(home.path, "a-clinic")
    assert excluded_rows(home.path, DATASET, _sha(home)) == ()
    assert not stop.exists()
    _withdraw(home, "9007", FIRST)
    assert excluded_rows(home.path, DATASET, _sha(home)) == (0, 7)
    first = stop.read_bytes()
    _withdraw(home, "9100", ground="erasure")
    assert excluded_rows(home.path, DATASET, _sha(home)) == (0, 7, 100)
    assert stop.read_bytes() != first


def test_the_next_round_is_asked_for_without_them_and_with_the_same_public_numbers(home):
    before = Watching()
    _answer(home, main_study().round(), before)
    _here(home, FIRST)
    after = Watching()
    _answer(home, main_study().round(round=2), after)
    assert (before.cases[0].excluded, after.cases[0].excluded) == ((), (0,))
    assert before.cases[0].stop_mark != after.cases[0].stop_mark
    one, two = before.specs[0].model_dump(), after.specs[0].model_dump()
    assert {**one, "round": 2} == two
    assert before.cases[0].dataset.declared == after.cases[0].dataset.declared


def test_identifiers_count_however_they_are_written(home):
    _here(home, " 09000 ", "9001.0", "9002\r", "9002")
    assert excluded_rows(home.path, DATASET, _sha(home)) == (0, 1, 2)


def test_a_later_extract_leaves_them_out_without_being_told(home, tmp_path):
    _here(home, FIRST, "424242")
    table = write_table(tmp_path / "later.csv", 5)
    table.write_text(table.read_text() + "1.0,50,-,424242\n")
    record = registration.add_dataset(home, "later", table, "clinic", ["patient_id"], DATA_TERMS).record
    assert excluded_rows(home.path, "later", record.sha256) == (0, 5)
    assert record.source == "a-clinic"  # the rest inherits all the same


def test_several_columns_are_separated_by_tabs(home, tmp_path):
    table = tmp_path / "two.csv"
    table.write_text("TSH,ward,number\n1,A,1\n2,A,2\n3,B,1\n")
    record = registration.add_dataset(home, "two", table, "wards", ["ward", "number"], DATA_TERMS).record
    _here(home, "a\t1")
    assert excluded_rows(home.path, "two", record.sha256) == (0,)


def test_an_extract_that_the_index_does_not_know_is_not_trained_on(home):
    with pytest.raises(CheckFailed) as error:
        excluded_rows(home.path, DATASET, "0" * 64)
    assert error.value.code == "RSD-2417"
    (home.path / "rows.db").unlink()
    with pytest.raises(CheckFailed):
        _answer(home, main_study().round())
    assert _charges(home) == []


# --- an attempt that runs, and updates that wait ------------------------------------------------------------------


def test_an_attempt_that_runs_ends_as_failed_and_is_not_drawn_again(home):
    """The command is another process; the agent is in the middle of the training."""
    bench = Watching(lambda _: _as_another_process(home, FIRST))
    assert _failed(home, main_study().round(), bench) == "RSD-2430"
    assert not list(_round_folder(home).glob("update-*"))
    assert not (_round_folder(home) / "committed.json").exists()
    assert not _cache(home).exists() or not list(_cache(home).glob("*.safetensors"))
    again = Watching()
    assert _failed(home, main_study().round(), again) == "RSD-2430"
    assert again.cases == []
    assert _charges(home) == [(1, 1)]  # the spend stays
    with open_home(home.path) as site:
        (failure,) = entries(site, "failure")
        assert (failure.body["code"], failure.body["round"], failure.study) == ("RSD-2430", 1, main_study().digest)
        assert not entries(site, "commit", "transfer")
    _answer(home, main_study().round(round=2))  # and the study goes on


def test_somebody_who_is_in_no_extract_disturbs_no_attempt(home):
    _answer(home, main_study().round(), Watching(lambda _: _withdraw(home, "777777")))


def test_another_data_source_goes_on(home, tmp_path):
    table = tmp_path / "other.csv"
    table.write_text("ward,patient_id\nA,1\nB,2\n")
    registration.add_dataset(home, "other", table, "ward", ["patient_id"], DATA_TERMS)
    _answer(home, main_study().round(), Watching(lambda _: _withdraw(home, "1")))
    assert stop_file(home.path, "ward").exists()
    assert not stop_file(home.path, "a-clinic").exists()


def test_a_withdrawal_between_the_case_and_the_first_batch_stops_the_attempt(home, monkeypatch):
    """The training compares the stop file with what it held before the case's rows were read."""
    marks = []
    real = withdrawals.fresh_cache

    def meanwhile(*args):
        _here(home, FIRST)
        return real(*args)

    monkeypatch.setattr(withdrawals, "fresh_cache", meanwhile)
    bench = Watching(lambda case: marks.append((case.stop_mark, stop_mark(case.stop_file))))
    assert _failed(home, main_study().round(), bench) == "RSD-2430"
    assert marks[0][0] != marks[0][1]


def _crash_after(home, name):
    """The update of round 1 is on disk, and the agent dies after writing `name`."""

    def child():
        from client import contribution

        real = contribution.write_durably

        def wrapped(path, *args, **kwargs):
            real(path, *args, **kwargs)
            if path.name.startswith(name):
                os.kill(os.getpid(), signal.SIGKILL)

        contribution.write_durably = wrapped
        _answer(home, main_study().round())

    assert in_child(child) == -signal.SIGKILL


@pytest.mark.parametrize("point", ["update-1.f32", "committed.json"])
def test_a_committed_update_that_was_not_sent_is_purged_and_the_round_is_over(home, point):
    _crash_after(home, point)
    assert list(home.path.rglob("update-1.f32"))
    _withdraw(home, FIRST)
    assert not list(home.path.rglob("update-*.f32"))
    bench = Watching()
    assert _failed(home, main_study().round(), bench) == "RSD-2430"
    assert bench.cases == []
    assert _charges(home) == [(1, 1)]
    with open_home(home.path) as site:
        assert [e.body["code"] for e in entries(site, "failure")] == ["RSD-2430"]
        assert not entries(site, "transfer")


def test_a_withdrawal_between_the_commit_and_the_send_keeps_the_update_here(home, monkeypatch):
    from client import contribution

    real = contribution._committed

    def meanwhile(*args):
        out = real(*args)
        _here(home, FIRST)
        return out

    monkeypatch.setattr(contribution, "_committed", meanwhile)
    assert _failed(home, main_study().round()) == "RSD-2430"
    with open_home(home.path) as site:
        assert entries(site, "commit")
        assert not entries(site, "transfer")


def test_an_update_is_sent_before_a_withdrawal_or_not_at_all(home):
    """While the site decides and logs the transfer, a withdrawal waits."""
    order = []
    thread = threading.Thread(target=lambda: (_here(home, FIRST), order.append("withdrawn")))
    with open_home(home.path) as site:
        site.workbench = Watching()
        real = site.let_out

        def let_out(*args, **kwargs):
            thread.start()
            time.sleep(0.3)
            order.append("sent")
            return real(*args, **kwargs)

        site.let_out = let_out
        session.answer(site, main_study().round())
    thread.join(30)
    assert order == ["sent", "withdrawn"]


def test_a_finished_round_keeps_its_bytes_and_an_unfinished_one_does_not(home):
    for number in (1, 2):
        _answer(home, main_study().round(round=number))
    (_round_folder(home, 1) / "roster.sha256").write_text("ab" * 32)
    _here(home, FIRST)
    assert [p.parent.name for p in home.path.rglob("update-*.f32")] == ["001"]
    assert _failed(home, main_study().round(round=2)) == "RSD-2430"


def test_caches_are_purged_and_filled_again_without_the_subject(home):
    _answer(home, main_study().round())
    assert (_cache(home) / "trunk.safetensors").exists()
    _withdraw(home, "777777")
    assert (_cache(home) / "trunk.safetensors").exists()
    _withdraw(home, FIRST)
    assert not _cache(home).exists()


def test_a_cache_that_was_written_meanwhile_goes_before_the_next_use(home):
    _here(home, FIRST)
    _cache(home).mkdir()
    stale = _cache(home) / "trunk-stale.safetensors"
    stale.write_bytes(b"patient data")  # by a process that began before
    _answer(home, main_study().round())
    assert not stale.exists()


def test_what_a_killed_withdrawal_left_is_finished_by_the_agent_s_start(home):
    _answer(home, main_study().round())

    def child():
        subjects.raise_stop = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        _here(home, FIRST)

    assert in_child(child) == -signal.SIGKILL
    assert excluded_rows(home.path, DATASET, _sha(home)) == (0,)
    assert list(home.path.rglob("update-*.f32"))
    with open_home(home.path):
        assert not list(home.path.rglob("update-*.f32"))
        assert stop_file(home.path, "a-clinic").exists()


def test_an_index_that_has_forgotten_who_withdrew_stops_the_agent(home):
    old = (home.path / "rows.db").read_bytes()
    _here(home, FIRST)
    for file in home.path.glob("rows.db*"):
        file.unlink()
    (home.path / "rows.db").write_bytes(old)
    with pytest.raises(Refused) as error:
        _answer(home, main_study().round())
    assert (error.value.code, error.value.found) == ("RSD-2431", "0 withdrawals in rows.db")
    _here(home, FIRST)
    _answer(home, main_study().round())


def test_without_a_log_nobody_is_withdrawn(home, monkeypatch):
    monkeypatch.setattr("client.books.Books.record", lambda *_: (_ for _ in ()).throw(EnvironmentFault("RSD-5030", "")))
    with pytest.raises(EnvironmentFault):
        _here(home, FIRST)
    assert excluded_rows(home.path, DATASET, _sha(home)) == ()


def test_what_the_index_holds_of_a_withdrawn_row_is_the_key_alone(home):
    """Its content goes; the keyed hash stays, so that the next extract leaves the subject out too."""
    index = withdrawals.open_index(home)
    with index.writing() as changes:
        (sealed,) = changes._connection.execute("SELECT sealed FROM contents").fetchone()
        before, _ = changes._positioned(DATASET, sealed)
    _here(home, FIRST)
    with index.writing() as changes:
        (sealed,) = changes._connection.execute("SELECT sealed FROM contents").fetchone()
        after, content = changes._positioned(DATASET, sealed)
    index.close()
    assert set(before) - set(after) == {0}
    assert content.rows == len(after)


# --- rosters ------------------------------------------------------------------------------------------------------


def _roster(home, outcome):
    from client.contribution import Committed
    from client.witnessing import _check_row
    from compliance.roster import Roster
    from compliance.validation import load_model

    file = _round_folder(home) / "committed.json"
    own = load_model(Committed, parse_canonical(file.read_bytes(), "commit"), "RSD-1210", "commit")
    row = {"site": "a", "jurisdiction": "DE", "outcome": outcome}
    if outcome == "contributed":
        ref = own.commit.model_dump()
        row |= {"attempt": 1, "update_sha256": own.update_sha256, "charge": own.charge.model_dump(), "commit": ref,
                "decision": ref, "transfer": ref}  # fmt: skip
    else:
        row["reason"] = {"code": "RSD-2430", "rule": "", "message": "withdrawn"}
    value = {"schema": "residency.roster/1", "study": main_study().digest, "run": "run-1", "round": 1, "at": "now",
             "unit": "record", "adjacency": "add_remove",
             "base_sha256": own.base_sha256, "result_sha256": "ab" * 32, "recipients": [], "rows": [row]}  # fmt: skip
    with open_home(home.path) as site:
        case = site.joined_case(main_study().digest)
        _check_row(site, case, load_model(Roster, value, "RSD-1210", "roster"))


def test_the_roster_says_failed_for_an_update_that_never_left(home):
    _crash_after(home, "committed.json")
    _here(home, FIRST)
    _roster(home, "failed")
    with pytest.raises(Refused) as error:
        _roster(home, "contributed")
    assert error.value.code == "RSD-1224"


def test_either_is_true_of_an_update_that_was_on_its_way(home):
    _answer(home, main_study().round())
    _here(home, FIRST)
    _roster(home, "failed")
    _roster(home, "contributed")


# --- the command --------------------------------------------------------------------------------------------------


def test_the_answer_and_the_log_are_the_same_whether_or_not_somebody_is_a_patient(tmp_path):
    told, logged = [], []
    for name, who in (("in", FIRST), ("out", "777777")):
        (tmp_path / name).mkdir()
        home = AgentHome(joined_home("a", tmp_path / name))
        done = _withdraw(home, who, ground="objection")
        told.append((done.exit_code, done.stdout, done.stderr))
        assert who not in done.output
        with open_home(home.path) as site:
            (body,) = (e.body for e in entries(site, "withdrawal"))
            logged.append({k: v for k, v in body.items() if k != "named"})
            assert re.fullmatch("[0-9a-f]{64}", body["named"])  # keyed by the site's secret
    assert told[0] == told[1]
    assert logged[0] == logged[1] == {"number": 1, "ground": "objection", "subjects": "fewer than 10"}


@pytest.mark.parametrize("data", [b"", b"\n \n", b"\xff\xfe9000", b"9" * 2000, b"9000\n" * 100_001])
def test_unusable_identifiers_are_told_without_a_line_of_them(home, data):
    done = _run_withdraw(home, data)
    assert done.exit_code == 3
    assert "RSD-2420" in done.output
    assert "9000" not in done.output
    assert excluded_rows(home.path, DATASET, _sha(home)) == ()


def test_the_ground_is_one_of_four(home):
    assert _run_withdraw(home, FIRST.encode(), ground="whim").exit_code == 2


@pytest.mark.parametrize(("number", "told"), [(1, "fewer than 10"), (9, "fewer than 10"), (10, "10 to 99"),
                                              (99, "10 to 99"), (100, "100 or more")])  # fmt: skip
def test_how_many_were_named_is_logged_in_a_bucket(number, told):
    assert subjects.bucket(number) == told


def test_affected_lists_the_rounds_before_the_withdrawal(home):
    assert ok("agent", "subject", "affected", "--home", home.path)["affected"] == []
    _answer(home, main_study().round())
    (_round_folder(home) / "roster.sha256").write_text("cd" * 32)
    _withdraw(home, FIRST, ground="erasure")
    _answer(home, main_study().round(round=2))
    _withdraw(home, "777777")
    (row,) = ok("agent", "subject", "affected", "--home", home.path)["affected"]
    assert (row["withdrawal"], row["ground"], row["dataset"]) == (1, "erasure", DATASET)
    assert (row["study"], row["round"], row["roster_sha256"]) == (main_study().digest, 1, "cd" * 32)
    assert len(row["update_sha256"]) == 64
    digest = main_study().digest
    assert ok("agent", "subject", "affected", "--study", digest[:12], "--home", home.path)["affected"] == [row]
    assert ok("agent", "subject", "affected", "--study", "00", "--home", home.path)["affected"] == []
    _withdraw(home, "9001")
    rows = ok("agent", "subject", "affected", "--home", home.path)["affected"]
    assert [(r["withdrawal"], r["round"]) for r in rows] == [(1, 1), (3, 1), (3, 2)]

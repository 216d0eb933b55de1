"""What a dataset is registered for, what is told of it, and when a study may use it."""

import json
import re

import pandas as pd
import pytest

from client import registration, session
from client.data import commitment
from client.data.commitment import RowProof, commitment_key
from client.data.schema import declared_count
from client.home import AgentHome
from compliance.errors import CheckFailed, InputError, Refused
from tests.desk import ok, refused, run
from tests.federation import DATA_TERMS, DATASET, consortium, day, entries, joined_home, main_study, open_home
from tests.tiny_bert import write_table

ROWS = 173


@pytest.fixture
def home(tmp_path):
    return AgentHome(consortium().copy_home("a", tmp_path))


def _add(home, path, name="extra", terms=DATA_TERMS):
    return registration.add_dataset(home, name, path, "elsewhere", ["patient_id"], terms)


def _with_terms(home, **changes):
    """The registered dataset of the study, with other terms."""
    registry = home.registry()
    record = registry.datasets[0].model_copy(update=changes)
    home.save_registry(registry.model_copy(update={"datasets": (record,)}))


def _join_refused(home, code):
    with open_home(home.path) as site:
        with pytest.raises(Refused) as error:
            session.answer(site, main_study().join())
        assert entries(site, "refusal")[-1].body["code"] == code
        assert not entries(site, "reservation")
    assert error.value.code == code
    return error.value


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"purposes": ("public_health",)}, "RSD-2410"),
        ({"expires": day(29)}, "RSD-2411"),
        ({"retired": day(-1)}, "RSD-2412"),
    ],
)
def test_a_study_outside_the_dataset_s_terms_is_refused_at_the_join_and_in_the_rehearsal(home, tmp_path, changes, code):
    _with_terms(home, **changes)
    error = _join_refused(home, code)
    assert error.found
    assert error.limit
    study, _ = main_study().write(tmp_path / "desk")
    assert refused(4, code, "study", "check", study, "--home", home.path)["code"] == code


def test_a_study_within_the_terms_is_joined(home):
    _with_terms(home, purposes=("public_health", "scientific_research"), expires=day(31))
    with open_home(home.path) as site:
        session.answer(site, main_study().join())


def test_a_joined_study_ends_after_its_dataset_was_retired_and_no_other_begins(tmp_path):
    home = AgentHome(joined_home("a", tmp_path))
    cache = home.study_folder(main_study().digest) / "cache"
    cache.mkdir(exist_ok=True)
    (cache / "trunk.safetensors").write_bytes(b"patient data")
    spent = _spent(home)
    told = ok("agent", "dataset", "retire", DATASET, "--home", home.path)
    assert told["source"] == "a-clinic"
    assert not cache.exists()
    assert _spent(home) == spent
    with open_home(home.path) as site:
        assert entries(site, "dataset")[-1].body == {"action": "retire", "dataset": DATASET, "source": "a-clinic"}
        session.answer(site, main_study().round())
        other = consortium().sign_study(name="another-one")
        with pytest.raises(Refused) as error:
            session.answer(site, other.join())
    assert error.value.code == "RSD-2412"
    assert refused(3, "RSD-2403", "agent", "dataset", "retire", "nothing", "--home", home.path)["found"] == "nothing"


def _spent(home):
    with home.ledger() as ledger:
        return ledger.head("a-clinic")


@pytest.mark.parametrize(
    ("terms", "code"),
    [
        (registration.Terms("", ("scientific_research",), "2099-12-31"), "RSD-1235"),
        (registration.Terms("9(2)(j)", (), "2099-12-31"), "RSD-1235"),
        (registration.Terms("9(2)(j)", ("advertising",), "2099-12-31"), "RSD-1235"),
        (registration.Terms("9(2)(j)", ("scientific_research",), "soon"), "RSD-1235"),
        (registration.Terms("9(2)(j)", ("scientific_research",), "2020-01-01"), "RSD-2402"),
    ],
)
def test_terms_that_are_none(home, tmp_path, terms, code):
    before = (home.path / "registry.json").read_bytes()
    with pytest.raises(InputError) as error:
        _add(home, write_table(tmp_path / "t.csv"), terms=terms)
    assert error.value.code == code
    assert (home.path / "registry.json").read_bytes() == before


def test_the_ground_and_the_purpose_have_no_default(home, tmp_path):
    table = write_table(tmp_path / "t.csv")
    words = ["agent", "dataset", "add", "extra", "--home", home.path, "--path", table, "--source", "x",
             "--id-column", "patient_id", "--legal-basis", "9(2)(j)", "--purpose", "public_health",
             "--expires", "2099-12-31"]  # fmt: skip
    for option in ("--legal-basis", "--purpose", "--expires", "--id-column"):
        at = words.index(option)
        assert run(*words[:at], *words[at + 2 :]).exit_code == 2


@pytest.mark.parametrize("text", ["7,50,-,\n8,51,-,9001\n", "7,50,-, \n8,51,-,9001\n"])
def test_rows_that_nobody_could_withdraw_are_not_registered(home, tmp_path, text):
    path = tmp_path / "t.csv"
    path.write_text("TSH,age,target,patient_id\n" + text)
    with pytest.raises(InputError) as error:
        _add(home, path)
    assert error.value.code == "RSD-2400"


def test_a_file_without_a_header_is_not_shown_as_a_schema(home, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("7.5,50,F,patient_id\n8,51,M,9001\n")
    with pytest.raises(InputError) as error:
        _add(home, path)
    assert error.value.code == "RSD-2401"
    assert "7.5" not in str(error.value)


# --- what is told ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "told"),
    [(1, 10), (9, 10), (14, 10), (15, 20), (71, 70), (99, 100), (255, 260), (956, 960), (2394, 2400), (123456, 120000)],
)
def test_the_declared_count_is_rounded(rows, told):
    assert declared_count(rows) == told


def test_show_and_list_tell_columns_and_rounded_numbers_only(home, tmp_path):
    _add(home, write_table(tmp_path / "t.csv", ROWS))
    shown = ok("agent", "dataset", "show", "extra", "--home", home.path)
    assert shown["columns"][0] == {"name": "TSH", "type": "number"}
    assert [c["type"] for c in shown["columns"]] == ["number", "integer", "text", "integer"]
    assert (shown["declared"], shown["state"], shown["purposes"]) == (170, "in use", ["scientific_research"])
    assert shown["studies"] == []
    listed = ok("agent", "dataset", "list", "--home", home.path)
    assert [d["dataset"] for d in listed["datasets"]] == [DATASET, "extra"]
    texts = [run("agent", "dataset", *w, "--home", home.path).output for w in (("show", "extra"), ("list",))]
    with open_home(home.path) as site:
        logged = json.dumps([e.body for e in entries(site, "dataset")])
    registry = (home.path / "registry.json").read_text()
    for text in (json.dumps(shown), json.dumps(listed), *texts, logged, registry):
        assert not re.search(rf"(?<![0-9a-f]){ROWS}(?![0-9a-f])", text)
    error = refused(3, "RSD-2403", "agent", "dataset", "show", "nothing", "--home", home.path)
    assert error["limit"] == f"{DATASET}, extra"


def test_show_names_the_studies_that_used_it(tmp_path):
    home = joined_home("a", tmp_path)
    shown = ok("agent", "dataset", "show", DATASET, "--home", home)
    assert shown["studies"] == [{"study": main_study().digest, "name": "tiny-one"}]


def test_registration_is_in_the_log_before_the_registry(home, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(AgentHome, "save_registry", full)
    with pytest.raises(OSError, match="No space"):
        _add(home, write_table(tmp_path / "t.csv", 30))
    monkeypatch.undo()
    assert [d.name for d in home.registry().datasets] == [DATASET]
    with open_home(home.path) as site:
        assert entries(site, "dataset")[-1].body["dataset"] == "extra"
    _add(home, tmp_path / "t.csv")  # taken up again
    assert [d.name for d in home.registry().datasets] == [DATASET, "extra"]


def test_without_a_log_nothing_is_registered(home, tmp_path, monkeypatch):
    def broken(*_):
        raise InputError("RSD-5020", "no log")

    monkeypatch.setattr("client.books.Books.record", broken)
    with pytest.raises(InputError):
        _add(home, write_table(tmp_path / "t.csv", 30))
    monkeypatch.undo()
    assert [d.name for d in home.registry().datasets] == [DATASET]
    other = write_table(tmp_path / "u.csv", 30)
    other.write_text(other.read_text().replace(",9", ",7"))
    _add(home, other)  # the name is still free


# --- the commitment -------------------------------------------------------------------------------------------------


def test_one_row_is_proved_without_showing_another(home, tmp_path):
    path = write_table(tmp_path / "t.csv", ROWS)
    record = _add(home, path).record
    table, root = pd.read_csv(path), bytes.fromhex(record.commitment)
    key = commitment_key(home.secret(), bytes.fromhex(record.nonce))
    for position in (0, 17, ROWS - 1):
        proof = commitment.prove_row(key, table, position)
        commitment.verify_row(proof, root)
        assert json.loads(proof.row)["patient_id"] == str(9000 + position)
        assert proof.size == 1024  # not the number of rows
        shown = proof.row + proof.salt + b"".join(proof.path)
        assert not any(str(9000 + i).encode() in shown for i in range(ROWS) if i != position)
        forged = RowProof(proof.row.replace(b'"age":"', b'"age":"1'), proof.salt, proof.index, proof.size, proof.path)
        with pytest.raises(CheckFailed):
            commitment.verify_row(forged, root)
    with pytest.raises(InputError):
        commitment.prove_row(key, table, ROWS)


def test_two_commitments_of_one_table_have_nothing_in_common(tmp_path):
    table = pd.read_csv(write_table(tmp_path / "t.csv", 30))
    roots = [commitment.commit_rows(commitment_key(bytes(32), bytes([i]) * 16), table) for i in range(2)]
    assert roots[0] != roots[1]
    assert roots[0] == commitment.commit_rows(commitment_key(bytes(32), bytes(16)), table)
    changed = table.assign(age=table.age.where(table.index != 7, 1))
    assert roots[0] != commitment.commit_rows(commitment_key(bytes(32), bytes(16)), changed)

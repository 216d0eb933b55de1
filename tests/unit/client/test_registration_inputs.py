"""Bad input at the agent's and the server's commands: one clear error, the right exit code, nothing half written."""

import json
import shutil
import socket
from pathlib import Path

import pytest

from client import enrolment, registration
from client.home import AgentHome
from compliance.errors import CheckFailed
from compliance.identity import seal
from compliance.trust.root import parse_trust
from tests.desk import ok, refused, run
from tests.federation import DATA_TERMS, consortium, day, main_study
from tests.log_drafts import policy_body
from tests.tiny_bert import write_table


@pytest.fixture
def home(tmp_path):
    """The home of site a, before any study."""
    return consortium().copy_home("a", tmp_path)


def _state(home):
    return {p: p.read_bytes() for p in sorted(home.rglob("*")) if p.is_file() and p.suffix in {".json", ".csv"}}


GROUND = ("--legal-basis", "9(2)(j)", "--purpose", "scientific_research", "--expires", "2099-12-31")


def _add(home, path, name="extra", source="x"):
    return ("agent", "dataset", "add", name, "--home", home, "--path", path, "--source", source,
            "--id-column", "patient_id", *GROUND)  # fmt: skip


# --- datasets -------------------------------------------------------------------------------------------------------


def _table(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text)
    return path


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("missing.csv", None, "RSD-2300"),
        ("empty.csv", b"", "RSD-2302"),
        ("header.csv", b"TSH,age,target,patient_id\n", "RSD-2302"),
        ("notes.docx", b"PK", "RSD-2301"),
        ("wrong.parquet", b"TSH,age\n1,2\n", "RSD-2301"),
        ("wrong.jsonl", b"{not json\n", "RSD-2301"),
        ("binary.csv", b"\xff\xfe\x00\x01", "RSD-2301"),
        ("column.csv", b"TSH,age\n1,2\n", "RSD-2303"),
    ],
)
def test_a_data_file_that_cannot_be_used(home, tmp_path, name, content, code):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    before = _state(home)
    error = refused(3, code, *_add(home, path))
    assert error["found"]
    assert error["limit"]
    assert _state(home) == before


def test_a_name_that_is_taken(home, tmp_path):
    table = write_table(tmp_path / "t.csv", 20)
    error = refused(3, "RSD-1230", *_add(home, table, "thyroid"))
    assert error["found"] == "thyroid"


@pytest.mark.parametrize("name", ["Thyroid", "a b", "", "x" * 70, "../x"])
def test_a_name_that_is_none_leaves_nothing_behind(home, tmp_path, name):
    """A registry that can be written but not read again would lock the agent out of its own data."""
    table = write_table(tmp_path / "t.csv", 20)
    before = _state(home)
    result = run(*_add(home, table, name), "--json")
    assert result.exit_code == 3, result.output
    assert json.loads(result.stdout)["error"]["code"].startswith("RSD-")
    assert _state(home) == before
    assert AgentHome(home).registry().datasets


def test_a_copy_of_known_rows_inherits_their_ledger(home, tmp_path):
    """Under another name, in another order, with fewer rows: the population is the same, and so is its budget."""
    lines = (consortium().root / "a.csv").read_text().splitlines()
    copy = _table(tmp_path, "copy.csv", "\n".join([lines[0], *reversed(lines[50:120])]).encode())
    added = ok(*_add(home, copy, "fresh", "fresh"))
    assert (added["source"], added["inherited"]) == ("a-clinic", True)


def test_one_known_row_among_new_ones_is_enough(home, tmp_path):
    lines = (consortium().root / "a.csv").read_text().splitlines()
    fresh = [f"1.0,50,-,{50_000 + i}" for i in range(30)]
    mixed = _table(tmp_path, "mixed.csv", "\n".join([lines[0], *fresh, lines[7]]).encode())
    added = registration.add_dataset(AgentHome(home), "mixed", mixed, "fresh", ["patient_id"], DATA_TERMS)
    assert (added.record.source, added.known.by_identifier) == ("a-clinic", {"a-clinic"})


def test_rows_of_two_populations_are_refused(home, tmp_path):
    header = "TSH,age,target,patient_id"
    other = _table(tmp_path, "other.csv", f"{header}\n1,50,-,70001\n".encode())
    registration.add_dataset(AgentHome(home), "other", other, "second", ["patient_id"], DATA_TERMS)
    lines = (consortium().root / "a.csv").read_text().splitlines()
    both = _table(tmp_path, "both.csv", "\n".join([lines[0], lines[1], "1,50,-,70001"]).encode())
    before = _state(home)
    error = refused(4, "RSD-1231", *_add(home, both))
    assert error["found"] == "a-clinic, second"
    assert _state(home) == before


def test_the_index_of_rows_holds_no_value_of_a_row(home):
    data = (home / "rows.db").read_bytes()
    assert b"9005" not in data
    assert (home / "rows.db").stat().st_mode & 0o077 == 0
    assert (home / "keys" / "rows.secret").stat().st_mode & 0o077 == 0


# --- models ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spoil", ["no folder", "no weights", "pickle", "another type", "an adapter"])
def test_a_model_folder_that_cannot_be_used(home, tmp_path, spoil):
    folder = tmp_path / "model"
    if spoil != "no folder":
        shutil.copytree(consortium().root / "model", folder)
    if spoil in ("no weights", "pickle"):
        (folder / "model.safetensors").unlink()
    if spoil == "another type":
        (folder / "config.json").write_text('{"model_type": "nystromformer"}')
    if spoil == "an adapter":
        (folder / "adapter_config.json").write_text("{}")
    if spoil == "pickle":
        (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    before = _state(home)
    result = run("agent", "model", "add", folder, "--home", home, "--json")
    assert result.exit_code == 3, result.output
    error = json.loads(result.stdout)["error"]
    assert error["code"].startswith("RSD-23")
    assert error["next"]
    assert _state(home) == before


def test_adding_a_model_twice_is_one_model(home):
    for _ in range(2):
        added = ok("agent", "model", "add", consortium().root / "model", "--home", home)
    (model,) = ok("agent", "model", "list", "--home", home)["models"]
    assert (model["name"], model["sha256"]) == (added["model"], added["sha256"])
    assert model["path"] == str(consortium().root / "model")


# --- trust and policy -----------------------------------------------------------------------------------------------


def _trust(tmp_path, *signers, **changes):
    made = consortium()
    trust, _ = parse_trust(made.trust.read_bytes(), "trust")
    record = {**trust.model_dump(mode="json", by_alias=True), **changes}
    path = tmp_path / "new.json"
    path.write_bytes(seal(record, *(made.signatories[s] for s in signers)).encode())
    return path


def _install(home, path, option="--trust"):
    return "agent", "enroll", "--home", home, option, path


def test_an_expired_trust_file_is_not_installed(home, tmp_path):
    path = _trust(tmp_path, "a", "b", "c", issued=day(-0.9), expires=day(-0.1))
    before = _state(home)
    error = refused(4, "RSD-6013", *_install(home, path))
    assert error["found"]
    assert error["limit"]
    assert _state(home) == before


def test_a_trust_file_below_its_threshold_is_not_installed(home, tmp_path):
    before = _state(home)
    refused(1, "RSD-6002", *_install(home, _trust(tmp_path, "a", "b")))
    assert _state(home) == before


def test_a_trust_file_without_this_agent_is_not_installed(home, tmp_path):
    made = consortium()
    keys = [k.as_json() for k in made.anchor.trust.keys if (k.role, k.holder) != ("agent", "a")]
    before = _state(home)
    refused(4, "RSD-1209", *_install(home, _trust(tmp_path, "a", "b", "c", keys=keys)))
    assert _state(home) == before


def test_an_older_trust_file_does_not_replace_a_newer_one(home, tmp_path):
    digest = consortium().anchor.digest
    newer = _trust(tmp_path, "a", "b", "c", version=2, previous=digest)
    ok(*_install(home, newer))
    before = _state(home)
    refused(4, "RSD-6014", *_install(home, consortium().trust))
    assert _state(home) == before


@pytest.mark.parametrize(
    ("changes", "exit_code", "code"),
    [
        ({"expires": day(-1), "issued": day(-1.5)}, 4, "RSD-2103"),
        ({"jurisdiction": "GB"}, 4, "RSD-2204"),
        ({"epsilon_milli_at_most": 0}, 3, "RSD-2007"),
    ],
)
def test_a_policy_that_cannot_hold_is_not_installed(home, tmp_path, changes, exit_code, code):
    path = tmp_path / "policy.json"
    if "issued" in changes:  # inside the signatory's key period, which starts a day ago
        changes = {"issued": day(-0.9), "expires": day(-0.1)}
    path.write_bytes(consortium().sign_policy("a", **changes))
    before = _state(home)
    refused(exit_code, code, *_install(home, path, "--policy"))
    assert _state(home) == before


def test_a_policy_issued_before_the_installed_one_is_not_installed(home, tmp_path):
    path = tmp_path / "policy.json"
    path.write_bytes(consortium().sign_policy("a", issued=day(-0.5)))
    before = _state(home)
    refused(4, "RSD-2212", *_install(home, path, "--policy"))
    assert _state(home) == before


def test_a_policy_of_another_signatory_is_not_installed(home, tmp_path):
    path = tmp_path / "policy.json"
    record = json.loads(_payload(consortium().sign_policy("a")))
    path.write_bytes(seal(record, consortium().signatories["b"]).encode())
    with pytest.raises(CheckFailed):
        enrolment.install_policy(AgentHome(home), path)


def _payload(data):
    from compliance.identity import parse_envelope

    return parse_envelope(data, "policy").payload


def test_enrolling_twice_keeps_the_first_keys(home):
    invitation = consortium().root / "a.invitation.json"
    office = consortium().root / "a-office"
    before = _state(home)
    out = home / "again.json"
    refused(3, "RSD-1208", "agent", "enroll", invitation, "--home", home, "--signatory", office / "signatory.pub.json",
            "--dpo", office / "dpo.pub.json", "--out", out)  # fmt: skip
    assert _state(home) == before


def test_an_invitation_that_was_changed_makes_no_home(tmp_path):
    record = json.loads((consortium().root / "a.invitation.json").read_bytes())
    record["payload"] = record["payload"][:-8] + "AAAAAAA="
    bad = _table(tmp_path, "bad.json", json.dumps(record).encode())
    office = consortium().root / "a-office"
    result = run("agent", "enroll", bad, "--home", tmp_path / "new", "--signatory", office / "signatory.pub.json",
                 "--dpo", office / "dpo.pub.json", "--out", tmp_path / "request.json", "--json")  # fmt: skip
    assert result.exit_code in {1, 3}
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "request.json").exists()


# --- start, status, ledger ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gone", "code"), [("agent.json", "RSD-1201"), ("trust.json", "RSD-1202"), ("policy.json", "RSD-1203")]
)
def test_an_agent_that_lacks_something_does_not_start(home, gone, code):
    (home / gone).unlink()
    error = refused(3, code, "agent", "start", "--home", home)
    assert (error["found"], bool(error["next"])) == (f"no {gone}", True)


def test_an_agent_with_an_expired_trust_file_does_not_start(home, tmp_path):
    (home / "trust.json").write_bytes(_trust(tmp_path, "a", "b", "c", issued=day(-0.9), expires=day(-0.1)).read_bytes())
    refused(4, "RSD-6013", "agent", "start", "--home", home)


def test_an_agent_with_the_key_of_another_log_does_not_start(home):
    AgentHome(home).ledger().close()
    opened = AgentHome(home)
    with opened.log(opened.anchor(), opened.signer()) as log:
        log.append("policy", policy_body())
    for name in ("agent.key", "agent.pub.json"):
        shutil.copyfile(consortium().home("b") / "keys" / name, home / "keys" / name)
    refused(1, "RSD-5031", "agent", "start", "--home", home)


def test_what_a_study_would_cost_is_told_and_not_spent(home, tmp_path):
    study, _ = main_study().write(tmp_path / "study")
    told = ok("agent", "ledger", "plan", study, "--home", home)
    assert told["fits"] is True
    assert 0 < told["needed_milli"] < told["left_milli"] == 8000
    assert ok("agent", "ledger", "show", "--home", home)["sources"][0]["held_milli"] == 0


# --- the operator's commands ----------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path):
    """The operator's home without a server."""
    hub = tmp_path / "hub"
    shutil.copytree(consortium().hub, hub, ignore=shutil.ignore_patterns("flower", "runs", "studies"))
    return hub


def _files(folder):
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*"))


def test_a_run_without_a_server_writes_nothing(hub, tmp_path):
    study, answers = main_study().write(tmp_path / "study")
    before = _files(hub)
    refused(6, "RSD-6106", "run", "start", study, "--home", hub, "--answers", answers)
    assert _files(hub) == before


def test_a_run_without_answers_or_with_another_study_writes_nothing(hub, tmp_path):
    study, answers = main_study().write(tmp_path / "study")
    before = _files(hub)
    refused(3, "RSD-8211", "run", "start", study, "--home", hub, "--answers", tmp_path / "nowhere")
    refused(3, "RSD-2005", "run", "start", tmp_path / "none.json", "--home", hub, "--answers", answers)
    forged = tmp_path / "forged.json"
    forged.write_bytes(seal(main_study().value, consortium().signatories["a"]).encode())
    result = run("run", "start", forged, "--home", hub, "--answers", answers, "--json")
    assert result.exit_code == 1, result.output
    assert _files(hub) == before


def test_a_folder_that_holds_no_finished_run(tmp_path):
    refused(3, "RSD-8213", "run", "show", tmp_path)


def test_no_server_no_status(hub):
    refused(6, "RSD-6106", "server", "status", "--home", hub)


class _Running:
    """A server that answers, as `open_control` gives it."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def nodes(self):
        return []


def test_a_server_before_the_trust_file_has_a_status(hub, monkeypatch):
    monkeypatch.setattr("server.desk.open_control", lambda _: _Running())
    (hub / "trust.json").unlink()
    shown = ok("server", "status", "--home", hub)
    assert (shown["sites"], shown["suspended"], shown["witnesses"]) == ({}, [], [])
    assert "no trust file: nobody is admitted" in run("server", "status", "--home", hub).output


def test_a_server_on_a_taken_port_ends_with_7(hub):
    port = int(json.loads((hub / "consortium.json").read_text())["server"].rsplit(":", 1)[1])
    with socket.socket() as taken:
        try:
            taken.bind(("127.0.0.1", port))
            taken.listen()
        except OSError:
            pass  # another test's server has it: taken as well
        error = refused(7, "RSD-7101", "server", "start", "--home", hub, "--host", "127.0.0.1")
    assert error["found"] == "port in use"
    assert not (hub / "flower" / "ready.json").exists()


def test_a_server_without_its_certificate_makes_no_other(hub):
    (hub / "tls" / "server.crt").unlink()
    error = refused(3, "RSD-6215", "server", "start", "--home", hub, "--host", "127.0.0.1")
    assert error["found"] == "missing: tls/server.crt"
    assert not (hub / "tls" / "server.crt").exists()

"""Both doctors on real homes with damage done: what each finds, that nothing hides another, that nothing changes."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from client import session
from client.doctor import Doctor, ServerFacts
from client.doctor_stores import Stores
from client.home import only_agent
from compliance.clock import now
from compliance.doctor import GIB, Check, Limits
from compliance.errors import PeerUnreachable
from compliance.identity import seal
from compliance.law.decide import builtin_packs
from compliance.law.law_adoption import adoption_record, draft_law_set
from compliance.law.regions import load_regions
from compliance.messages import CloseRequest, encode
from compliance.pki import issue_site_certificate, make_csr
from compliance.privacy.ledger_records import LogHead
from compliance.software import VERSION
from server.doctor import Doctor as ServerDoctor
from server.doctor_stores import Stores as ServerStores
from strategies.wire import Request
from tests import federation
from tests.federation import consortium, joined_home, main_study, open_home
from tests.log_drafts import charge_body, charged, policy_body


def said(home: Path, **changes: object) -> ServerFacts:
    """What a healthy server answers."""
    anchor = consortium().anchor
    return replace(ServerFacts(0.2, VERSION, anchor.digest, anchor.trust.version), **changes)


def agent_checks(home: Path, limits: Limits | None = None, **changes: object) -> dict[str, Check]:
    """Every check but those of the machine and of the door, by name."""
    doctor = Doctor(home, lambda path: said(path, **changes), limits or Limits())
    stores = Stores(doctor)
    found = [*doctor.standing(), *doctor.process(must=False), *doctor.disk(), *doctor.clock()]
    found += [*stores.data(), *stores.studies(), *stores.books()]
    names = [c.name for c in found]
    assert len(set(names)) == len(names)
    return {c.name: c for c in found}


def states(checks: dict[str, Check], *wanted: str) -> set[str]:
    return {name for name, check in checks.items() if check.state in wanted}


def snapshot(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.stat().st_mode, p.read_bytes() if p.is_file() else b"")
        for p in [folder, *sorted(folder.rglob("*"))]
    }


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A site that has joined a study."""
    return joined_home("a", tmp_path)


def test_a_sound_home_has_no_failure_and_is_left_as_it_was(home: Path) -> None:
    before = snapshot(home)
    checks = agent_checks(home)
    assert states(checks, "fail", "skipped") == set()
    assert {n for n in states(checks, "warn") if not n.startswith("law pack")} == {"agent"}
    assert checks["ledger"].state == checks["log"].state == "ok"
    assert checks[f"study {main_study().digest[:12]}"].state == "ok"
    assert "all hashed again" in checks["log"].found
    assert snapshot(home) == before


def test_a_new_home_gets_no_log_and_no_ledger_by_being_looked_at(tmp_path: Path) -> None:
    home = consortium().copy_home("b", tmp_path)
    for name in ("log.db", "ledger.db", "witness.db"):
        (home / name).unlink(missing_ok=True)
    before = snapshot(home)
    checks = agent_checks(home)
    assert checks["log"].state == checks["ledger"].state == "ok"
    assert checks["cosignatures"].state == "skipped"
    assert snapshot(home) == before


def _set(path: str, mode: int) -> Callable[[Path], None]:
    return lambda home: (home / path).chmod(mode)


def _remove(*names: str) -> Callable[[Path], None]:
    return lambda home: [(home / name).unlink() for name in names] and None


def _cut(path: str, keep: int) -> Callable[[Path], None]:
    def cut(home: Path) -> None:
        data = (home / path).read_bytes()
        (home / path).write_bytes(data[:keep])

    return cut


def _sql(path: str, *statements: str) -> Callable[[Path], None]:
    def execute(home: Path) -> None:
        connection = sqlite3.connect(home / path, isolation_level=None)
        for statement in statements:
            connection.execute(statement)
        connection.close()

    return execute


def _registered(change: Callable[[Path], object], kind: str) -> Callable[[Path], None]:
    """Do something to a copy of the registered extract or model, so that the others keep theirs."""

    def apply(home: Path) -> None:
        registry = json.loads((home / "registry.json").read_bytes())
        for record in registry[kind]:
            path = Path(record["path"])
            copied = home.parent / f"copy-{path.name}"
            shutil.copytree(path, copied) if path.is_dir() else shutil.copy(path, copied)
            change(copied)
            record["path"] = str(copied)
        (home / "registry.json").write_bytes(federation.canonical(registry))

    return apply


def _certificate(days: int) -> Callable[[Path], None]:
    def issue(home: Path) -> None:
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        key = load_pem_private_key((home / "keys" / "node.key").read_bytes(), None)
        csr = make_csr(key, home.name, federation.CONSORTIUM)  # type: ignore[arg-type]
        data = issue_site_certificate(consortium().hub / "tls", csr, home.name, federation.CONSORTIUM, days)
        (home / "certs" / "site.crt").write_bytes(data)

    return issue


def _longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def _configure(path: Path) -> None:
    (path / "config.json").write_text("{}")


def _counted(path: Path) -> None:
    with open_home(path) as site:
        session.answer(site, main_study().round())
    (path / "counters.db").unlink()


KEYS = "keys in the trust file"
DATA, MODEL = "dataset thyroid", "model tiny"
CUT = "DELETE FROM entries WHERE idx = (SELECT max(idx) FROM entries)"
FAULTS: list[tuple[str, Callable[[Path], None], dict[str, str]]] = [
    ("readable key", _set("keys/agent.key", 0o640), {"keys": "fail"}),
    ("no node key", _remove("keys/node.key"), {"keys": "fail", "certificate": "skipped", KEYS: "skipped"}),
    ("no agent key", _remove("keys/agent.key"), {"keys": "fail", "log": "skipped", KEYS: "skipped"}),
    ("half a node key", _cut("keys/node.key", 60), {"certificate": "fail", KEYS: "fail"}),
    ("expired certificate", _certificate(0), {"certificate": "fail"}),
    ("certificate near its end", _certificate(20), {"certificate": "warn"}),
    ("no certificate", _remove("certs/site.crt"), {"certificate": "fail"}),
    ("damaged CA", _cut("ca.crt", 100), {"CA": "fail"}),
    ("no trust file", _remove("trust.json"), {"trust file": "fail", "policy": "skipped", "log": "skipped"}),
    ("damaged trust file", _cut("trust.json", 500), {"trust file": "fail", "signing keys": "skipped"}),
    ("no policy", _remove("policy.json"), {"policy": "fail", "law set": "skipped"}),
    ("no law set", _remove("law.json"), {"policy": "ok", "law set": "fail"}),
    ("no advice on the law set", _remove("law.advice.json"), {"policy": "ok", "law set": "fail"}),
    ("damaged agent.json", _cut("agent.json", 30), {"home": "fail", "log": "skipped", "CA": "ok", "ledger": "skipped"}),
    ("damaged registry", _cut("registry.json", 30), {"registry": "fail", "log": "ok"}),
    ("changed extract", _registered(_longer, "datasets"), {DATA: "fail"}),
    ("unreadable extract", _registered(Path.unlink, "datasets"), {DATA: "fail", MODEL: "ok"}),
    ("changed model", _registered(_configure, "models"), {MODEL: "fail"}),
    ("removed ledger", _remove("ledger.db"), {"ledger": "fail", "log": "ok"}),
    ("damaged ledger", _cut("ledger.db", 3000), {"ledger": "fail", "log": "ok"}),
    ("damaged counters", _cut("counters.db", 3000), {"counters": "fail", "ledger": "ok"}),
    ("counters put back", _counted, {"counters": "fail", "ledger": "ok"}),
    ("removed log", _remove("log.db"), {"log": "fail", "ledger": "ok"}),
    ("truncated log", _cut("log.db", 5000), {"log": "fail"}),
    ("entry cut off", _sql("log.db", CUT), {"log": "fail", "cosignatures": "skipped"}),
    ("entry changed", _sql("log.db", "UPDATE entries SET data = x'7b7d' WHERE idx = 0"), {"log": "fail"}),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "wanted"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
def test_each_damage_is_found_and_hides_nothing_else(
    home: Path, damage: Callable[[Path], None], wanted: dict[str, str]
) -> None:
    damage(home)
    checks = agent_checks(home)
    assert {name: checks[name].state for name in wanted} == wanted
    failed = states(checks, "fail")
    assert failed == {n for n, s in wanted.items() if s == "fail"}
    assert all(checks[n].next for n in failed)
    always = {"home", "keys", KEYS, "certificate", "CA", "trust file", "policy", "agent", "disk", "clock", "registry"}
    assert always | {"log", "cosignatures", "ledger", "counters"} <= set(checks)  # whatever else is broken


def test_a_full_disk_and_a_wrong_clock(home: Path) -> None:
    full = agent_checks(home, Limits(disk_fail=1 << 60, disk_warn=1 << 61))
    assert states(full, "fail") == {"disk"}
    low = agent_checks(home, Limits(disk_fail=0, disk_warn=1 << 60))
    assert low["disk"].state == "warn"
    assert agent_checks(home, skew_s=61.0)["clock"].state == "warn"
    assert agent_checks(home, skew_s=-301.0)["clock"].state == "fail"


def test_a_charge_that_the_log_holds_and_the_ledger_does_not(home: Path) -> None:
    with open_home(home) as site:
        site.log.append("charge", {**charge_body(), "seq": 9})
    checks = agent_checks(home)
    assert checks["ledger"].state == "fail"
    assert "RSD-1225" in checks["ledger"].found


def test_a_log_older_than_the_ledger_beside_it(home: Path) -> None:
    with open_home(home) as site:
        size = site.log.size
        charged(site.ledger, LogHead(site.log.origin, size - 1, site.log.root(size - 1).hex()))
        charged(site.ledger, LogHead("residency/elsewhere/a", size + 9, "0" * 64))
    assert agent_checks(home)["ledger"].state == "ok"
    for seen in ((size, "0" * 64), (size + 1, "0" * 64)):
        with open_home(home) as site:
            charged(site.ledger, LogHead(site.log.origin, *seen))
        found = agent_checks(home)["ledger"]
        assert found.state == "fail"
        assert "RSD-1225: the log is older than the ledger" in found.found
        assert f"a continuation of the {seen[0]} entries" in found.limit


def test_it_reads_beside_a_working_agent_and_says_so(home: Path) -> None:
    with only_agent(home), open_home(home) as site:
        site.log.append("policy", policy_body(0))
        before = {p.name for p in home.iterdir()}
        checks = agent_checks(home)
        assert checks["agent"].found == f"runs as process {os.getpid()}"
        assert checks["log"].found.startswith(f"{site.log.size} entries")
        site.log.append("policy", policy_body(1))  # the reader holds nothing up
        assert {p.name for p in home.iterdir()} == before
    assert (home / "agent.lock").exists()
    assert agent_checks(home)["agent"].state == "warn"  # a stale lock file is no trouble


def test_an_agent_may_start_while_the_doctor_looks(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    (home / "agent.lock").write_text("")
    monkeypatch.setattr(fcntl, "flock", lambda *_: pytest.fail("the doctor took the agent's lock"))
    assert agent_checks(home)["agent"].state == "warn"


def test_uncosigned_entries_grow_old(home: Path) -> None:
    doctor = Doctor(home, said, at=now() + timedelta(hours=2))
    found = {c.name: c for c in Stores(doctor).books()}["cosignatures"]
    assert found.state == "warn"
    assert "never cosigned" in found.found


def test_a_server_that_does_not_answer_is_one_failure(home: Path) -> None:
    def away(path: Path) -> ServerFacts:
        raise PeerUnreachable("RSD-6301", "no answer", next="wait")

    checks = {c.name: c for c in Doctor(home, away).connection()}
    assert {n: c.state for n, c in checks.items()} == {
        "server": "fail", "governance": "fail", "clock": "skipped", "versions": "skipped",
        "trust at the server": "skipped",
    }  # fmt: skip


MARK = "POISON-4711"


def test_no_cell_of_an_extract_reaches_the_output(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def poison(path: Path) -> None:
        path.write_text(f"patient_id,{MARK}\n{MARK},{MARK}\n", encoding="utf-8")

    _registered(poison, "datasets")(home)
    shown = json.dumps([c.as_json() for c in agent_checks(home).values()])
    assert "dataset thyroid" in shown
    assert MARK not in shown
    _cut("registry.json", 40)(home)
    assert MARK not in json.dumps([c.as_json() for c in agent_checks(home).values()])


def test_the_command_tells_what_fails_and_exits_7(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from client import doctor_commands, doctor_machine

    monkeypatch.setattr(doctor_machine, "accelerator_facts", lambda: doctor_machine.AcceleratorFacts(
        "2.13", False, False, "", 0, False, "", False))  # fmt: skip
    monkeypatch.setattr("client.doctor.ask_server", said)
    monkeypatch.setattr(Doctor, "_door", lambda _: Check("server", "ok", "answers"))
    done = CliRunner().invoke(doctor_commands.doctor, ["--home", str(home), "--json"])
    record = json.loads(done.stdout)
    assert (done.exit_code, record["ok"], record["state"], record["error"]) == (0, True, "warn", None)
    assert all(set(c) == {"name", "state", "found", "limit", "next"} for c in record["checks"])
    assert sum(record["counts"].values()) == len(record["checks"])
    (home / "keys" / "agent.key").chmod(0o644)
    done = CliRunner().invoke(doctor_commands.doctor, ["--home", str(home)])
    assert done.exit_code == 7
    assert "chmod 600 keys/agent.key" in done.stdout
    assert "RSD-7200" in done.stderr


def test_health_is_false_without_an_agent_and_true_with_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from client import doctor_commands

    monkeypatch.setattr("client.doctor.ask_server", said)
    monkeypatch.setattr(Doctor, "_door", lambda _: Check("server", "ok", "answers"))
    ask = lambda: CliRunner().invoke(doctor_commands.doctor, ["--health", "--home", str(home), "--json"])  # noqa: E731
    assert ask().exit_code == 7
    with only_agent(home):
        assert ask().exit_code == 0
        _certificate(0)(home)
        assert ask().exit_code == 7
        _remove("keys/node.key")(home)
        told = {c["name"]: c for c in json.loads(ask().stdout)["checks"]}
        assert {n for n, c in told.items() if c["state"] == "fail"} == {"keys"}
        lacks = "needs keys/node.key, which is missing: see keys"
        assert {told[n]["found"] for n in ("certificate", "governance", "clock")} == {lacks}


# --- the server -----------------------------------------------------------------------------------------------------


def server_checks(home: Path, limits: Limits | None = None) -> dict[str, Check]:
    doctor = ServerDoctor(home, lambda _: {}, limits or Limits())
    stores = ServerStores(doctor)
    parts: list[Iterable[Check]] = [
        doctor.standing(), doctor.process(must=False), doctor.doors(), doctor.machine(), stores.books(), stores.work()
    ]  # fmt: skip
    found = [c for part in parts for c in part]
    assert len({c.name for c in found}) == len(found)
    return {c.name: c for c in found}


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """The operator's home, without a server."""
    return Path(shutil.copytree(consortium().hub, tmp_path / "hub"))


def test_a_sound_operators_home_and_nothing_is_changed(hub: Path) -> None:
    before = snapshot(hub)
    checks = server_checks(hub)
    assert states(checks, "fail") == set()
    assert checks["server"].state == "warn"
    assert checks["fleet door"].found.startswith("free")
    assert checks["sites"].state == "skipped"
    assert snapshot(hub) == before


def test_the_law_packs_that_the_operator_applies(hub: Path) -> None:
    checks = server_checks(hub)
    assert checks["law set"].found == "none adopted, so every pack applies: eu"
    assert checks["law pack eu"].state == "warn"  # no counsel has reviewed it
    made = draft_law_set(federation.OPERATOR, "IE", builtin_packs(), load_regions(), {})
    record = adoption_record(made, now(), "", "The operator has no officer.")
    (hub / "law.json").write_bytes(seal(record, consortium().operator).encode())
    checks = server_checks(hub)
    assert (checks["law set"].state, checks["law set"].found) == ("ok", f"{made.digest[:12]}: eu")
    assert "law pack eu" in checks
    (hub / "law.json").write_bytes(seal(record, consortium().signatories["a"]).encode())
    checks = server_checks(hub)
    assert checks["law set"].state == "fail"
    assert "RSD-6011" in checks["law set"].found


SERVER_FAULTS: list[tuple[str, Callable[[Path], None], dict[str, str]]] = [
    ("readable CA key", _set("tls/ca.key", 0o644), {"keys": "fail"}),
    ("no CA key", _remove("tls/ca.key"), {"keys": "fail", "certificate": "ok"}),
    ("no operator key", _remove("keys/operator.key"), {"keys": "fail", "operator key": "fail"}),
    ("no trust file", _remove("trust.json"), {"trust file": "warn", "key in the trust file": "skipped"}),
    ("damaged trust file", _cut("trust.json", 700), {"trust file": "fail", "CA": "ok", "cosignatures": "skipped"}),
    ("damaged certificate", _cut("tls/server.crt", 200), {"certificate": "fail"}),
    ("damaged consortium", _cut("consortium.json", 20), {"home": "fail", "fleet door": "skipped", "CA": "ok"}),
    ("runs without a log", lambda home: (home / "runs").mkdir(), {"log": "fail"}),
]


@pytest.mark.parametrize(("damage", "wanted"), [f[1:] for f in SERVER_FAULTS], ids=[f[0] for f in SERVER_FAULTS])
def test_each_damage_of_the_server_is_found(hub: Path, damage: Callable[[Path], None], wanted: dict[str, str]) -> None:
    for name in ("log.db",):
        (hub / name).unlink(missing_ok=True)
    damage(hub)
    checks = server_checks(hub)
    assert {name: checks[name].state for name in wanted} == wanted
    failed = {n for n, s in wanted.items() if s == "fail"}
    assert states(checks, "fail") - failed <= {"log"}  # the log is unreadable without the operator's key


def test_another_ca_than_the_sites_pin(hub: Path, tmp_path: Path) -> None:
    from compliance.tls import make_tls

    made = make_tls(tmp_path / "other", ("127.0.0.1",))
    shutil.copy(made.ca, hub / "tls" / "ca.crt")
    assert server_checks(hub)["certificate"].state == "fail"


def test_a_port_that_another_program_has(hub: Path) -> None:
    port = int(json.loads((hub / "consortium.json").read_bytes())["server"].rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)) as other:

        def hang_up() -> None:
            other.accept()[0].close()

        hangs_up = threading.Thread(target=hang_up)
        hangs_up.start()
        found = server_checks(hub)["fleet door"]
        hangs_up.join()
    assert (found.state, found.found) == ("fail", f"another program listens at 127.0.0.1:{port}")


def test_unfinished_runs_and_undecided_studies(hub: Path) -> None:
    study = main_study()
    folder = hub / "studies" / study.digest[:16]
    study.write(folder)
    run = hub / "runs" / "tiny-1"
    run.mkdir(parents=True)
    (run / "study.json").write_bytes(study.data)
    checks = server_checks(hub)
    assert checks["runs"].state == "warn"
    assert "tiny-1" in checks["runs"].found
    assert checks[f"study {study.digest[:12]}"].state == "ok"
    (folder / "answers" / "a.approval.json").unlink()
    found = server_checks(hub)[f"study {study.digest[:12]}"]
    assert (found.state, found.found) == ("warn", "tiny-one: no decision of a")
    (run / "result.json").write_bytes(b"{}")
    assert server_checks(hub)["runs"].state == "ok"


def test_limits_are_those_that_the_page_states() -> None:
    assert Limits() == Limits(near_end=timedelta(days=30), disk_warn=10 * GIB, disk_fail=GIB, skew_warn_s=60.0)


def test_a_study_that_was_closed_here_is_no_trouble_any_more(tmp_path: Path) -> None:
    home = joined_home("a", tmp_path)
    name = f"study {main_study().digest[:12]}"
    assert name in agent_checks(home)
    with open_home(home) as site:
        message = CloseRequest(schema="residency.close/1", study=main_study().digest, rosters=())
        session.answer(site, Request("close", encode(message)))
    assert name not in agent_checks(home)

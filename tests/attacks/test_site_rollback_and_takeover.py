"""A restored home, a foreign trust file, a second agent, a second roster, a changed extract: tried on real homes."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from client import enrolment, session
from client.home import AgentHome, only_agent
from client.site import Site
from compliance.canonical import sha256_hex
from compliance.errors import Refused, RunFailed
from compliance.identity import new_signer, parse_envelope, seal
from compliance.messages import JoinRequest, RoundReply, WitnessReply, WitnessRequest, decode, encode
from compliance.roster import Roster, RosterRow
from strategies.wire import Request
from tests.federation import SIZE, TRAINING, consortium, day, entries, joined_home, main_study, open_home, residency
from tests.log_drafts import refusal_body

ZEROS = np.zeros(SIZE, dtype="<f4")


def _contribute(site: Site) -> RoundReply:
    return decode(RoundReply, session.answer(site, main_study().round()).body, "reply")


# --- restored from a backup ---------------------------------------------------------------------------------------


def test_a_ledger_restored_from_a_backup_spends_nothing(tmp_path: Path) -> None:
    home = joined_home("a", tmp_path)
    shutil.copyfile(home / "ledger.db", tmp_path / "backup.db")
    with open_home(home) as site:
        _contribute(site)
    for rest in ("ledger.db-wal", "ledger.db-shm"):
        (home / rest).unlink(missing_ok=True)
    shutil.copyfile(tmp_path / "backup.db", home / "ledger.db")
    with open_home(home) as site:
        with pytest.raises(Refused) as refused:
            site.check_ledger()
        assert refused.value.code == "RSD-1225"
        base = np.ones(SIZE, dtype="<f4")
        request = main_study().round(base, round=2, base_sha256=sha256_hex(base.tobytes()))
        with pytest.raises(Refused) as refused:
            session.answer(site, request)
        assert refused.value.code == "RSD-1225"
        assert site.workbench.specs == []  # type: ignore[attr-defined]


def test_a_log_restored_from_a_backup_beside_a_newer_ledger_is_refused(tmp_path: Path) -> None:
    home = joined_home("a", tmp_path)
    shutil.copyfile(home / "log.db", tmp_path / "backup.db")
    with open_home(home) as site:
        site.record("refusal", refusal_body(0), "")
        _contribute(site)
        site.check_ledger()
    for rest in ("log.db-wal", "log.db-shm"):
        (home / rest).unlink(missing_ok=True)
    shutil.copyfile(tmp_path / "backup.db", home / "log.db")
    with open_home(home) as site:
        for n in range(40):  # growing again makes it no newer
            site.record("refusal", refusal_body(n), "")
        base = np.ones(SIZE, dtype="<f4")
        request = main_study().round(base, round=2, base_sha256=sha256_hex(base.tobytes()))
        for act in (site.check_ledger, lambda: session.answer(site, request)):
            with pytest.raises(Refused, match="the log is older than the ledger") as refused:
                act()
            assert refused.value.code == "RSD-1225"
        assert site.workbench.specs == []  # type: ignore[attr-defined]


def test_a_whole_home_restored_from_a_backup_does_not_join_again(tmp_path: Path) -> None:
    home = joined_home("a", tmp_path)
    backup = Path(shutil.copytree(home, tmp_path / "backup"))
    with open_home(home) as site:
        _contribute(site)
        known = site.log.checkpoint()
    value = decode(JoinRequest, main_study().join().body, "join")
    request = Request("join", encode(value.model_copy(update={"known": known})))
    with open_home(home) as site:
        session.answer(site, request)  # the real home continues what was seen
    with open_home(backup) as site:
        with pytest.raises(Refused) as refused:
            session.answer(site, request)
        assert refused.value.code == "RSD-1225"
        assert "entries" in refused.value.limit


def test_two_agents_cannot_run_on_one_home(tmp_path: Path) -> None:
    home = joined_home("a", tmp_path)
    with only_agent(home):
        second = residency("agent", "start", "--home", home, "--json")
        assert second.code == 7
        assert second.json["error"]["code"] == "RSD-1227"
    with only_agent(home):
        pass


# --- a trust file of somebody else's making -----------------------------------------------------------------------


def _trust(changes: dict[str, object], signers: tuple[str, ...]) -> bytes:
    value = json.loads(parse_envelope(consortium().trust.read_bytes(), "trust").payload)
    made = consortium()
    return seal({**value, **changes}, *(made.signatories[s] for s in signers)).encode() + b"\n"


def _install(tmp_path: Path, data: bytes) -> None:
    home = AgentHome(consortium().copy_home("a", tmp_path))
    (home.path / "trust.json").unlink()
    file = tmp_path / "offered.json"
    file.write_bytes(data)
    enrolment.install_trust(home, file)


def test_a_trust_file_without_the_own_signatorys_signature_is_not_installed(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        _install(tmp_path, _trust({}, ("b", "c", "d")))
    assert refused.value.code == "RSD-1228"
    _install(tmp_path / "right", _trust({}, ("a", "b", "c")))


@pytest.mark.parametrize("role", ["signatory", "dpo"])
def test_a_trust_file_that_names_another_person_for_this_site_is_not_installed(tmp_path: Path, role: str) -> None:
    value = json.loads(parse_envelope(consortium().trust.read_bytes(), "trust").payload)
    stranger = new_signer(role, "a", day(-1), day(300)).identity.as_json()  # type: ignore[arg-type]
    data = _trust({"keys": [*value["keys"], stranger]}, ("a", "b", "c"))
    with pytest.raises(Refused) as refused:
        _install(tmp_path, data)
    assert refused.value.code == "RSD-1209"
    assert role in refused.value.message


# --- one roster for a round ---------------------------------------------------------------------------------------


def _roster(site: Site, reply: RoundReply, **changes: object) -> str:
    row = RosterRow(
        site="a", jurisdiction="DE", outcome="contributed", attempt=reply.attempt, update_sha256=reply.update_sha256,
        charge=reply.charge, commit=reply.commit, decision=reply.decision, transfer=reply.transfer,
    )  # fmt: skip
    value = {
        "schema": "residency.roster/1", "study": main_study().digest, "run": "run-1", "round": 1, "at": day(0),
        "unit": "record", "adjacency": "add_remove",
        "base_sha256": sha256_hex(ZEROS.tobytes()), "result_sha256": "ab" * 32, "recipients": TRAINING, "rows": (row,),
    }  # fmt: skip
    return seal(Roster(**{**value, **changes}).as_json(), consortium().operator).encode().decode()


def _witness(site: Site, roster: str) -> WitnessReply:
    request = WitnessRequest(
        schema="residency.witness/1", study=main_study().digest, roster=roster, offers=(), cosigned=()
    )
    return decode(WitnessReply, session.answer(site, Request("witness", encode(request))).body, "reply")


@pytest.mark.parametrize(
    "changes", [{"result_sha256": "cd" * 32}, {"run": "run-2"}, {"base_sha256": "ef" * 32}, {"at": day(250)}]
)
def test_a_second_roster_of_a_round_is_never_signed(tmp_path: Path, changes: dict[str, object]) -> None:
    with open_home(joined_home("a", tmp_path)) as site:
        reply = _contribute(site)
        first = _roster(site, reply)
        assert _witness(site, first).roster is not None
        assert _witness(site, first).roster is not None  # asked again, the same answer
        assert len(entries(site, "roster")) == 1
        second = _witness(site, _roster(site, reply, **changes))
        assert second.roster is None
        assert "RSD-1224" in second.refused[0]


@pytest.mark.parametrize("changes", [{"base_sha256": "ef" * 32}, {"at": day(250)}, {"at": day(-1)}])
def test_a_roster_with_another_base_or_date_is_not_signed(tmp_path: Path, changes: dict[str, object]) -> None:
    with open_home(joined_home("a", tmp_path)) as site:
        refused = _witness(site, _roster(site, _contribute(site), **changes))
        assert refused.roster is None
        assert entries(site, "roster") == []


# --- the extract, and what nobody foresaw -------------------------------------------------------------------------


def test_an_extract_that_changed_since_its_registration_is_refused(tmp_path: Path) -> None:
    home = consortium().copy_home("a", tmp_path)
    registry = AgentHome(home).registry()
    changed = tmp_path / "extract.csv"
    changed.write_bytes(Path(registry.datasets[0].path).read_bytes() + b"1,50,-,99999\n")
    moved = registry.datasets[0].model_copy(update={"path": str(changed)})
    AgentHome(home).save_registry(registry.model_copy(update={"datasets": (moved,)}))
    with open_home(home) as site:
        with pytest.raises(Refused) as refused:
            session.answer(site, main_study().join())
        assert refused.value.code == "RSD-1226"
        assert entries(site, "reservation", "join") == []


def test_an_unforeseen_error_ends_the_attempt_without_a_second_draw_and_without_its_text(tmp_path: Path) -> None:
    with open_home(joined_home("a", tmp_path)) as site:
        site.workbench.error = RuntimeError("patient Mueller, born 1950")  # type: ignore[attr-defined]
        with pytest.raises(RunFailed) as failed:
            session.answer(site, main_study().round())
        assert (failed.value.code, failed.value.found) == ("RSD-1229", "RuntimeError")
        assert "Mueller" not in json.dumps([e.body for e in entries(site, "failure", "refusal")])
        site.workbench.error = None  # type: ignore[attr-defined]
        with suppress(RunFailed):
            session.answer(site, main_study().round())
        assert len(site.workbench.specs) == 1  # type: ignore[attr-defined]

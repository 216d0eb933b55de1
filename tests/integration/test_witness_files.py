"""From nothing to a cosigned log by the public commands: admitted, asked by file, taken back; and the attacks on it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compliance.canonical import canonical
from compliance.identity import load_public, new_signer, save_signer
from compliance.log import checkpoint, cosign, note
from compliance.log.alarms import alarms_of
from compliance.log.evidence import LogEvidence, build_evidence
from compliance.log.witness_home import WitnessHome
from compliance.trust.root import load_anchor
from tests.desk import Office, make_trusted_office, ok, refused, run
from tests.witnesses import WITNESS, Small, day, grow, request, small


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Office:
    return make_trusted_office(tmp_path_factory.mktemp("office"))


@pytest.fixture
def made(tmp_path: Path) -> Small:
    return small(tmp_path)


def _signed(office: Office, draft: Path) -> None:
    for site in ("berlin", "leeds"):
        ok("consortium", "sign", draft, "--key", office.key(site, "signatory"))
    ok("consortium", "admit", "--install", draft, "--home", office.home)


def test_a_witness_is_admitted_replaced_and_revoked_by_the_sites_alone(office: Office, tmp_path: Path) -> None:
    first = ok("log", "witness", "init", WITNESS, "--home", tmp_path / "w1")
    refused(3, "RSD-2009", "log", "witness", "init", WITNESS, "--home", tmp_path / "w1")
    draft = tmp_path / "draft.json"
    place = ("--jurisdiction", "DE")
    ok("consortium", "admit", "--witness", first["public_file"], *place, "--home", office.home, "--out", draft)
    refused(1, "RSD-6002", "consortium", "admit", "--install", draft, "--home", office.home)
    _signed(office, draft)
    trust = load_anchor(office.trust).trust
    assert [(k.keyid, k.revoked_at) for k in trust.keys_of("witness", WITNESS)] == [(first["keyid"], None)]

    second = ok("log", "witness", "init", WITNESS, "--home", tmp_path / "w2")
    second_file = second["public_file"]
    ok("consortium", "admit", "--witness", second_file, *place, "--home", office.home, "--out", tmp_path / "d2")
    _signed(office, tmp_path / "d2")
    ended = {k.keyid: k.revoked_at for k in load_anchor(office.trust).trust.keys_of("witness", WITNESS)}
    assert (ended[first["keyid"]] is not None, ended[second["keyid"]]) == (True, None)

    words = ("consortium", "revoke", WITNESS, "--reason", "its memory was lost", "--home", office.home)
    assert run(*words).exit_code == 2
    ok(*words, "--out", tmp_path / "d3")
    _signed(office, tmp_path / "d3")
    assert all(k.revoked_at for k in load_anchor(office.trust).trust.keys_of("witness", WITNESS))
    refused(3, "RSD-5110", "consortium", "admit", "--witness", office.root / "berlin" / "signatory.pub.json", *place,
            "--home", office.home, "--out", tmp_path / "d4")  # fmt: skip


def test_a_log_is_cosigned_by_file_and_the_line_is_taken(made: Small, tmp_path: Path) -> None:
    home, trust = made.home("a"), ("--trust", made.trust)
    _asked(made, "a", tmp_path / "q1")
    (done,) = ok("log", "witness", "cosign", tmp_path / "q1", "--home", made.witness, *trust,
                 "--out", tmp_path / "out")["cosigned"]  # fmt: skip
    assert (done["origin"], done["size"]) == ("residency/tiny/a", 3)
    taken = ok("log", "witness", "take", done["file"], "--into", home, *trust)["taken"]
    assert taken == [{"origin": "residency/tiny/a", "size": 3, "witness": WITNESS}]
    with made.log("a") as log:
        assert log.cosigned_sizes() == {WITNESS: 3}
        assert alarms_of(log) == ()
        grow(log)
    _asked(made, "a", tmp_path / "q2")  # proved from nothing: it saw 3 entries
    refused(
        1, "RSD-5043", "log", "witness", "cosign", tmp_path / "q2", "--home", made.witness, *trust, "--out", tmp_path
    )
    _asked(made, "a", tmp_path / "q3", 3)
    ok("log", "witness", "cosign", tmp_path / "q3", "--home", made.witness, *trust, "--out", tmp_path / "out")
    shown = ok("log", "witness", "show", "--home", made.witness)
    assert [(x["origin"], x["size"]) for x in shown["logs"]] == [("residency/tiny/a", 4)]
    # Nothing but public keys and checkpoints is held: no entry's text.
    held = b"".join(path.read_bytes() for path in made.witness.iterdir() if path.name.startswith("witness.db"))
    assert b"refusal 0" not in held


def _asked(made: Small, member: str, file: Path, old: int = 0) -> None:
    """What `log witness ask` writes for the member's log; see test_witness_ask_decided.py."""
    with made.log(member) as log:
        file.write_bytes(request(log, old).encode())


def _evidence(made: Small, file: Path, name: str = "log.db") -> Path:
    with made.log("a", name) as log:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(canonical(build_evidence(log, range(log.size)).model_dump(mode="json")))
    return file


def test_evidence_is_cosigned_and_takes_the_line(made: Small, tmp_path: Path) -> None:
    file, trust = _evidence(made, tmp_path / "run" / "evidence" / "a.json"), ("--trust", made.trust)
    words = ("log", "witness", "cosign", file, "--home", made.witness, *trust, "--out", tmp_path / "out")
    (done,) = ok(*words)["cosigned"]
    ok("log", "witness", "take", done["file"], "--into", tmp_path / "run", *trust)
    end = note.parse(LogEvidence.model_validate_json(file.read_bytes()).checkpoint)
    key = WitnessHome(made.witness).signer().identity.key()
    assert list(cosign.cosigners(end, {WITNESS: key})) == [WITNESS]
    ok(*words)  # asked again, and the same
    with made.log("a") as log:
        grow(log, 2)
    _evidence(made, file)  # the run was closed again: what was cosigned is not its end any more
    refused(1, "RSD-5115", "log", "witness", "take", done["file"], "--into", file, *trust)
    (more,) = ok(*words)["cosigned"]
    ok("log", "witness", "take", more["file"], "--into", file, *trust)


def test_a_second_history_by_file_is_refused_and_shown(made: Small, tmp_path: Path) -> None:
    trust = ("--trust", made.trust)
    out = ("--home", made.witness, *trust, "--out", tmp_path / "out")
    ok("log", "witness", "cosign", _evidence(made, tmp_path / "a.json"), *out)
    with made.log("a", "twin.db") as twin:
        grow(twin, 3)
    twin_file = _evidence(made, tmp_path / "twin.json", "twin.db")
    refused(1, "RSD-5040", "log", "witness", "cosign", twin_file, *out)
    with made.log("a", "twin.db") as twin:
        grow(twin, 1)
    refused(1, "RSD-5011", "log", "witness", "cosign", _evidence(made, twin_file, "twin.db"), *out)
    error = refused(1, "RSD-5040", "log", "witness", "show", "--home", made.witness)
    assert error["found"] == "residency/tiny/a"


def test_a_log_that_shows_two_witnesses_two_histories_is_convicted_by_either(made: Small, tmp_path: Path) -> None:
    """Each witness alone sees a log that grows. Who holds both notes, or asks for both witnesses, sees the fork."""
    other = WitnessHome.make(tmp_path / "w2", "second-union", 300)
    made.write_trust(WitnessHome(made.witness).signer(), other.signer())
    trust = ("--trust", made.trust)
    with made.log("a", "twin.db") as twin:
        grow(twin, 5)
    files = {made.witness: _evidence(made, tmp_path / "a.json"),
             other.root: _evidence(made, tmp_path / "twin.json", "twin.db")}  # fmt: skip
    notes = {}
    for home, file in files.items():
        words = ("log", "witness", "cosign", file, "--home", home, *trust, "--out", tmp_path / home.name)
        notes[home] = ok(*words)["cosigned"][0]["file"]
        ok("log", "witness", "take", notes[home], "--into", file, *trust)
    for home, foreign in ((made.witness, other.root), (other.root, made.witness)):
        ok("verify", files[home], *trust, "--against", notes[home])
        error = refused(1, "RSD-9031", "verify", files[home], *trust, "--against", notes[foreign])
        who = "second-union" if foreign is other.root else WITNESS
        assert (who in error["message"], "RSD-5053" in error["message"]) == (True, True)
        refused(1, "RSD-5115", "log", "witness", "take", notes[foreign], "--into", files[home], *trust)


def test_a_server_is_not_started_with_what_is_no_address(office: Office) -> None:
    told = run("server", "start", "--home", office.home, "--witness", "union=http://witness.org")
    assert (told.exit_code, "RSD-5116" in told.stderr) == (3, True)
    assert not (office.home / "witnesses.json").exists()


def test_only_what_a_known_witness_cosigned_of_this_very_log_is_taken(made: Small, tmp_path: Path) -> None:
    trust = ("--trust", made.trust)
    stranger = new_signer("witness", "stranger", day(-1), day(1))
    with made.log("a") as log, made.log("b") as other:
        text = log.checkpoint()
        by = cosign.cosign(note.parse(text).text, "stranger", stranger.private, 1_800_000_000)
        forged = cosign.cosign(note.parse(text).text, WITNESS, stranger.private, 1_800_000_000)
        moved = WitnessHome(made.witness).signer()
        elsewhere = cosign.cosign(note.parse(other.checkpoint()).text, WITNESS, moved.private, 1_800_000_000)
        notes = {
            name: note.with_signature(note.parse(text), line).encode()
            for name, line in (("stranger", by), ("forged", forged), ("moved", elsewhere))
        }
        notes["foreign"] = note.with_signature(note.parse(text.replace("tiny/a", "tiny/x")), by).encode()
    for name, code, status in (
        ("stranger", "RSD-5002", 1), ("forged", "RSD-5002", 1), ("moved", "RSD-5002", 1), ("foreign", "RSD-5111", 4),
    ):  # fmt: skip
        (tmp_path / name).write_text(notes[name])
        refused(status, code, "log", "witness", "take", tmp_path / name, "--into", made.home("a"), *trust)
    with made.log("a") as log:
        assert log.cosigned_sizes() == {}
    (tmp_path / "b.txt").write_text(notes["stranger"])
    out = ("--home", made.witness, *trust, "--out", tmp_path / "out")
    _asked(made, "b", tmp_path / "qb")
    (done,) = ok("log", "witness", "cosign", tmp_path / "qb", *out)["cosigned"]
    refused(1, "RSD-5115", "log", "witness", "take", done["file"], "--into", made.home("a"), *trust)


def test_a_witness_that_is_restored_cosigns_a_second_history_unless_its_newer_lines_are_known(made: Small) -> None:
    """The reason why a restored memory is retired: alone it cannot know. The operator's alarm can (RSD-5104)."""
    place = WitnessHome(made.witness)
    backup = (made.witness / "witness.db").read_bytes()
    with made.log("a") as log, made.log("a", "twin.db") as twin:
        grow(twin, 3)
        with place.store(place.signer()) as store:
            store.cosign(log.checkpoint(), log.public_key, 0, (), origin=log.origin)
        for name in ("witness.db-wal", "witness.db-shm"):
            (made.witness / name).unlink(missing_ok=True)
        (made.witness / "witness.db").write_bytes(backup)
        with place.store(place.signer()) as store:
            second = store.cosign(twin.checkpoint(), twin.public_key, 0, (), origin=twin.origin)
        assert second.size == log.size
        assert checkpoint.parse_text(note.parse(log.checkpoint()).text) != checkpoint.parse_text(
            note.parse(twin.checkpoint()).text
        )


def test_a_key_of_another_role_is_no_witness(made: Small) -> None:
    for name in ("witness.key", "witness.pub.json"):
        (made.witness / name).unlink()
    private, public = save_signer(new_signer("agent", "a", day(-1), day(1)), made.witness)
    private.rename(made.witness / "witness.key")
    public.rename(made.witness / "witness.pub.json")
    assert load_public(made.witness / "witness.pub.json").role == "agent"
    assert (
        json.loads(run("log", "witness", "show", "--home", made.witness, "--json").stdout)["error"]["code"]
        == "RSD-5110"
    )

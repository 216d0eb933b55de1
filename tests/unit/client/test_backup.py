"""A home in one file and back: consistent, whole, without keys unless asked, and never an older state unseen."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import tarfile
import threading
from pathlib import Path

import pytest

from client import backup, session
from compliance.canonical import canonical, parse_json
from compliance.errors import CheckFailed, InputError, Refused
from compliance.log.backup import BackupList
from compliance.messages import JoinRequest, decode, encode
from compliance.privacy.ledger_records import LogHead
from server import backup as operators
from strategies.wire import Request
from tests.desk import ok, refused, run
from tests.federation import consortium, joined_home, main_study, open_home
from tests.log_drafts import charged, refusal_body


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site that joined and contributed once; read only."""
    place = joined_home("a", tmp_path_factory.mktemp("joined"))
    with open_home(place) as site:
        session.answer(site, main_study().round())
    return place


@pytest.fixture(scope="module")
def saved(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("backup") / "a.tar"
    backup.make(home, out, keys=False)
    return out


def files(home: Path) -> dict[str, bytes]:
    return {str(p.relative_to(home)): p.read_bytes() for p in sorted(home.rglob("*")) if p.is_file()}


def test_what_comes_back_is_what_was_there(home: Path, saved: Path, tmp_path: Path) -> None:
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    listed = backup.restore(saved, tmp_path / "a")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    shutil.copytree(home / "keys", tmp_path / "a" / "keys", dirs_exist_ok=True)
    before, after = files(home), files(tmp_path / "a")
    stores = {"log.db", "ledger.db", "witness.db", "rows.db", "counters.db"}
    assert {n: b for n, b in after.items() if n not in stores} == {
        n: b
        for n, b in before.items()
        if n not in stores and not n.endswith((".lock", "-wal", "-shm")) and "/cache/" not in n
    }
    with open_home(tmp_path / "a") as site, open_home(home) as real:
        assert site.log.leaf_hashes() == real.log.leaf_hashes()
        assert site.log.fsck() == listed.size
        site.check_ledger()
        assert session.answer(site, main_study().round()).body  # the committed bytes are sent again


def test_no_private_key_is_in_it_unless_it_is_asked_for(home: Path, saved: Path, tmp_path: Path) -> None:
    secrets = [p.read_bytes() for p in (home / "keys").iterdir() if p.suffix in {".key", ".secret"}]
    assert len(secrets) >= 3
    data = saved.read_bytes()
    assert not any(secret.strip() in data for secret in secrets)
    assert b"PRIVATE KEY" not in data
    made = backup.make(home, tmp_path / "keys.tar", keys=True)
    assert made.listed.keys
    assert all(secret in (tmp_path / "keys.tar").read_bytes() for secret in secrets)


def test_it_is_taken_while_the_site_writes(home: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(home, tmp_path / "busy"))
    stop, written = threading.Event(), []
    with open_home(place) as site:

        def work() -> None:
            while not stop.is_set():
                written.append(site.record("refusal", refusal_body(len(written)), "").index)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            sizes = [backup.make(place, tmp_path / f"{n}.tar", keys=False).listed.size for n in range(3)]
        finally:
            stop.set()
            thread.join()
    assert sizes == sorted(sizes)
    for n, size in enumerate(sizes):
        assert backup.restore(tmp_path / f"{n}.tar", tmp_path / f"back{n}").size == size


def test_nothing_is_overwritten(home: Path, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="RSD-2009"):
        backup.make(home, saved, keys=False)
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match="RSD-2009"):
        backup.restore(saved, tmp_path / "a")
    assert not any((tmp_path / "a").iterdir())


def test_a_home_that_nobody_may_write_is_named_and_not_the_backup(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(**_: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("compliance.log.backup.tempfile.mkdtemp", denied)
    error = refused(7, "RSD-7001", "agent", "backup", "--home", home, "--out", tmp_path / "b.tar")
    assert f"cannot write {home}:" in error["message"]


def test_another_kind_of_home_or_file_is_refused(home: Path, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="RSD-5067"):
        operators.restore(saved, tmp_path / "hub")
    with pytest.raises(InputError, match="RSD-5067"):
        operators.make(home, tmp_path / "x.tar", keys=False)
    for data in (b"", b"x" * 5000, (home / "log.db").read_bytes()):
        (tmp_path / "wrong").write_bytes(data)
        with pytest.raises(InputError, match="RSD-5067"):
            backup.restore(tmp_path / "wrong", tmp_path / "a")
    assert {p.name for p in tmp_path.iterdir()} == {"wrong"}


def members(file: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(file) as tar:
        return [(m.name, tar.extractfile(m).read()) for m in tar]  # type: ignore[union-attr]


def packed(found: list[tuple[str, bytes]], out: Path) -> Path:
    with tarfile.open(out, "w") as tar:
        for name, data in found:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out


def relisted(found: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """The archive with a list that fits its files: what somebody makes who may write to it."""
    listed = parse_json(found[0][1], "list")
    listed["files"] = [
        {"path": n, "size": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in found[1:]
    ]  # fmt: skip
    return [("backup.json", canonical(listed)), *found[1:]]


def test_a_changed_archive_restores_nothing(saved: Path, tmp_path: Path) -> None:
    real = members(saved)
    at = next(i for i, (name, _) in enumerate(real) if name == "registry.json")
    cases = [
        [*real[:at], ("registry.json", real[at][1][:-1] + b" "), *real[at + 1 :]],
        [*real[:at], *real[at + 1 :]],
        [*real, ("more", b"x")],
        [real[0], *real[:0:-1]],
        real[:1],
    ]
    for n, case in enumerate(cases):
        with pytest.raises(CheckFailed, match="RSD-5066"):
            backup.restore(packed(case, tmp_path / f"{n}.tar"), tmp_path / "a")
    assert {p.suffix for p in tmp_path.iterdir()} == {".tar"}


@pytest.mark.parametrize(
    "name", ["../out", "/etc/x", "a/../../x", "a/./b", ".hidden", "a//b", "", "x" * 300, "a\0b", "..", "a/"]
)
def test_a_path_out_of_the_home_is_refused(saved: Path, tmp_path: Path, name: str) -> None:
    real = members(saved)
    with pytest.raises(InputError, match="RSD-5067"):
        backup.restore(packed(relisted([*real, (name, b"x")]), tmp_path / "x.tar"), tmp_path / "a")
    assert {p.name for p in tmp_path.iterdir()} == {"x.tar"}


def test_a_changed_log_in_a_relisted_archive_is_found(saved: Path, tmp_path: Path) -> None:
    real = members(saved)
    at = next(i for i, (name, _) in enumerate(real) if name == "log.db")
    wrong = real[at][1].replace(b'"kind":"charge"', b'"kind":"commit"')
    assert wrong != real[at][1]
    case = relisted([*real[:at], ("log.db", wrong), *real[at + 1 :]])
    with pytest.raises(CheckFailed, match="RSD-5033"):
        backup.restore(packed(case, tmp_path / "x.tar"), tmp_path / "a")


def test_an_older_ledger_beside_a_newer_log_is_refused(saved: Path, tmp_path: Path) -> None:
    older = joined_home("a", tmp_path)  # before it was charged
    backup.make(older, tmp_path / "old.tar", keys=False)
    ledger = dict(members(tmp_path / "old.tar"))["ledger.db"]
    case = relisted([(n, ledger if n == "ledger.db" else d) for n, d in members(saved)])
    with pytest.raises(Refused, match="RSD-1225") as e:
        backup.restore(packed(case, tmp_path / "x.tar"), tmp_path / "back")
    assert "ledger" in e.value.message
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("more", [0, 1], ids=["another", "older"])
def test_an_older_log_beside_a_newer_ledger_is_refused(tmp_path: Path, more: int) -> None:
    """Also a log without any charge, of which the ledger alone knows."""
    place = joined_home("a", tmp_path)
    with open_home(place) as site:
        charged(site.ledger, LogHead(site.log.origin, site.log.size + more, "0" * 64))
    backup.make(place, tmp_path / "a.tar", keys=False)
    with pytest.raises(Refused, match="RSD-1225") as e:
        backup.restore(tmp_path / "a.tar", tmp_path / "back")
    assert "the log is older than the ledger" in e.value.message
    assert "nothing was restored" in e.value.next
    assert not (tmp_path / "back").exists()


def test_an_old_home_is_refused_by_what_its_peers_remember(home: Path, tmp_path: Path) -> None:
    older = joined_home("a", tmp_path)
    backup.make(older, tmp_path / "old.tar", keys=True)
    backup.restore(tmp_path / "old.tar", tmp_path / "back")
    with open_home(home) as site:
        known = site.log.checkpoint()
    value = decode(JoinRequest, main_study().join().body, "join").model_copy(update={"known": known})
    with open_home(tmp_path / "back") as site, pytest.raises(Refused, match="RSD-1225"):
        session.answer(site, Request("join", encode(value)))


def test_the_operators_home_comes_back_too(tmp_path: Path) -> None:
    hub = Path(shutil.copytree(consortium().hub, tmp_path / "hub"))
    made = operators.make(hub, tmp_path / "hub.tar", keys=False)
    assert {"keys/operator.key", "tls/ca.key"} <= set(made.left_out)
    listed = operators.restore(tmp_path / "hub.tar", tmp_path / "back")
    assert isinstance(listed, BackupList)
    assert files(tmp_path / "back")["consortium.json"] == files(hub)["consortium.json"]


def test_the_commands(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.tar"
    shown = ok("agent", "backup", "--home", home, "--out", out)
    assert (shown["keys"], shown["out"]) == (False, str(out))
    assert "keys/agent.key" in shown["left_out"]
    again = ok("agent", "restore", out, "--home", tmp_path / "back")
    assert (again["size"], again["root"]) == (shown["size"], shown["root"])
    refused(3, "RSD-2009", "agent", "restore", out, "--home", tmp_path / "back")
    refused(3, "RSD-5067", "server", "backup", "--home", home, "--out", tmp_path / "x.tar")
    lines = run("agent", "restore", out, "--home", tmp_path / "more").output
    assert "put the private keys back" in lines


def test_what_lies_behind_a_link_is_told_to_be_left_out(tmp_path: Path) -> None:
    home = joined_home("a", tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (home / "old").symlink_to(tmp_path / "elsewhere")
    (home / "note.json").symlink_to(tmp_path / "elsewhere" / "note.json")
    os.mkfifo(home / "pipe")
    made = backup.make(home, tmp_path / "a.tar", keys=False)
    assert {"old", "note.json", "pipe"} <= set(made.left_out)


ODD = (
    "note to self.txt", "-rf", "~", "a;b|c$(d)'\"", "back\\slash", "Größe (2).csv", "n\u0303", "\U0001f600",
    "two\nlines", "tab\t\x1b[2J", "x" * 255, "backup.json", "trailing ", "deep/" * 30 + "file",
    "a folder/with. dots./file.",
)  # fmt: skip


def test_a_file_of_any_name_comes_back(tmp_path: Path) -> None:
    home = joined_home("a", tmp_path)
    for name in ODD:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(name, encoding="utf-8")
    shown = ok("agent", "backup", "--home", home, "--out", tmp_path / "a.tar")
    assert not set(shown["left_out"]) & set(ODD)
    ok("agent", "restore", tmp_path / "a.tar", "--home", tmp_path / "back")
    assert {name: (tmp_path / "back" / name).read_text(encoding="utf-8") for name in ODD} == {n: n for n in ODD}


def test_a_name_that_is_no_utf_8_is_said_to_be_in_the_way(tmp_path: Path) -> None:
    home = joined_home("a", tmp_path)
    (Path(os.fsdecode(os.fsencode(home) + b"/caf\xe9"))).write_bytes(b"x")
    found = refused(3, "RSD-5068", "agent", "backup", "--home", home, "--out", tmp_path / "a.tar")
    assert found["found"] == "caf\\udce9"
    assert not (tmp_path / "a.tar").exists()
    assert not list(home.glob(".backup-*"))

"""A log as static files: names, contents, what is read back, and every way in which a folder can be wrong."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from compliance import clock
from compliance.clock import now, rfc3339
from compliance.commands.log_tiles import tiles as tiles_command
from compliance.commands.verify import verify
from compliance.errors import CheckFailed, InputError, ResidencyError
from compliance.log import checkpoint, merkle, tiles
from compliance.log.checkpoint import Checkpoint
from compliance.log.store import Compacted, Draft, LogStore
from compliance.log.tiles import Tile
from compliance.log.view import LogView, read_views
from compliance.log.witness import WitnessStore
from compliance.release.bundle_folder import read_folder, write_folder
from tests.world import AT, world

KEY = Ed25519PrivateKey.generate()
SITE = "site-a"
ORIGIN = "anna.example/log"
SIZE = 300
WHEN = AT.strftime("%Y-%m-%dT%H:%M:%SZ")
Files = dict[str, bytes]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("log")
    with LogStore.open(made / "log.db", ORIGIN, KEY) as store:
        store.append_many([Draft("count", {"rows": i + 1, "head": "ab" * 32}) for i in range(SIZE)])
        store.checkpoint()
        store.append("count", {"rows": SIZE, "head": "cd" * 32})  # after the last checkpoint: in no tile
    return made


@pytest.fixture(scope="module")
def view(folder: Path) -> LogView:
    (read,) = read_views(folder)
    return read


@pytest.fixture
def files(view: LogView) -> Files:
    return tiles.files_of(view, entries=True)


def code_of(changed: Files) -> str:
    with pytest.raises(ResidencyError) as e:
        tiles.read_files(changed)
    return e.value.code


def test_names() -> None:
    """The examples of c2sp.org/tlog-tiles."""
    assert Tile(0, 1234067).path == "tile/0/x001/x234/067"
    assert Tile(2, 5, 17).path == "tile/2/005.p/17"
    assert Tile(-1, 1000, 1).path == "tile/entries/x001/000.p/1"
    assert [t.path for t in tiles.hash_tiles(256)] == ["tile/0/000", "tile/1/000.p/1"]
    assert [t.path for t in tiles.entry_bundles(257)] == ["tile/entries/000", "tile/entries/001.p/1"]
    found = list(tiles.hash_tiles(70_000))
    assert [sum(t.level == level and t.width == 256 for t in found) for level in (0, 1, 2)] == [273, 1, 0]
    assert [t.path for t in found if t.width < 256] == ["tile/0/273.p/112", "tile/1/001.p/17", "tile/2/000.p/1"]
    assert list(tiles.hash_tiles(0)) == list(tiles.entry_bundles(0)) == []


def test_what_is_written_is_read_back(view: LogView, files: Files) -> None:
    read = tiles.read_files(files)
    assert (read.origin, read.leaf_hashes) == (ORIGIN, view.leaf_hashes[:SIZE])
    assert read.entries == {i: view.entries[i] for i in range(SIZE)}
    assert read.checkpoints == view.checkpoints[-1:]
    assert read.whole
    assert sorted(files) == [
        "checkpoint",
        *("tile/0/000", "tile/0/001.p/44", "tile/1/000.p/1"),
        *("tile/entries/000", "tile/entries/001.p/44"),
    ]


def test_without_the_entries_only_hashes_are_written(view: LogView) -> None:
    written = tiles.files_of(view, entries=False)
    read = tiles.read_files(written)
    assert read.leaf_hashes == view.leaf_hashes[:SIZE]
    assert not read.entries
    assert not read.whole
    body = view.entries[0].salt.encode()
    assert not any(body in data for data in written.values())


def test_an_empty_log_is_a_checkpoint_alone() -> None:
    signed = checkpoint.sign(Checkpoint(ORIGIN, 0, merkle.EMPTY_ROOT), KEY)
    written = tiles.files_of(LogView(ORIGIN, [], (signed,), {}, whole=True), entries=True)
    assert written == {"checkpoint": signed.encode()}
    assert tiles.read_files(written).size == 0


def test_a_bundle_in_which_an_entry_expired_is_left_out(view: LogView) -> None:
    kept = {i: e for i, e in view.entries.items() if i != 7}
    written = tiles.files_of(replace(view, entries=kept, expired={7: "access"}), entries=True)
    assert "tile/entries/000" not in written
    read = tiles.read_files(written)
    assert sorted(read.entries) == list(range(256, SIZE))
    assert read.leaf_hashes == view.leaf_hashes[:SIZE]
    assert not read.whole


def test_a_log_that_was_compacted_as_tiles(tmp_path: Path) -> None:
    """The compaction entry stands in a later bundle: the reader names what expired, and proves its leaf."""
    peer = Ed25519PrivateKey.generate()
    with (
        LogStore.open(tmp_path / "log.db", ORIGIN, KEY) as store,
        WitnessStore(tmp_path / "witness.db", "berta.example", peer) as witness,
    ):
        store.append_many([Draft("count", {"rows": i + 1, "head": "ab" * 32}) for i in range(SIZE)])
        done = witness.cosign(store.checkpoint(), store.public_key, 0, ())
        store.add_cosignature(done.size, done.line, {"berta.example": peer.public_key()})
        with patch.object(clock, "now", lambda: now() + timedelta(days=2)):
            before = rfc3339(now() + timedelta(days=1))
            store.compact([Compacted("transfer", before, ((3, 5),), "a test", "0" * 64)])
    (view,) = read_views(tmp_path)
    written = tiles.files_of(view, entries=True)
    assert [path for path in written if "entries" in path] == ["tile/entries/001.p/45"]
    read = tiles.read_files(written)
    assert read.expired == view.expired == dict.fromkeys((3, 4, 5), "transfer")
    assert sorted(read.entries) == list(range(256, SIZE + 1))
    assert read.leaf_hashes == view.leaf_hashes


def test_what_cannot_be_seen_is_not_written(view: LogView) -> None:
    for lacking in (replace(view, entries={}), replace(view, checkpoints=())):
        with pytest.raises(InputError, match="RSD-5170"):
            tiles.files_of(lacking, entries=True)


def test_earlier_tiles_may_lie_beside(files: Files) -> None:
    first = struct.unpack(">H", files["tile/entries/000"][:2])[0]
    earlier = {
        "tile/0/000.p/3": files["tile/0/000"][:96],
        "tile/0/001.p/40": files["tile/0/001.p/44"][: 40 * 32],
        "tile/entries/000.p/1": files["tile/entries/000"][: 2 + first],
    }
    assert tiles.read_files(files | earlier).size == SIZE
    assert code_of(files | earlier | {"tile/0/000.p/3": files["tile/0/000"][32:128]}) == "RSD-5172"
    assert code_of(files | earlier | {"tile/0/000.p/3": files["tile/0/000"][:95]}) == "RSD-5171"
    assert code_of(files | earlier | {"tile/entries/000.p/1": files["tile/entries/000"][: 1 + first]}) == "RSD-5173"


@pytest.mark.parametrize(
    "path",
    [
        *("tile/0/000.p/256", "tile/0/000.p/03", "tile/0/000.p/0", "tile/0/000.p/x", "tile/0/000.p/1.p/1"),
        *("tile/0/001", "tile/0/001.p/45", "tile/0/002.p/1", "tile/0/x000/000", "tile/00/000", "tile/-1/000"),
        *("tile/1/001.p/1", "tile/2/000.p/1", "tile/entries/002.p/1", "tile/data/000", "../checkpoint", "README"),
        *("tile/0/000/", "tile/0/../0/000", "checkpoint.p/1"),
    ],
)
def test_nothing_else_may_lie_there(files: Files, path: str) -> None:
    assert code_of(files | {path: files["tile/0/000"]}) == "RSD-5171"


def without(path: str) -> Callable[[Files], Files]:
    return lambda files: {p: d for p, d in files.items() if p != path}


def changed(path: str, change: Callable[[bytes], bytes]) -> Callable[[Files], Files]:
    return lambda files: files | {path: change(files[path])}


def swapped(files: Files) -> Files:
    """Entries 0 and 1 change places, in the bundle and in the tile: then all hashes above are other ones."""
    bundle, hashes = files["tile/entries/000"], files["tile/0/000"]
    one = 2 + struct.unpack_from(">H", bundle)[0]
    two = one + 2 + struct.unpack_from(">H", bundle, one)[0]
    return files | {
        "tile/entries/000": bundle[one:two] + bundle[:one] + bundle[two:],
        "tile/0/000": hashes[32:64] + hashes[:32] + hashes[64:],
    }


def followed_up(files: Files) -> Files:
    """The same, and the level above follows: the root does not."""
    tampered = swapped(files)
    hashes = [tampered["tile/0/000"][i : i + 32] for i in range(0, 8192, 32)]
    return tampered | {"tile/1/000.p/1": merkle.root(hashes)}


WRONG = {
    "no-checkpoint": (without("checkpoint"), "RSD-5171"),
    "no-note": (changed("checkpoint", lambda d: b"\xff" + d), "RSD-5001"),
    "checkpoint-cut": (changed("checkpoint", lambda d: d[:60]), "RSD-5001"),
    "other-size": (changed("checkpoint", lambda d: d.replace(b"\n300\n", b"\n299\n")), "RSD-5171"),
    "huge-size": (changed("checkpoint", lambda d: d.replace(b"\n300\n", b"\n9007199254740991\n")), "RSD-5171"),
    "no-leaves": (without("tile/0/000"), "RSD-5171"),
    "no-last-leaves": (without("tile/0/001.p/44"), "RSD-5171"),
    "no-level-above": (without("tile/1/000.p/1"), "RSD-5171"),
    "tile-cut": (changed("tile/0/001.p/44", lambda d: d[:-1]), "RSD-5171"),
    "tile-too-long": (changed("tile/0/001.p/44", lambda d: d + d[:32]), "RSD-5171"),
    "other-leaf": (changed("tile/0/000", lambda d: d[:40] + b"?" + d[41:]), "RSD-5172"),
    "other-last-leaf": (changed("tile/0/001.p/44", lambda d: d[:-1] + bytes([d[-1] ^ 1])), "RSD-5172"),
    "other-node": (changed("tile/1/000.p/1", lambda d: d[:-1] + bytes([d[-1] ^ 1])), "RSD-5172"),
    "bundle-cut": (changed("tile/entries/001.p/44", lambda d: d[:-1]), "RSD-5173"),
    "bundle-too-long": (changed("tile/entries/001.p/44", lambda d: d + b"\0"), "RSD-5173"),
    "one-entry-more": (changed("tile/entries/001.p/44", lambda d: d + b"\0\0"), "RSD-5173"),
    "bundle-empty": (changed("tile/entries/001.p/44", lambda _: b""), "RSD-5173"),
    "other-entry": (changed("tile/entries/000", lambda d: d[:20] + b"?" + d[21:]), "RSD-5033"),
    "swapped": (swapped, "RSD-5172"),
    "swapped-and-followed-up": (followed_up, "RSD-5172"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_folder_is_refused(files: Files, name: str) -> None:
    change, code = WRONG[name]
    assert code_of(change(files)) == code


def test_links_in_a_folder_are_refused(files: Files, tmp_path: Path) -> None:
    write_folder(tmp_path / "tiles", files, tiles.read_files)
    outside = tmp_path / "outside"
    outside.write_bytes(files["tile/1/000.p/1"])
    linked = tmp_path / "tiles" / "tile/1/000.p/1"
    linked.unlink()
    linked.symlink_to(outside)
    with pytest.raises(CheckFailed, match="RSD-9001"):
        read_folder(tmp_path / "tiles")


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("trust") / "trust.json"
    made.write_bytes(world().trust)
    return made


def test_the_commands(tmp_path: Path, trust: Path) -> None:
    """A site's log as tiles, verified by the trust file alone; one changed byte, another's key, a lone checkpoint."""
    evidence = tmp_path / "evidence.json"
    evidence.write_text(world().evidence(SITE).model_dump_json(), encoding="utf-8")
    out = tmp_path / "tiles"
    ran = CliRunner().invoke(tiles_command, [str(evidence), "--out", str(out), "--json"])
    assert ran.exit_code == 0, ran.output
    told = json.loads(ran.output)
    assert (told["entries"], told["files"]) == (0, sum(p.is_file() for p in out.rglob("*")))

    good = judged(out, trust)
    assert good["ok"]
    assert good["size"] == told["size"]
    assert judged(out / "checkpoint", trust)["ok"]
    again = CliRunner().invoke(tiles_command, [str(evidence), "--out", str(out)])
    assert (again.exit_code, "RSD-2009" in again.output) == (3, True)

    alone = tmp_path / "alone"
    alone.write_bytes((out / "checkpoint").read_bytes())
    assert judged(alone, trust)["error"]["code"] == "RSD-5140"
    leaves = next(p for p in (out / "tile" / "0").rglob("*") if p.is_file())
    whole = leaves.read_bytes()
    leaves.write_bytes(whole[:5] + bytes([whole[5] ^ 1]) + whole[6:])
    assert judged(out, trust)["error"]["code"] == "RSD-9030"
    leaves.write_bytes(whole)
    text = Checkpoint(told["origin"], told["size"], merkle.root(hashes_of(whole))).text()
    assert text in (out / "checkpoint").read_text(encoding="utf-8")
    (out / "checkpoint").write_text(checkpoint.sign(checkpoint.parse_text(text), KEY), encoding="utf-8")
    assert f"not signed by a key of {SITE}" in judged(out, trust)["error"]["message"]


def hashes_of(tile: bytes) -> list[bytes]:
    return [tile[i : i + 32] for i in range(0, len(tile), 32)]


def judged(path: Path, trust: Path) -> dict[str, object] | dict[str, dict[str, str]]:
    ran = CliRunner().invoke(verify, [str(path), "--trust", str(trust), "--at", WHEN, "--json"])
    read: dict[str, object] = json.loads(ran.stdout)
    return read


def test_the_commands_ask_for_one_log_that_can_be_seen(tmp_path: Path, folder: Path) -> None:
    ran = CliRunner().invoke(tiles_command, [str(folder), "--entries", "--out", str(tmp_path / "all")])
    assert (ran.exit_code, "300 entries" in ran.output) == (0, True), ran.output
    for path, data in world().run.items():
        (tmp_path / "run" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / path).write_bytes(data)
    ran = CliRunner().invoke(tiles_command, [str(tmp_path / "run"), "--out", str(tmp_path / "none")])
    assert (ran.exit_code, "RSD-5170" in ran.output) == (3, True)
    assert not (tmp_path / "none").exists()

"""A log as static files: checkpoint, hash tiles and entry bundles of c2sp.org/tlog-tiles, written and read back.

checkpoint                       the signed note
tile/<level>/<n>[.p/<width>]     256 hashes of 32 bytes, fewer in the last tile of a level
tile/entries/<n>[.p/<width>]     256 entries, each after its length (2 bytes, big-endian); only if asked for

Names are made from the checkpoint's size, never taken from what lies in the folder.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from compliance.errors import CheckFailed, InputError
from compliance.log import checkpoint, merkle, note, tree
from compliance.log.checkpoint import Checkpoint
from compliance.log.entry import Entry
from compliance.log.merkle import HASH_SIZE, Subtrees
from compliance.log.view import LogView, seen

WIDTH: Final = 256
CHECKPOINT: Final = "checkpoint"
_HEIGHT: Final = 8
_LENGTH: Final = struct.Struct(">H")
_RULE: Final = "c2sp.org/tlog-tiles"
_NEXT: Final = "obtain the folder again, whole, from the log's site; if it stays so, show it to the auditor"
_ENTRIES: Final = "entries"


@dataclass(frozen=True, slots=True)
class Tile:
    """Tile `n` of a level; level -1 is a bundle of entries. It holds `width` hashes or entries, 1 to 256."""

    level: int
    n: int
    width: int = WIDTH

    @property
    def path(self) -> str:
        """Where it lies, with slashes."""
        digits = f"{self.n:0{-(-len(str(self.n)) // 3) * 3}d}"
        groups = [digits[i : i + 3] for i in range(0, len(digits), 3)]
        level = _ENTRIES if self.level < 0 else self.level
        partial = "" if self.width == WIDTH else f".p/{self.width}"
        return f"tile/{level}/{'/'.join([f'x{g}' for g in groups[:-1]] + groups[-1:])}{partial}"

    @property
    def start(self) -> int:
        """The place in its level of the first hash, or the index of the first entry."""
        return self.n * WIDTH


def hash_tiles(size: int) -> Iterator[Tile]:
    """The tiles of hashes of a tree of `size`, lowest level first, each level in order."""
    level, count = 0, size
    while count:
        yield from _row(level, count)
        level, count = level + 1, count // WIDTH


def entry_bundles(size: int) -> Iterator[Tile]:
    """The bundles of entries of a tree of `size`, in order."""
    return _row(-1, size)


def _row(level: int, count: int) -> Iterator[Tile]:
    for n in range(-(-count // WIDTH)):
        yield Tile(level, n, min(WIDTH, count - n * WIDTH))


def files_of(view: LogView, *, entries: bool) -> dict[str, bytes]:
    """Path -> bytes of the log up to its last signed checkpoint; `entries`: with the bundles of entries.

    A bundle in which an entry expired is left out whole: what is no longer there cannot stand in it, and a shorter
    bundle would be another one. Raises InputError RSD-5170 if no checkpoint was signed, or an entry that is not
    expired cannot be seen.
    """
    if not view.checkpoints:
        raise _cannot(f"log {view.origin} has no signed checkpoint", f"{view.size} entries", "a checkpoint")
    text = view.checkpoints[-1]
    size = checkpoint.parse_text(note.parse(text).text).size
    files = {CHECKPOINT: text.encode()}
    hashes = list(view.leaf_hashes[:size])
    for tile in hash_tiles(size):
        if tile.level and not tile.n:
            hashes = _above(hashes)
        files[tile.path] = b"".join(hashes[tile.start : tile.start + tile.width])
    for tile in entry_bundles(size) if entries else ():
        held = range(tile.start, tile.start + tile.width)
        if not any(i in view.expired for i in held):
            files[tile.path] = b"".join(_prefixed(view, i) for i in held)
    return files


def _prefixed(view: LogView, index: int) -> bytes:
    entry = view.entries.get(index)
    if entry is None:
        raise _cannot(f"entry {index} of log {view.origin} cannot be seen here", "its hash", "the whole log")
    data = entry.encode()
    return _LENGTH.pack(len(data)) + data


def read_files(files: Mapping[str, bytes]) -> LogView:
    """The log in a folder of tiles, given as path -> bytes; every hash is computed again, no signature is judged.

    All tiles of the checkpoint's size must be there, and each level must follow from the one below, up to the
    checkpoint's root. Earlier, narrower tiles may lie beside them if they say the same; nothing else may. Bundles of
    entries may be missing: what is not shown is not in the view. Raises CheckFailed RSD-5171 (a file is missing, too
    much, or of the wrong length), RSD-5172 (a hash), RSD-5173 (a bundle), RSD-5033 (an entry), RSD-5062 (a proof of
    retention); InputError RSD-5001, RSD-5003, RSD-5004 for the checkpoint.
    """
    signed = _checkpoint(files)
    levels = _levels(files, signed.size)
    root = merkle.root_from(_subtrees(levels), signed.size)
    if root != signed.root:
        raise _wrong_hash(f"the tiles of log {signed.origin} lead to another root", root.hex(), signed.root.hex())
    leaves = levels[0] if levels else []
    entries = _entries(files, signed, leaves)
    _refuse_others(files, signed.size)
    return seen(signed.origin, leaves, (files[CHECKPOINT].decode(),), entries)


def _checkpoint(files: Mapping[str, bytes]) -> Checkpoint:
    data = files.get(CHECKPOINT)
    if data is None:
        raise _misfit("the folder has no checkpoint", "no file", CHECKPOINT)
    # What is no UTF-8 becomes characters that a note cannot hold.
    return checkpoint.parse_text(note.parse(data.decode(errors="surrogateescape")).text)


def _levels(files: Mapping[str, bytes], size: int) -> list[list[bytes]]:
    """The hashes of every level; those above the leaves are the ones that the level below leads to."""
    levels: list[list[bytes]] = []
    for tile in hash_tiles(size):
        if not tile.n:
            levels.append([] if not tile.level else _above(levels[-1]))
        data = files.get(tile.path)
        if data is None or len(data) != tile.width * HASH_SIZE:
            found = "no file" if data is None else f"{len(data)} bytes"
            raise _misfit(f"{tile.path} does not fit a tree of {size}", found, f"{tile.width * HASH_SIZE} bytes")
        if not tile.level:
            levels[0] += [data[i : i + HASH_SIZE] for i in range(0, len(data), HASH_SIZE)]
        elif data != (below := b"".join(levels[-1][tile.start : tile.start + tile.width])):
            raise _wrong_hash(f"{tile.path} is not what the tiles below it lead to", data.hex(), below.hex())
    return levels


def _above(hashes: Sequence[bytes]) -> list[bytes]:
    """The hashes of the level above: one for every full tile."""
    whole = len(hashes) // WIDTH * WIDTH
    return [_fold(hashes[i : i + WIDTH]) for i in range(0, whole, WIDTH)]


def _fold(hashes: Sequence[bytes]) -> bytes:
    """The root over a power of two of hashes."""
    while len(hashes) > 1:
        hashes = [merkle.node_hash(hashes[i], hashes[i + 1]) for i in range(0, len(hashes), 2)]
    return hashes[0]


def _subtrees(levels: Sequence[Sequence[bytes]]) -> Subtrees:
    def lookup(level: int, i: int) -> bytes:
        row, within = divmod(level, _HEIGHT)
        return _fold(levels[row][i << within : (i + 1) << within])

    return lookup


def _entries(files: Mapping[str, bytes], signed: Checkpoint, leaves: Sequence[bytes]) -> dict[int, Entry]:
    entries: dict[int, Entry] = {}
    for tile in entry_bundles(signed.size):
        data = files.get(tile.path)
        for index, encoded in enumerate([] if data is None else _split(tile, data), start=tile.start):
            hashed = tree.hashed(signed.origin, index, leaves[index], encoded)
            entries[index] = tree.parsed(signed.origin, index, hashed)
    return entries


def _split(tile: Tile, data: bytes) -> list[bytes]:
    """The entries of a bundle. Raises CheckFailed RSD-5173 unless it holds exactly as many as the tile is wide."""
    found: list[bytes] = []
    at = 0
    while at + _LENGTH.size <= len(data):
        start = at + _LENGTH.size
        at = start + _LENGTH.unpack_from(data, at)[0]
        found.append(data[start:at])
    if at != len(data) or len(found) != tile.width:
        raise CheckFailed(
            "RSD-5173",
            f"{tile.path} is no bundle of {tile.width} entries",
            rule=_RULE,
            found=f"{len(found)} entries, {len(data)} bytes",
            limit=f"{tile.width} entries, each after its length",
            next=_NEXT,
        )
    return found


def _refuse_others(files: Mapping[str, bytes], size: int) -> None:
    """What else lies there must be an earlier, narrower form of a tile that was read."""
    held = {t.path.partition(".p/")[0]: t for t in (*hash_tiles(size), *entry_bundles(size)) if t.path in files}
    for path in files.keys() - {CHECKPOINT, *(t.path for t in held.values())}:
        stem, _, width = path.partition(".p/")
        tile = held.get(stem)
        if tile is None or width not in map(str, range(1, tile.width)):
            raise _misfit(f"{path} is nothing that a tree of {size} has", "a file", "no file")
        _check_narrower(Tile(tile.level, tile.n, int(width)), files[path], files[tile.path])


def _check_narrower(tile: Tile, data: bytes, whole: bytes) -> None:
    if tile.level < 0:
        _split(tile, data)
    elif len(data) != tile.width * HASH_SIZE:
        raise _misfit(f"{tile.path} has another length", f"{len(data)} bytes", f"{tile.width * HASH_SIZE} bytes")
    if not whole.startswith(data):
        raise _wrong_hash(f"{tile.path} is no beginning of the wider tile", data.hex(), whole.hex())


def _cannot(message: str, found: str, limit: str) -> InputError:
    return InputError(
        "RSD-5170",
        message,
        rule="tiles are made of what was signed, and bundles of what is there",
        found=found,
        limit=limit,
        next="give the log.db of the log, after a checkpoint was signed",
    )


def _misfit(message: str, found: str, limit: str) -> CheckFailed:
    return CheckFailed("RSD-5171", message, rule=_RULE, found=found, limit=limit, next=_NEXT)


def _wrong_hash(message: str, found: str, limit: str) -> CheckFailed:
    return CheckFailed("RSD-5172", message, rule=_RULE, found=found[:64], limit=limit[:64], next=_NEXT)

"""JSON Lines: a line an entry, with the whole entry and its leaf hash. Whoever hashes the entry has the leaf."""

from __future__ import annotations

from typing import Final

from compliance.canonical import canonical, parse_canonical
from compliance.errors import ResidencyError
from compliance.export.rows import Format, Row, malformed
from compliance.log.entry import Entry, decode


def _write(entry: Entry, leaf: str, origin: str) -> bytes:
    del origin  # it stands in the statement
    return b'{"entry":%b,"leaf_sha256":"%b"}' % (entry.encode(), leaf.encode())


def _read(line: bytes) -> Row:
    try:
        value = parse_canonical(line, "a line of the export")
        entry = decode(canonical(value["entry"]))
        if set(value) != {"entry", "leaf_sha256"} or not isinstance(value["leaf_sha256"], str):
            raise malformed("a line has other fields", ", ".join(value), "entry, leaf_sha256")
        return Row(entry.index, value["leaf_sha256"], line, entry)
    except (ResidencyError, TypeError, KeyError) as e:
        raise malformed(f"a line is no entry: {e}", line[:80], "an entry with its leaf hash") from e


JSONL: Final = Format("entries.jsonl", b"", b"\n", b"", _write, _read)

"""CSV (RFC 4180, UTF-8): a row an entry, for spreadsheets and databases. What is no plain cell is left out."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import fields
from typing import Final

from compliance.export.flat import Flat, flat
from compliance.export.rows import Format, Row, malformed
from compliance.log.entry import Entry

COLUMNS: Final = tuple(f.name if f.name != "leaf" else "leaf_sha256" for f in fields(Flat))
# A spreadsheet runs what begins so; a cell that begins with the quote itself gets one more, so that it can be undone.
_RUNS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "'")
# Where a comma separates decimals, spreadsheets split at the semicolon, also inside of quotes.
_SPLIT: Final = re.compile(r""";(?=[\s"']*[=+\-@＝＋－＠])""")
_END: Final = b"\r\n"
_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,15}")


def defused(cell: str) -> str:
    """`cell`, with a quote before what a spreadsheet takes for a formula."""
    inside = _SPLIT.sub(";'", cell)
    return f"'{inside}" if cell.startswith(_RUNS) else inside


def _line(cells: tuple[str, ...]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(cells)
    return out.getvalue().encode("utf-8")


def _write(entry: Entry, leaf: str, origin: str) -> bytes:
    del origin  # it stands in the statement
    row = flat(entry, leaf)
    values = (getattr(row, f.name) for f in fields(Flat))
    return _line(tuple("" if v is None else str(v) if isinstance(v, int) else defused(v) for v in values))


def _read(line: bytes) -> Row:
    try:
        (cells,) = csv.reader([line.decode("utf-8")], strict=True)
    except (ValueError, csv.Error) as e:
        raise malformed(f"a row is malformed: {e}", line[:80], f"{len(COLUMNS)} cells") from e
    if len(cells) != len(COLUMNS) or not _INDEX.fullmatch(cells[0]):
        raise malformed("a row has other cells", line[:80], f"{len(COLUMNS)} cells, the index first")
    return Row(int(cells[0]), cells[-1], line)


CSV: Final = Format("entries.csv", _line(COLUMNS) + _END, _END, b"", _write, _read)

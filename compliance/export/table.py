"""CSV (RFC 4180, UTF-8): a row an entry, for spreadsheets and databases. What is no plain cell is left out."""

from __future__ import annotations

import csv
import re
from dataclasses import fields
from operator import attrgetter
from typing import Final

from compliance.export.flat import Flat, flat
from compliance.export.rows import Format, Row, malformed
from compliance.log.entry import Entry

_NAMES: Final = tuple(f.name for f in fields(Flat))
_CELLS: Final = attrgetter(*_NAMES)
COLUMNS: Final = tuple("leaf_sha256" if name == "leaf" else name for name in _NAMES)
# A spreadsheet runs what begins so; a cell that begins with the quote itself gets one more, so that it can be undone.
_RUNS: Final = frozenset("=+-@\t\r\n＝＋－＠'")
# Where a comma separates decimals, spreadsheets split at the semicolon, also inside of quotes.
_SPLIT: Final = re.compile(r""";(?=[\s"']*[=+\-@＝＋－＠])""")
_END: Final = b"\r\n"
_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,15}")


class _Line:
    """What a writer of CSV writes to: it gives the line back."""

    @staticmethod
    def write(line: str) -> str:
        return line


_WRITER: Final = csv.writer(_Line(), lineterminator="")


def defused(cell: str) -> str:
    """`cell`, with a quote before what a spreadsheet takes for a formula."""
    if cell[:1] not in _RUNS and ";" not in cell:
        return cell
    inside = _SPLIT.sub(";'", cell)
    return f"'{inside}" if cell[:1] in _RUNS else inside


def _line(cells: tuple[str, ...]) -> bytes:
    line: str = _WRITER.writerow(cells)  # what `write` gave back
    return line.encode("utf-8")


def _write(entry: Entry, leaf: str, origin: str) -> bytes:
    del origin  # it stands in the statement
    values = _CELLS(flat(entry, leaf))
    return _line(tuple([defused(v) if isinstance(v, str) else "" if v is None else str(v) for v in values]))


def _read(line: bytes) -> Row:
    try:
        (cells,) = csv.reader([line.decode("utf-8")], strict=True)
    except (ValueError, csv.Error) as e:
        raise malformed(f"a row is malformed: {e}", line[:80], f"{len(COLUMNS)} cells") from e
    if len(cells) != len(COLUMNS) or not _INDEX.fullmatch(cells[0]):
        raise malformed("a row has other cells", line[:80], f"{len(COLUMNS)} cells, the index first")
    return Row(int(cells[0]), cells[-1], line)


CSV: Final = Format("entries.csv", _line(COLUMNS) + _END, _END, b"", _write, _read)

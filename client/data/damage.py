"""What is wrong with a site's table: a kind that anybody may read, and for the site's own people where it stands."""

from __future__ import annotations

import csv
import stat
from pathlib import Path
from typing import Final

from compliance.errors import InputError

_AGAIN: Final = "export the dataset as CSV, Parquet or JSON Lines"
_UTF8: Final = "save the file as UTF-8"
_WIDE_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")  # how UTF-16 begins


class Damage(ValueError):
    """`kind`, `limit` and `remedy` are words of this program; `place` (lines, numbers of fields) stays at the site."""

    def __init__(self, kind: str, limit: str, remedy: str, place: str = "") -> None:
        super().__init__(kind)
        self.kind, self.limit, self.remedy, self.place = kind, limit, remedy, place

    def error(self, *, at_the_site: bool) -> InputError:
        """RSD-2301, with the place only if the reader is `at_the_site`. No cell and no name of a column is told."""
        where = f": {self.place}" if at_the_site and self.place else ""
        return InputError(
            "RSD-2301", "the dataset cannot be read as a table", rule="one table, whole, in the format of its suffix",
            found=f"{self.kind}{where}", limit=self.limit, next=self.remedy,
        )  # fmt: skip


def other_suffix(suffixes: tuple[str, ...]) -> Damage:
    """No format that is read."""
    return Damage("another suffix", ", ".join(suffixes), _AGAIN)


def too_many_fields(line: int, fields: int, header: int) -> Damage:
    """A row of a CSV is longer than its header."""
    remedy = "give the row as many fields as the header, and quote fields that hold a comma"
    return Damage("a row with more fields than the header", "as many fields as the header", remedy,
                  f"line {line} has {fields}, the header {header}")  # fmt: skip


def cut_off(line: int, fields: int, header: int) -> Damage:
    """The last row of a CSV is shorter than its header, as where an export broke off."""
    remedy = "export the dataset again: its end seems to be missing"
    return Damage("a last row with fewer fields than the header", "as many fields as the header", remedy,
                  f"line {line} has {fields}, the header {header}")  # fmt: skip


def zero_byte(line: int) -> Damage:
    """A CSV with a zero byte, which text has none of."""
    return Damage("a zero byte", "text without zero bytes", "export the dataset again, as UTF-8", f"line {line}")


def one_name_twice(first: int, second: int) -> Damage:
    """Two columns have one name: which, is told by number, as without a header the first patient stands there."""
    place = f"columns {first} and {second}"
    return Damage("two columns of one name", "one column a name", "give each column a name of its own", place)


def no_object(line: int) -> Damage:
    """A line of JSON Lines that is no object."""
    return Damage("a line that is no JSON object", "one JSON object a line", "correct the line", f"line {line}")


def of_csv(error: csv.Error, line: int) -> Damage:
    """What the reader of CSV stopped at."""
    if "field limit" in str(error):
        kind, limit = "a field that is too long", f"{csv.field_size_limit()} characters a field"
        return Damage(kind, limit, "shorten the field, or close the quote before it", f"line {line}")
    remedy = "close the quote; write a quote inside a quoted field twice"
    return Damage("a quote that does not fit", "quotes around whole fields", remedy, f"line {line}")


def of_encoding(path: Path) -> Damage:
    """What a text file is that is no UTF-8, with its first line that is none."""
    with path.open("rb") as file:
        if file.read(2) in _WIDE_MARKS:
            return Damage("text in UTF-16", "text in UTF-8", _UTF8)
        file.seek(0)
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return Damage("text that is not UTF-8", "text in UTF-8", _UTF8, f"line {number}")
    return Damage("text that is not UTF-8", "text in UTF-8", _UTF8)


def of_library(error: Exception) -> Damage:
    """What another library found. Its message may quote a row; its type is enough."""
    return Damage(type(error).__name__, "a file that is whole", _AGAIN)


def must_be_a_file(path: Path) -> None:
    """Raises InputError RSD-2300 that names the path and what lies there; for the site's own people."""
    try:
        found = _what(path.stat().st_mode)
    except FileNotFoundError:
        found = "a link to nothing" if path.is_symlink() else "nothing"
    except OSError as e:
        found = e.strerror or type(e).__name__
    except ValueError:  # a zero byte in the name
        found = "a name that no file can have"
    if found:
        raise InputError(
            "RSD-2300", f"the dataset at {path} is no file that can be read", rule="a dataset is one plain file",
            found=found, limit="a plain file", next="give the path of the CSV, Parquet or JSON Lines file with --path",
        )  # fmt: skip


def _what(mode: int) -> str:
    """What `mode` is, in words; empty for a plain file."""
    if stat.S_ISREG(mode):
        return ""
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    return next((name for test, name in kinds if test(mode)), "a device")

"""Who a row is about, as keyed hashes: the same person gives the same key in every export, and the key says nothing.

An identifier is compared as people read it: outer space and quotes, letter case, leading zeros, zeros at the end of a
decimal fraction, midnight after a day, and marks that nobody sees (a file's byte order mark) do not count. Two
identifiers that differ only in these are taken for one person: a ledger is shared, or a row left out, once too often
rather than once too seldom.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from client.data.text import as_written
from compliance.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

KEY_BYTES = 16  # a collision among 10^9 rows has probability below 2^-68
_NUMBER = re.compile(r"([-+]?)0*([0-9]+)(?:(\.[0-9]*[1-9])?0*|\.0*)")
_DAY = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})[ t]00:00(?::00(?:\.0+)?)?(?:z|\+00:00)?")


def canonical_id(value: Any) -> str:
    """One text per identifier; "" for a missing one."""
    text = unicodedata.normalize("NFKC", _text(value))
    text = "".join(c for c in text if unicodedata.category(c) != "Cf").strip().strip("\"'").strip().casefold()
    if day := _DAY.fullmatch(text):
        return day[1]
    number = _NUMBER.fullmatch(text)
    return number[1].replace("+", "") + number[2] + (number[3] or "") if number else text


def _text(value: Any) -> str:
    """`as_written`, but a number keeps fifteen digits."""
    if isinstance(value, float) and math.isfinite(value) and not value.is_integer():
        return f"{value:.15g}"  # what every reader of the file agrees on
    return as_written(value) or ""


def subject_key(secret: bytes, parts: Sequence[Any]) -> bytes:
    """HMAC-SHA256 under `secret` over the canonical parts, in order; 16 bytes. `secret` stays at the site."""
    mac = hmac.new(secret, b"residency.subject/1", hashlib.sha256)
    for part in parts:
        text = canonical_id(part).encode("utf-8")
        mac.update(len(text).to_bytes(8, "big") + text)
    return mac.digest()[:KEY_BYTES]


def subject_keys(secret: bytes, table: pd.DataFrame, columns: Sequence[str]) -> list[bytes]:
    """The key of each row by its values in `columns`, in that order, whatever the columns are called.

    Raises InputError RSD-2400 if a row has no value in any of them: nobody could withdraw that row.
    """
    rows = list(zip(*(table[name].tolist() for name in columns), strict=True))
    if any(not any(canonical_id(v) for v in row) for row in rows):
        raise InputError(
            "RSD-2400",
            "the extract has rows without an identifier",
            rule="every row can be withdrawn and recognised",
            found=f"rows with nothing in {', '.join(columns)}",
            limit="a value in every row",
            next="export the identifier for every row, or name other columns",
        )
    return [subject_key(secret, row) for row in rows]

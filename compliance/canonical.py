"""Canonical JSON (RFC 8785) and strict parsing: one value, one sequence of bytes."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from itertools import accumulate
from typing import Any, Final

import rfc8785
from pydantic_core import from_json, to_json

from compliance.errors import InputError

Json = Any  # JSON of unknown shape; pydantic models narrow it at every border
MOST_NESTED: Final = 64  # lists and objects inside each other; what Residency signs needs a dozen
_TEXT: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)  # possessive: linear whatever the input
_BRACKETS: Final = re.compile(rb"[\[\]{}]")
_MOST_INTEGER: Final = 2**53 - 1  # RFC 7493 section 2.2
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def canonical(value: Json) -> bytes:
    """RFC 8785 bytes of `value`. Raises InputError RSD-2001 for floats, integers beyond 2^53 and non-JSON values.

    Floats are refused although RFC 8785 allows them: signed objects hold integers only (milli-eps, micro-clip).
    """
    common, in_order = _common(value)
    if common:
        try:
            return to_json(value) if in_order else _ENCODER.encode(value).encode("utf-8")
        except ValueError:  # half of a surrogate pair: refused below, by its name
            pass
    _refuse_floats(value, "$")
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as e:  # the second: half of a surrogate pair in a key
        raise InputError("RSD-2001", f"this value has no canonical JSON form: {e}", rule="RFC 8785") from e


def _common(value: Json) -> tuple[bool, bool]:
    """Whether the standard encoders write `value` as RFC 8785 does: they escape alike, and sort ASCII keys alike.

    And whether its keys are in order as they are: then a writer need not sort.
    """
    left, in_order = [value], True
    for one in left:  # it grows on the way
        kind = type(one)
        if kind is int:
            if not -_MOST_INTEGER <= one <= _MOST_INTEGER:
                return False, False
        elif kind is dict:
            keys = list(one)
            try:
                if not "".join(keys).isascii():
                    return False, False
            except TypeError:  # a key that is no text
                return False, False
            in_order = in_order and keys == sorted(keys)
            left += [inner for inner in one.values() if type(inner) is not str]
        elif kind is list or kind is tuple:
            left += one
        elif kind is not str and kind is not bool and one is not None:
            return False, False
    return True, in_order


def is_in_order(value: Json) -> bool:
    """Whether `rewritten` gives the canonical form of `value`. False too for what is unusual, and would need a sort."""
    return _common(value) == (True, True)


def rewritten(value: Json) -> bytes:
    """`canonical` of what was read from canonical JSON: its keys are in order, and it is not looked at again."""
    return to_json(value)


def _refuse_floats(value: Json, where: str) -> None:
    if isinstance(value, float):
        raise InputError("RSD-2001", f"{where} is a float", rule="signed objects hold integers only", found=value)
    if isinstance(value, dict):
        for k, v in value.items():
            _refuse_floats(v, f"{where}.{k}")
    elif isinstance(value, list | tuple):
        for i, v in enumerate(value):
            _refuse_floats(v, f"{where}[{i}]")


def parse_canonical(data: bytes, what: str) -> Json:
    """Parse `data` and require that it is byte for byte its own canonical form. Raises InputError RSD-2002."""
    found = _usual(data)
    if found:
        return found[0]
    value = parse_json(data, what)
    if canonical(value) != data:
        raise InputError(
            "RSD-2002",
            f"{what} is not in canonical form",
            rule="RFC 8785",
            found="other bytes",
            limit="canonical bytes",
            next="obtain the file again, as it was signed",
        )
    return value


def is_canonical(data: bytes) -> bool:
    """Whether `parse_canonical` would take `data`."""
    try:
        parse_canonical(data, "JSON")
    except InputError:
        return False
    return True


def _usual(data: bytes) -> tuple[Json] | None:
    """The value of canonical bytes of the common kind, in a tuple; None for whatever needs a closer look."""
    if data.count(b"[") + data.count(b"{") > MOST_NESTED:
        return None
    try:  # a key that occurs twice is written once, and so found out
        value = from_json(data, allow_inf_nan=False)
        same = rewritten(value) == data
    except ValueError:
        return None
    return (value,) if same and is_in_order(value) else None


def parse_json(data: bytes, what: str) -> Json:
    """Strict JSON: UTF-8, no duplicate keys, no NaN, no lone surrogates, nested at most 64 deep (RFC 8259 section 9).

    Raises InputError RSD-2002 naming `what`. Whatever walks the value afterwards may therefore recurse.
    """
    _refuse_depth(data, what)

    def no_duplicates(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
        out = dict(pairs)
        if len(out) != len(pairs):
            names = [key for key, _ in pairs]
            raise ValueError(f"key {next(k for k in names if names.count(k) > 1)!r} occurs twice")
        return out

    def no_constant(name: str) -> Json:
        raise ValueError(f"{name} is not JSON")

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=no_duplicates, parse_constant=no_constant)
        if b"\\u" in data:  # half of a surrogate pair can be written as an escape only, and has no UTF-8
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except ValueError as e:
        raise InputError(
            "RSD-2002", f"{what} is not valid JSON: {e}", rule="RFC 8259", next="obtain the file again"
        ) from e
    return value


def _refuse_depth(data: bytes, what: str) -> None:
    """Count brackets outside texts; runs before anything that recurses, in one pass over the bytes."""
    if data.count(b"[") + data.count(b"{") <= MOST_NESTED:
        return
    steps = (1 if b in b"[{" else -1 for b in _BRACKETS.findall(_TEXT.sub(b"", data)))
    deepest = max(accumulate(steps), default=0)
    if deepest > MOST_NESTED:
        raise InputError(
            "RSD-2002",
            f"{what} is nested too deeply",
            rule="RFC 8259 section 9: a parser may limit the depth",
            found=f"{deepest} levels",
            limit=f"{MOST_NESTED} levels",
            next="obtain the file again",
        )


def b64encode(data: bytes) -> str:
    """Standard base64 with padding (RFC 4648 section 4)."""
    return base64.b64encode(data).decode("ascii")


def b64decode(text: str, what: str) -> bytes:
    """Strict base64: only the one canonical encoding of a value is accepted. Raises InputError RSD-2003."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (ValueError, binascii.Error) as e:
        raise InputError("RSD-2003", f"{what} is not base64: {e}", rule="RFC 4648") from e
    if b64encode(data) != text:
        raise InputError("RSD-2003", f"{what} is not canonical base64", rule="RFC 4648 section 3.5")
    return data


def sha256_hex(data: bytes | memoryview) -> str:
    """SHA-256 as 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()

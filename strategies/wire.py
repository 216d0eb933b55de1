"""What travels between server and site: one JSON body and at most one flat array, both ways.

A `Request` or `Reply` becomes a Flower RecordDict with one ConfigRecord, the body. An array is flat little-endian
float32. Up to `INLINE_VALUES` values it stands as bytes in the body; a larger one, and only a larger one, is the one
array of an ArrayRecord, which Flower cuts into pieces. Flower stores and moves each record as objects of its own, one
call each: a message with its array in the body is two of them, with an ArrayRecord at least five. A flat array is
read with np.frombuffer, without a copy and without np.load. Decoding is strict: every message has one encoding, and
whatever is not exactly that is refused, never repaired.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray

from compliance.canonical import parse_canonical
from compliance.errors import InputError

Vector: TypeAlias = NDArray[np.float32]

MESSAGE_TYPES: Final = {
    "hello": "query",
    "join": "query",
    "round": "train",
    "evaluate": "query",
    "witness": "query",
    "close": "query",
}

MAX_BODY_BYTES: Final = 4 * 2**20
MAX_ARRAY_VALUES: Final = 2**28  # 1 GiB of float32
INLINE_VALUES: Final = 2**18  # 1 MiB of float32

_BODY: Final = "body"
_ARRAY: Final = "array"
_FLAT: Final = "flat"
_DTYPE: Final = "float32"
_STYPE: Final = "residency.f32le"


@dataclass(frozen=True)
class Request:
    """A question to one site. `kind` is a key of MESSAGE_TYPES, `body` canonical JSON, `array` float32[d] or None."""

    kind: str
    body: bytes
    array: Vector | None = None


@dataclass(frozen=True)
class Reply:
    """A site's answer. `body` is canonical JSON, `array` float32[d] or None."""

    body: bytes
    array: Vector | None = None


def message_type(kind: str) -> str:
    """Flower's message type for a kind: "train" for a round, "query" for the rest. Raises InputError RSD-1110."""
    try:
        return MESSAGE_TYPES[kind]
    except KeyError:
        raise _malformed("the message kind is unknown", found=kind[:40], limit=", ".join(MESSAGE_TYPES)) from None


def encode_request(request: Request) -> RecordDict:
    """The RecordDict that carries `request`. Raises InputError RSD-1110, RSD-1111 for what `decode_request` refuses."""
    message_type(request.kind)
    return _encode({"kind": request.kind, "json": request.body}, request.array)


def decode_request(record: RecordDict) -> Request:
    """The exact inverse of `encode_request`; the array is read-only. Raises InputError RSD-1110, RSD-1111."""
    fields, array = _decode(record, {"kind": str, "json": bytes})
    message_type(fields["kind"])
    return Request(fields["kind"], fields["json"], array)


def encode_reply(reply: Reply) -> RecordDict:
    """The RecordDict that carries `reply`. Raises InputError RSD-1110, RSD-1111 for what `decode_reply` refuses."""
    return _encode({"json": reply.body}, reply.array)


def decode_reply(record: RecordDict) -> Reply:
    """The exact inverse of `encode_reply`; the array is read-only. Raises InputError RSD-1110, RSD-1111."""
    fields, array = _decode(record, {"json": bytes})
    return Reply(fields["json"], array)


def _encode(fields: dict[str, Any], array: Vector | None) -> RecordDict:
    _check_body(fields["json"])
    if array is None:
        return RecordDict({_BODY: ConfigRecord(fields)})
    if array.dtype != np.float32 or array.ndim != 1 or array.size > MAX_ARRAY_VALUES:
        raise _bad_array(f"{array.dtype}{list(array.shape)}")
    data = np.ascontiguousarray(array, dtype="<f4").tobytes()
    if array.size <= INLINE_VALUES:
        return RecordDict({_BODY: ConfigRecord({**fields, _FLAT: data})})
    flat = Array(dtype=_DTYPE, shape=(int(array.size),), stype=_STYPE, data=data)
    return RecordDict({_BODY: ConfigRecord(fields), _ARRAY: ArrayRecord({_FLAT: flat})})


def _decode(record: RecordDict, expected: dict[str, type]) -> tuple[dict[str, Any], Vector | None]:
    names = set(record)
    if not {_BODY} <= names <= {_BODY, _ARRAY}:
        raise _malformed("the message holds other records", found=_listed(names), limit=f"{_BODY} and perhaps {_ARRAY}")
    body = record[_BODY]
    inline = isinstance(body, ConfigRecord) and _FLAT in body and _ARRAY not in names
    form = {**expected, _FLAT: bytes} if inline else expected
    if not isinstance(body, ConfigRecord) or {k: type(v) for k, v in body.items()} != form:
        raise _malformed("the body is not of this form", found=type(body).__name__, limit=_listed(set(form)))
    fields: dict[str, Any] = dict(body)
    _check_body(fields["json"])
    if inline:
        return fields, _read_inline(fields.pop(_FLAT))
    return fields, _read_array(record[_ARRAY]) if _ARRAY in names else None


def _check_body(body: bytes) -> None:
    if len(body) > MAX_BODY_BYTES:
        raise _malformed("the body is too large", found=len(body), limit=MAX_BODY_BYTES)
    parse_canonical(body, "the message body")


def _read_inline(data: bytes) -> Vector:
    if len(data) % 4 or len(data) > 4 * INLINE_VALUES:
        raise _bad_array(f"{len(data)} bytes in the body")
    flat: Vector = np.frombuffer(data, dtype="<f4")
    return flat


def _read_array(record: object) -> Vector:
    if not isinstance(record, ArrayRecord) or list(record) != [_FLAT]:
        raise _bad_array("other arrays")
    array = record[_FLAT]
    described = f"{array.dtype}{list(array.shape)} as {array.stype}, {len(array.data)} bytes"
    if array.dtype != _DTYPE or array.stype != _STYPE or len(array.shape) != 1:
        raise _bad_array(described)
    if not INLINE_VALUES < array.shape[0] <= MAX_ARRAY_VALUES or len(array.data) != 4 * math.prod(array.shape):
        raise _bad_array(described)
    flat: Vector = np.frombuffer(array.data, dtype="<f4")
    flat.flags.writeable = False
    return flat


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(str(n)[:40] for n in names)[:8])


def _malformed(message: str, *, found: object, limit: object) -> InputError:
    return InputError(
        "RSD-1110",
        message,
        rule="a message is one JSON body and at most one flat array",
        found=found,
        limit=limit,
        next="run the same Residency version on both sides",
    )


def _bad_array(found: str) -> InputError:
    return InputError(
        "RSD-1111",
        "the array is not one flat float32 array",
        rule="a message carries at most one flat little-endian float32 array",
        found=found,
        limit=f"{_DTYPE}[d] in the body up to d = {INLINE_VALUES}, as {_STYPE} up to d = {MAX_ARRAY_VALUES}",
        next="run the same Residency version on both sides",
    )

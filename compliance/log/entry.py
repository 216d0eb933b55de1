"""One entry of the log, and its one sequence of bytes."""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from compliance.canonical import canonical, parse_canonical, parse_json
from compliance.clock import parse_time, rfc3339
from compliance.errors import InputError
from compliance.log import merkle

Kind = Literal[
    "consortium",
    "policy",
    "law",
    "study",
    "answer",
    "join",
    "reservation",
    "charge",
    "commit",
    "decision",
    "count",
    "transfer",
    "roster",
    "cosign",
    "release",
    "refusal",
    "failure",
    "close",
    "calls",
    "dataset",
    "withdrawal",
    "cancel",
    "evaluation",
]
KINDS: tuple[str, ...] = get_args(Kind)
MAX_ENCODED = 65536  # bytes
_NEXT = "correct the value; the log was not changed"


class Entry(BaseModel):
    """What was recorded. Never patient data.

    index: place in the log, from 0. at: UTC, whole seconds. study: SHA-256 of the study in hex, or "". body: JSON with
    integers only. salt: 16 random bytes in hex, so that the leaf hash of a guessable body reveals nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    index: Annotated[int, Field(ge=0, lt=1 << 53)]
    at: str
    kind: Kind
    study: Annotated[str, Field(pattern=r"\A(?:[0-9a-f]{64})?\z")] = ""
    body: dict[str, Any]
    salt: Annotated[str, Field(pattern=r"\A[0-9a-f]{32}\z")]

    @field_validator("at")
    @classmethod
    def _whole_seconds(cls, at: str) -> str:
        if rfc3339(parse_time(at, "at")) != at:
            raise ValueError("not in the form 2026-11-21T10:00:00Z")
        return at

    @field_validator("body")
    @classmethod
    def _own_copy(cls, body: dict[str, Any]) -> dict[str, Any]:
        copy: dict[str, Any] = parse_json(canonical(body), "body")
        return copy

    def encode(self) -> bytes:
        """Canonical JSON (RFC 8785), at most 65536 bytes. Raises InputError RSD-5021 for more."""
        data = canonical(self.model_dump())
        if len(data) > MAX_ENCODED:
            raise _too_long(len(data))
        return data

    def leaf_hash(self) -> bytes:
        """The hash of this entry in the tree, 32 bytes."""
        return merkle.leaf_hash(self.encode())


def new_entry(index: int, at: str, kind: str, body: dict[str, Any], study: str = "") -> Entry:
    """An entry with a fresh salt. Raises InputError RSD-5020 (a field is wrong), RSD-2001 (no canonical body)."""
    return _validated(
        {"index": index, "at": at, "kind": kind, "study": study, "body": body, "salt": secrets.token_hex(16)}
    )


def decode(data: bytes) -> Entry:
    """Parse the canonical bytes of an entry. Raises InputError RSD-5020, RSD-5021, RSD-2002 (not canonical)."""
    if len(data) > MAX_ENCODED:
        raise _too_long(len(data))
    return _validated(parse_canonical(data, "a log entry"))


def _validated(fields: object) -> Entry:
    try:
        return Entry.model_validate(fields)
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the entry"
        raise InputError(
            "RSD-5020", f"a log entry is malformed at {where}: {first['msg']}", rule="Entry", next=_NEXT
        ) from e


def _too_long(size: int) -> InputError:
    return InputError(
        "RSD-5021",
        "a log entry is too long",
        rule="entries are small; large things are logged by their hash",
        found=f"{size} bytes",
        limit=f"{MAX_ENCODED} bytes",
        next="log a digest of the large part",
    )

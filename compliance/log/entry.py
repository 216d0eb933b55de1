"""One entry of the log, and its one sequence of bytes."""

from __future__ import annotations

import re
import secrets
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from compliance.canonical import MOST_NESTED, canonical, is_in_order, parse_canonical, parse_json, rewritten
from compliance.clock import parse_time, rfc3339
from compliance.errors import InputError, ResidencyError
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
    "alarm",
    "compaction",
    "export",
]
KINDS: tuple[str, ...] = get_args(Kind)
MAX_ENCODED = 65535  # bytes: a bundle of entries (c2sp.org/tlog-tiles) has two for the length
MAX_INDEX = (1 << 53) - 1  # what canonical JSON can carry
_STUDY = re.compile(r"(?:[0-9a-f]{64})?")
_NEXT = "correct the value; the log was not changed"


class Entry(BaseModel):
    """What was recorded. Never patient data.

    index: place in the log, from 0. at: UTC, whole seconds. study: SHA-256 of the study in hex, or "". v: the version
    of the body's shape (`compliance.log.kinds`). body: JSON with integers only. salt: 16 random bytes in hex, so that
    the leaf hash of a guessable body reveals nothing. `decode` and `new_entry` make entries.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    index: Annotated[int, Field(ge=0, le=MAX_INDEX)]
    at: str
    kind: Kind
    study: Annotated[str, Field(pattern=r"\A(?:[0-9a-f]{64})?\z")] = ""
    v: Annotated[int, Field(ge=1, lt=1 << 16)]
    body: dict[str, Any]
    salt: Annotated[str, Field(pattern=r"\A[0-9a-f]{32}\z")]

    @field_validator("at")
    @classmethod
    def _whole_seconds(cls, at: str) -> str:
        if not _is_whole(at):
            raise ValueError("not in the form 2026-11-21T10:00:00Z")
        return at

    def encode(self) -> bytes:
        """Canonical JSON (RFC 8785), at most 65535 bytes. Raises InputError RSD-5021 for more."""
        return self._around(canonical(self.body))

    def _around(self, body: bytes) -> bytes:
        data = _written(self.at, body, self.index, self.kind, self.salt, self.study, self.v)
        _check_length(data)
        return data

    def leaf_hash(self) -> bytes:
        """The hash of this entry in the tree, 32 bytes."""
        return merkle.leaf_hash(self.encode())


class Prepared(NamedTuple):
    """An entry but for its place: what can be wrong with it has been looked at. `body` is canonical."""

    kind: str
    study: str
    v: int
    body: bytes

    def encoded(self, index: int, at: str, salt: str) -> bytes:
        """What `Entry.encode` gives for the entry at this place."""
        return _written(at, self.body, index, self.kind, salt, self.study, self.v)


def prepare(kind: str, body: dict[str, Any], study: str, v: int) -> Prepared:
    """Raises InputError RSD-5020 (study), RSD-2001 (no canonical body), RSD-5021 (too long at whatever place)."""
    if not _STUDY.fullmatch(study):
        raise malformed("study", "neither empty nor a SHA-256 in hex")
    prepared = Prepared(kind, study, v, canonical(body))
    _check_length(prepared.encoded(MAX_INDEX, "2026-11-21T10:00:00Z", new_salt()))
    return prepared


def _written(at: str, body: bytes, index: int, kind: str, salt: str, study: str, v: int) -> bytes:
    tail = f',"index":{index},"kind":"{kind}","salt":"{salt}","study":"{study}","v":{v}}}'
    return b'{"at":"%b","body":%b%b' % (at.encode("ascii"), body, tail.encode("ascii"))


@lru_cache(maxsize=8192)  # the entries of one second follow each other
def _is_whole(at: str) -> bool:
    return rfc3339(parse_time(at, "at")) == at


def new_salt() -> str:
    """16 random bytes in hex."""
    return secrets.token_hex(16)


def new_entry(index: int, at: str, kind: str, body: dict[str, Any], study: str = "", v: int = 1) -> Entry:
    """An entry with a fresh salt. Raises InputError RSD-5020 (a field is wrong), RSD-2001 (no canonical body)."""
    own = parse_json(canonical(body), "body")  # a copy, with its keys in order
    fields = {"index": index, "at": at, "kind": kind, "study": study, "v": v, "body": own, "salt": new_salt()}
    return _validated(fields)


def decode(data: bytes) -> Entry:
    """Parse the canonical bytes of an entry. Raises InputError RSD-5020, RSD-5021, RSD-2002 (not canonical)."""
    _check_length(data)
    return _usual(data) or _validated(parse_canonical(data, "a log entry"))


def _usual(data: bytes) -> Entry | None:
    """The entry in canonical bytes of the common kind; None for whatever needs a closer look."""
    if data.count(b"[") + data.count(b"{") > MOST_NESTED:
        return None
    try:
        entry = Entry.model_validate_json(data)
        same = entry._around(rewritten(entry.body)) == data  # noqa: SLF001 - of this module
    except (ValueError, ResidencyError):  # a validator's own error too
        return None
    return entry if same and is_in_order(entry.body) else None


def _validated(fields: object) -> Entry:
    try:
        return Entry.model_validate(fields)
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the entry"
        raise malformed(where, first["msg"]) from e


def malformed(where: str, why: str) -> InputError:
    """RSD-5020 for what is wrong with an entry, and in which field."""
    return InputError("RSD-5020", f"a log entry is malformed at {where}: {why}", rule="Entry", next=_NEXT)


def _check_length(data: bytes) -> None:
    if len(data) > MAX_ENCODED:
        raise InputError(
            "RSD-5021",
            "a log entry is too long",
            rule="entries are small; large things are logged by their hash",
            found=f"{len(data)} bytes",
            limit=f"{MAX_ENCODED} bytes",
            next="log a digest of the large part",
        )

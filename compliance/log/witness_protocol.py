"""The witness's side of c2sp.org/tlog-witness: what a request asks, and what is answered to it. No sockets."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from compliance.canonical import b64decode, b64encode
from compliance.errors import CheckFailed, InputError, ResidencyError
from compliance.log import checkpoint, merkle, note
from compliance.log.alarms import of_error
from compliance.log.alarms import say as to_stderr
from compliance.log.checkpoint import MAX_SIZE, SignedCheckpoint
from compliance.log.witness import WitnessStore

PATH: Final = "/add-checkpoint"
SIZE_TYPE: Final = "text/x.tlog.size"
TEXT_TYPE: Final = "text/plain; charset=utf-8"
MOST_PROOF: Final = 63  # lines
MOST_REQUEST: Final = note.MAX_NOTE_SIZE + 64 * 48  # bytes: a note, and a proof before it
LogKeys = Mapping[str, Ed25519PublicKey]
"""The logs that a witness knows: origin -> public key."""

_OLD = re.compile(r"old (0|[1-9][0-9]{0,15})")
_RULE = "c2sp.org/tlog-witness"
_LOUD = ("RSD-5040", "RSD-5042")


class Request(NamedTuple):
    """A checkpoint to cosign, with the proof that it continues the tree of `old` entries."""

    old: int
    proof: tuple[bytes, ...]
    note: str

    def encode(self) -> bytes:
        """The body of the request."""
        lines = (f"old {self.old}", *(b64encode(h) for h in self.proof), "", self.note)
        return "\n".join(lines).encode()


class Answer(NamedTuple):
    """What goes back: an HTTP status, a body, its type."""

    status: int
    body: str
    kind: str = TEXT_TYPE


def parse_request(data: bytes) -> Request:
    """Parse the body of a request, strictly, but for the checkpoint in it. Raises InputError RSD-5101, RSD-2003."""
    if len(data) > MOST_REQUEST:
        raise _malformed("it is too long", f"{len(data)} bytes", f"{MOST_REQUEST} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as e:
        raise _malformed("it is not UTF-8", "other bytes", "UTF-8") from e
    head, blank, signed = text.partition("\n\n")
    first, *proof = head.split("\n")
    old = _OLD.fullmatch(first)
    if not blank or old is None or int(old[1]) > MAX_SIZE:
        raise _malformed("it does not begin with an old size, a proof and a blank line", repr(first[:40]), "old N")
    if len(proof) > MOST_PROOF:
        raise _malformed("its proof is too long", f"{len(proof)} lines", f"{MOST_PROOF} lines")
    hashes = tuple(b64decode(line, "a line of the proof") for line in proof)
    if any(len(h) != merkle.HASH_SIZE for h in hashes):
        raise _malformed("a line of the proof is no hash", "another length", f"{merkle.HASH_SIZE} bytes")
    return Request(int(old[1]), hashes, signed)


class WitnessPart:
    """One witness: its memory, and the logs that it knows, which may be replaced while it answers."""

    def __init__(self, store: WitnessStore, keys: LogKeys, say: Callable[[str], None] | None = None) -> None:
        self._store, self.keys = store, keys
        self._say = say or to_stderr
        self._told = set[tuple[str, str]]()

    def answer(self, data: bytes) -> Answer:
        """Answer one add-checkpoint request. Whatever is wrong with it, or here, becomes a status; never raises."""
        try:
            return self._answered(parse_request(data))
        except InputError as e:
            return Answer(400, f"{e.code} {e.message}\n")
        except ResidencyError as e:
            self._say(f"witness: {e}")
            return Answer(500, f"{e.code}\n")

    def _answered(self, request: Request) -> Answer:
        """In the order of the specification."""
        origin = checkpoint.parse_text(note.parse(request.note).text).origin
        key = self.keys.get(origin)
        if key is None:
            return Answer(404, "this witness does not know the log\n")
        try:
            signed = checkpoint.open_signed(request.note, key, origin)
        except CheckFailed as e:
            return Answer(403, f"{e.code} {e.message}\n")
        if request.old > signed.checkpoint.size:
            return Answer(400, "the old size is above the size of the checkpoint\n")
        return self._cosigned(request, signed, key)

    def _cosigned(self, request: Request, signed: SignedCheckpoint, key: Ed25519PublicKey) -> Answer:
        origin = signed.checkpoint.origin
        try:
            done = self._store.cosign(request.note, key, request.old, request.proof, origin=origin, exact=True)
        except CheckFailed as e:
            if e.code in _LOUD and (e.code, origin) not in self._told:
                self._told.add((e.code, origin))
                self._say(of_error(e, origin).line())
            if e.code == "RSD-5011":
                return Answer(422, f"{e.code} {e.message}\n")
            if e.code == "RSD-5042":
                return Answer(403, f"{e.code} {e.message}\n")
            last = self._store.last(origin)
            size = last[0] if last else 0
            if request.old != size:
                return Answer(409, f"{size}\n", SIZE_TYPE)
            return Answer(409, f"{e.code} {e.message}\n")
        return Answer(200, done.line)


def parse_lines(body: str) -> tuple[note.Signature, ...]:
    """The signature lines of an answer. Raises InputError RSD-5001."""
    lines = body.splitlines(keepends=True)
    return tuple(note.parse_line(line) for line in lines[: note.MAX_SIGNATURES])


def with_lines(signed: note.Note, lines: Iterable[note.Signature]) -> note.Note:
    """The note with these signatures added."""
    for line in lines:
        signed = note.with_signature(signed, line)
    return signed


def proved_from(hashes: Sequence[bytes], old: int) -> tuple[bytes, ...]:
    """The proof that a log with these leaf hashes continues its first `old`. Raises InputError RSD-5012."""
    return merkle.consistency_proof(merkle.subtrees_of(hashes), old, len(hashes))


def _malformed(why: str, found: object, limit: object) -> InputError:
    return InputError(
        "RSD-5101", f"the request to a witness is malformed: {why}", rule=_RULE, found=found, limit=limit,
        next="send old N, the lines of the proof, a blank line and the checkpoint",
    )  # fmt: skip


__all__ = ["PATH", "SIZE_TYPE", "Answer", "LogKeys", "Request", "WitnessPart", "parse_lines", "parse_request",
           "proved_from", "with_lines"]  # fmt: skip

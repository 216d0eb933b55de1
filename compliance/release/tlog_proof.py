"""Inclusion proofs as files, c2sp.org/tlog-proof: that one entry is in one log, and who saw that log.

c2sp.org/tlog-proof@v1
extra <base64 of the entry's bytes>
index <number>
<base64 of a hash, one a line>
<blank line>
<the checkpoint with its signature and cosignature lines>

The extra data are the entry itself. Nothing is believed of them until their leaf hash is proved to be in the tree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from compliance.canonical import b64decode, b64encode
from compliance.errors import InputError
from compliance.log import checkpoint, merkle, note
from compliance.log.checkpoint import Checkpoint
from compliance.log.evidence import LogEvidence
from compliance.release.case import Contents

FORM: Final = "c2sp.org/tlog-proof@v1"
FOLDER, SUFFIX = "proofs", ".tlog-proof"
MOST_BYTES: Final = 262_144  # of one file: an entry in base64, 64 hashes, a note
_MOST_HASHES: Final = 64
_INDEX: Final = re.compile(r"index (0|[1-9][0-9]{0,15})")


@dataclass(frozen=True)
class TlogProof:
    """A parsed proof; nothing about it is verified yet. `signed` is the checkpoint note as it stands in the file."""

    entry: bytes
    index: int
    hashes: tuple[bytes, ...]
    signed: str

    def encode(self) -> bytes:
        """The one form of the file."""
        lines = [FORM, f"extra {b64encode(self.entry)}", f"index {self.index}", *map(b64encode, self.hashes)]
        return ("\n".join(lines) + "\n\n" + self.signed).encode()

    @property
    def checkpoint(self) -> Checkpoint:
        """What the log signed, unverified. Raises InputError RSD-5001, RSD-5003, RSD-5004."""
        return checkpoint.parse_text(note.parse(self.signed).text)

    def check_inclusion(self) -> None:
        """Require that the entry is at its index in the checkpoint's tree. Raises CheckFailed RSD-5010."""
        seen = self.checkpoint
        merkle.verify_inclusion(merkle.leaf_hash(self.entry), self.index, seen.size, self.hashes, seen.root)


def parse(data: bytes) -> TlogProof:
    """Parse a proof that carries its entry, strictly. Raises InputError RSD-9140, RSD-2003; verifies nothing."""
    if len(data) > MOST_BYTES:
        raise _malformed("it is too long", f"{len(data)} bytes", f"{MOST_BYTES} bytes")
    try:
        head, blank, signed = data.decode().partition("\n\n")
    except UnicodeDecodeError as e:
        raise _malformed("it is no text", "other bytes", "UTF-8") from e
    lines = head.split("\n")
    if not blank or lines[0] != FORM:
        raise _malformed("it begins or ends otherwise", repr(lines[0][:40]), FORM)
    if len(lines) < 3 or not lines[1].startswith("extra "):
        raise _malformed("it does not carry its entry", repr(lines[1][:20]) if lines[1:] else "no line", "extra")
    index = _INDEX.fullmatch(lines[2])
    if index is None or len(lines) - 3 > _MOST_HASHES:
        raise _malformed("its index or its hashes", repr(lines[2][:40]), f"a number, then at most {_MOST_HASHES} lines")
    hashes = tuple(b64decode(line, "a hash of the proof") for line in lines[3:])
    if any(len(h) != merkle.HASH_SIZE for h in hashes):
        raise _malformed("a hash has another length", "other bytes", f"{merkle.HASH_SIZE} bytes")
    return TlogProof(
        b64decode(lines[1].removeprefix("extra "), "the entry of the proof"), int(index[1]), hashes, signed
    )


def proofs(contents: Contents) -> dict[str, bytes]:
    """Path in the bundle -> proof: of every shown log's close, of the operator's last roster, and of what each
    contributing site committed and sent in its last round. A function of the evidence and the rosters.
    """
    return {
        f"{FOLDER}/{member}.{kind}{SUFFIX}": proof
        for member, indices in _chosen(contents).items()
        for kind, proof in _proved(contents.log(member).evidence, indices).items()
    }


def _chosen(contents: Contents) -> dict[str, dict[str, int]]:
    """Member -> name of the entry -> its index."""
    operator = contents.study.operator.name
    chosen: dict[str, dict[str, int]] = {}
    for member in (operator, *contents.contributing):
        wanted = ("close", "roster") if member == operator else ("close",)
        chosen[member] = {e.kind: e.index for e in contents.log(member).of(contents.study_digest, *wanted)}
    for signed in contents.rosters:
        for row in signed.roster.rows:
            if row.site in chosen and row.commit is not None and row.transfer is not None:
                chosen[row.site] |= {"commit": row.commit.index, "transfer": row.transfer.index}
    return chosen


def _proved(evidence: LogEvidence, indices: Mapping[str, int]) -> dict[str, bytes]:
    """Proofs for those of `indices` that are opened. Step 7 requires that they are, and that the checkpoint fits."""
    leaves = evidence.hashes()
    entries = {held.index: held.entry for held in evidence.entries if held.index < len(leaves)}
    subtrees, out = merkle.subtrees_of(leaves), {}
    for kind, index in indices.items():
        if index in entries:
            path = merkle.inclusion_proof(subtrees, index, len(leaves))
            entry = b64decode(entries[index], f"entry {index} of log {evidence.origin}")
            out[kind] = TlogProof(entry, index, path, evidence.checkpoint).encode()
    return out


def _malformed(why: str, found: object, limit: object) -> InputError:
    return InputError(
        "RSD-9140", f"the proof is malformed: {why}", rule="c2sp.org/tlog-proof", found=found, limit=limit,
        next="obtain the file again, byte for byte",
    )  # fmt: skip

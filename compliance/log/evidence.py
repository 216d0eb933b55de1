"""What a bundle carries of one log, and how anybody checks it offline.

All leaf hashes are carried, 32 bytes an entry: they hide the entries (which are salted), and any checkpoint that a
peer holds can be compared with them. Only the entries that the bundle needs are opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field

from compliance.canonical import b64decode, b64encode, canonical, sha256_hex
from compliance.errors import CheckFailed, ResidencyError
from compliance.log import checkpoint, cosign, expired, merkle, note
from compliance.log.checkpoint import Checkpoint
from compliance.log.cosign import WitnessKeys
from compliance.log.entry import Entry, decode
from compliance.log.store import LogStore

Hex32 = Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]
_MODEL = ConfigDict(frozen=True, extra="forbid")
_REPORT = "do not rely on this log; keep both checkpoints and show them to the auditor and the other sites"


class EvidenceEntry(BaseModel):
    """One opened entry: its index, and base64 of its encoded bytes."""

    model_config = _MODEL

    index: Annotated[int, Field(strict=True, ge=0, lt=1 << 53)]
    entry: str


class LogEvidence(BaseModel):
    """One log up to one checkpoint. `earlier` are notes of smaller, cosigned checkpoints."""

    model_config = _MODEL

    origin: str
    checkpoint: str
    earlier: tuple[str, ...]
    leaf_hashes: tuple[Hex32, ...]
    entries: tuple[EvidenceEntry, ...]

    def hashes(self) -> list[bytes]:
        """The leaf hashes as bytes."""
        return [bytes.fromhex(h) for h in self.leaf_hashes]


@dataclass(frozen=True)
class CheckedLog:
    """What `check_evidence` established. `cosigners`: witness -> sizes of the checkpoints that it cosigned.

    `expired`: index -> record class of the entries whose text went by retention, as an opened compaction entry says.
    """

    origin: str
    size: int
    entries: dict[int, Entry]
    cosigners: dict[str, list[int]]
    expired: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Claim:
    """A checkpoint that the log signed, and who cosigned it."""

    checkpoint: Checkpoint
    cosigners: tuple[str, ...]


def closing_body(entries: Sequence[Entry], rosters: Sequence[str]) -> dict[str, Any]:
    """Body of the entry that closes a study in a log: how many entries it has, and where they stand.

    `entries` are all entries of the study before the closing one, in order; `rosters` the digests of its rosters. The
    count and the SHA-256 of the canonical list of indices make an omission from evidence visible.
    """
    indices = [e.index for e in entries]
    return {
        "rounds": len(rosters),
        "rosters": list(rosters),
        "entries": len(indices),
        "entries_sha256": sha256_hex(canonical(indices)),
    }


def build_evidence(store: LogStore, indices: Iterable[int], size: int | None = None) -> LogEvidence:
    """The evidence for the entries `indices`, up to the checkpoint of `size`.

    In place of one whose text went by retention the compaction entry is opened that names it.

    size None: of the cosigned checkpoints that cover all indices the one with the most cosigners, the largest of
    those; a new checkpoint without cosigners if none covers them. Raises InputError RSD-5034 for an unknown index.
    """
    asked = set(indices)
    gone = store.expired_by(asked)
    wanted = sorted({*asked - gone.keys(), *gone.values()})
    held = {checkpoint.parse_text(n.text).size: n for n in map(note.parse, store.cosigned_checkpoints())}
    least = wanted[-1] + 1 if wanted else 0
    if size is None:
        covering = [(len(n.signatures), s) for s, n in held.items() if s >= least]
        size = max(covering)[1] if covering else store.size
    final = held[size].encode() if size in held else store.checkpoint(size)
    return LogEvidence(
        origin=store.origin,
        checkpoint=final,
        earlier=tuple(n.encode() for s, n in held.items() if s < size),
        leaf_hashes=tuple(h.hex() for h in store.leaf_hashes(size)),
        entries=tuple(EvidenceEntry(index=i, entry=b64encode(store.entry(i).encode())) for i in wanted),
    )


def check_evidence(
    evidence: LogEvidence, log_key: Ed25519PublicKey, witness_keys: WitnessKeys, at_least_cosigners: int
) -> CheckedLog:
    """Check evidence of a log whose key and witnesses are known from elsewhere (trust.json). In this order:

    1. the witnesses' keys differ from each other and from the log's (InputError RSD-5055);
    2. each checkpoint is of this log and signed by it (RSD-5005, RSD-5002), none is larger than the last (RSD-5050);
    3. cosignatures under known names verify (RSD-5002), lines of unknown keys are ignored;
    4. the leaf hashes lead to the root of every checkpoint (RSD-5053, which names the entries and who cosigned), and
       there are exactly as many as the last one says (RSD-5050);
    5. every opened entry is the one that was hashed at its index, once (RSD-5051), and what a compaction entry says
       of the leaves is so (RSD-5062);
    6. at least `at_least_cosigners` witnesses cosigned the last checkpoint (RSD-5054).

    All but the first raise CheckFailed; malformed notes InputError. Entries that are not opened are proved to be as
    they were when cosigned, not to be true.
    """
    cosign.check_witness_keys(witness_keys, log_key)
    final = _claim(evidence.checkpoint, evidence.origin, log_key, witness_keys)
    claims = [*(_claim(text, evidence.origin, log_key, witness_keys) for text in evidence.earlier), final]
    size, hashes = final.checkpoint.size, evidence.hashes()
    if any(c.checkpoint.size > size for c in claims):
        sizes = max(c.checkpoint.size for c in claims)
        raise _inconsistent(f"the evidence of log {evidence.origin} holds a later checkpoint", sizes, size)
    _convict(hashes, claims)
    if len(hashes) != size:
        raise _inconsistent(f"the evidence of log {evidence.origin} has more leaf hashes", len(hashes), size)
    entries = _opened(evidence, hashes)
    if len(final.cosigners) < at_least_cosigners:
        raise _too_few(evidence.origin, final, at_least_cosigners)
    return CheckedLog(evidence.origin, size, entries, _sizes_by_cosigner(claims), _expired(entries, hashes))


def compare_checkpoint(
    log: LogEvidence | Sequence[bytes],
    *held: str,
    origin: str,
    log_key: Ed25519PublicKey,
    witness_keys: WitnessKeys,
    complete: bool = True,
) -> list[Checkpoint]:
    """Compare a log, given as evidence or by its leaf hashes, with checkpoint notes that somebody else kept.

    Raises CheckFailed RSD-5053 if the log is shorter than a held checkpoint or has another root there: then the log
    was rebuilt, and its own signature under the held note proves it. With several notes the message narrows down
    which entries. `complete` False is for an older bundle, which may honestly end before a held checkpoint: larger
    ones are then left out, and only `at_least_cosigners` of `check_evidence` stands against a shortened log.
    Returns the checkpoints that were compared, smallest first. Other errors: as `check_evidence` 1 to 3.
    """
    cosign.check_witness_keys(witness_keys, log_key)
    own = (*log.earlier, log.checkpoint) if isinstance(log, LogEvidence) else ()
    hashes = log.hashes() if isinstance(log, LogEvidence) else log
    compared = [_claim(text, origin, log_key, witness_keys) for text in held]
    compared = [c for c in compared if complete or c.checkpoint.size <= len(hashes)]
    _convict(hashes, [*compared, *(_claim(text, origin, log_key, witness_keys) for text in own)])
    return sorted((c.checkpoint for c in compared), key=lambda c: c.size)


def _claim(text: str, origin: str, log_key: Ed25519PublicKey, witness_keys: WitnessKeys) -> _Claim:
    signed = checkpoint.open_signed(text, log_key, origin)
    return _Claim(signed.checkpoint, tuple(sorted(cosign.cosigners(signed.note, witness_keys))))


def _convict(hashes: Sequence[bytes], claims: Iterable[_Claim]) -> None:
    """Raise RSD-5053 for the smallest claim that the leaf hashes do not fulfil, and name what lies between."""
    ordered = sorted(claims, key=lambda c: c.checkpoint.size)
    roots = merkle.prefix_roots(hashes, (c.checkpoint.size for c in ordered))
    matching = 0
    for claim in ordered:
        size = claim.checkpoint.size
        if roots.get(size) != claim.checkpoint.root:
            raise _rewritten(claim, matching, len(hashes), roots.get(size))
        if claim.cosigners:  # a rebuilt log matches what it signed itself: that clears no entry
            matching = size


def _opened(evidence: LogEvidence, hashes: Sequence[bytes]) -> dict[int, Entry]:
    opened: dict[int, Entry] = {}
    for held in evidence.entries:
        what = f"entry {held.index} of log {evidence.origin}"
        data = b64decode(held.entry, what)
        leaf = hashes[held.index].hex() if held.index < len(hashes) else f"an index below {len(hashes)}"
        if merkle.leaf_hash(data).hex() != leaf:
            raise _not_the_entry(what, merkle.leaf_hash(data).hex(), leaf)
        try:
            entry = decode(data)
        except ResidencyError as e:
            raise _not_the_entry(what, e.message, "an entry") from e
        if entry.index != held.index or held.index in opened:
            raise _not_the_entry(what, f"entry {entry.index}, again or elsewhere", f"entry {held.index}, once")
        opened[held.index] = entry
    return opened


def _expired(entries: dict[int, Entry], hashes: Sequence[bytes]) -> dict[int, str]:
    for entry in entries.values():
        if entry.kind == expired.COMPACTION:
            expired.check_leaves(entry, hashes)
    named = expired.expired_of(entries.values(), len(hashes))
    return {index: name for index, name in named.items() if index not in entries}


def _sizes_by_cosigner(claims: Iterable[_Claim]) -> dict[str, list[int]]:
    sizes: dict[str, set[int]] = {}
    for claim in claims:
        for name in claim.cosigners:
            sizes.setdefault(name, set()).add(claim.checkpoint.size)
    return {name: sorted(sizes[name]) for name in sorted(sizes)}


def _rewritten(claim: _Claim, matching: int, length: int, root: bytes | None) -> CheckFailed:
    c = claim.checkpoint
    who = f"{' and '.join(claim.cosigners)} cosigned" if claim.cosigners else "the log itself signed"
    last = c.size - 1
    which = f"entry {last}" if matching == last else f"entries {matching} to {last}"
    verb = "is" if matching == last else "are"
    article = "the one" if matching == last else "those"
    shown = f"root {root.hex()}" if root else "no root"
    return CheckFailed(
        "RSD-5053",
        f"{which} of log {c.origin} {verb} not {article} that {who}",
        rule="a log only grows; what was cosigned stays",
        found=f"{length} entries in all, {shown} at {c.size}",
        limit=f"{c.size} entries with root {c.root.hex()}",
        next=_REPORT,
    )


def _not_the_entry(what: str, found: str, limit: str) -> CheckFailed:
    return CheckFailed(
        "RSD-5051",
        f"{what} is not the one that was logged there",
        rule="an entry is what its leaf hash says",
        found=found,
        limit=limit,
        next="obtain the evidence again from the site; if it stays so, show it to the auditor",
    )


def _inconsistent(message: str, found: int, limit: int) -> CheckFailed:
    return CheckFailed(
        "RSD-5050",
        message,
        rule="evidence reaches exactly to its checkpoint",
        found=found,
        limit=limit,
        next="obtain the evidence again from the site",
    )


def _too_few(origin: str, final: _Claim, at_least: int) -> CheckFailed:
    return CheckFailed(
        "RSD-5054",
        f"too few witnesses cosigned log {origin} at {final.checkpoint.size} entries",
        rule="without witnesses a log can be rebuilt unseen",
        found=f"{len(final.cosigners)} ({', '.join(final.cosigners) or 'nobody'})",
        limit=f"at least {at_least}",
        next="have the checkpoint cosigned and export the evidence again",
    )

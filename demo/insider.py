"""An insider at one site: cuts an entry out of a copy of the log, rebuilds the tree, signs it with the site's real key.

The forged evidence is sound by itself: hashes, root and signature fit. Only a checkpoint that a peer cosigned before,
and kept, contradicts it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from compliance.canonical import b64encode, canonical
from compliance.errors import RunFailed
from compliance.files import write_durably
from compliance.identity import Signer, load_signer
from compliance.log import checkpoint, merkle
from compliance.log.checkpoint import Checkpoint
from compliance.log.entry import Entry
from compliance.log.evidence import EvidenceEntry, LogEvidence, build_evidence
from compliance.log.store import LogStore
from compliance.log.witness import WitnessStore
from compliance.trust.root import Anchor


@dataclass(frozen=True)
class Forgery:
    """What the insider made: where, and which entry of the real log is gone."""

    evidence: Path
    honest: Path
    cut_index: int
    entries: int


def denies(peer: str) -> Callable[[Entry], bool]:
    """Whether an entry is the decision that denied `peer` the model."""
    return lambda e: e.kind == "decision" and e.body.get("peer") == peer and e.body.get("effect") == "deny"


def forge(home: Path, anchor: Anchor, site: str, peer: str, out: Path) -> Forgery:
    """Copy the site's log, write its honest evidence, and beside it the one without the denial of `peer`.

    Raises RunFailed RSD-8905 when the log holds no such denial.
    """
    signer = load_signer(home / "keys" / "agent.key")
    copy = out / f"{site}.log.copy.db"
    copy_database(home / "log.db", copy)
    with LogStore.open(copy, anchor.trust.log_origin(site), signer.private) as store:
        entries = store.entries()
        honest = build_evidence(store, range(len(entries)), len(entries))
    cut = next((e.index for e in entries if denies(peer)(e)), None)
    if cut is None:
        raise RunFailed("RSD-8905", f"the log of {site} holds no denial of {peer}", found="none", limit="one entry")
    kept = [e.model_copy(update={"index": i}) for i, e in enumerate(x for x in entries if x.index != cut)]
    forged = rebuild(anchor.trust.log_origin(site), kept, signer)
    paths = out / f"{site}.evidence.honest.json", out / f"{site}.evidence.forged.json"
    for path, evidence in zip(paths, (honest, forged), strict=True):
        write_durably(path, canonical(evidence.model_dump(mode="json")))
    return Forgery(paths[1], paths[0], cut, len(entries))


def copy_database(source: Path, target: Path) -> None:
    """A consistent copy of an SQLite file that others may have open."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)


def rebuild(origin: str, entries: list[Entry], signer: Signer) -> LogEvidence:
    """Evidence of a log with exactly these entries, under a checkpoint that the real key signs."""
    hashes = [e.leaf_hash() for e in entries]
    root = merkle.root(hashes)
    return LogEvidence(
        origin=origin,
        checkpoint=checkpoint.sign(Checkpoint(origin, len(hashes), root), signer.private),
        earlier=(),
        leaf_hashes=tuple(h.hex() for h in hashes),
        entries=tuple(EvidenceEntry(index=e.index, entry=b64encode(e.encode())) for e in entries),
    )


def held_by_peer(home: Path, anchor: Anchor, peer: str, origin: str, out: Path) -> list[Path]:
    """The checkpoints of `origin` that `peer` cosigned and kept, each as a file; oldest first."""
    signer = load_signer(home / "keys" / "agent.key")
    with WitnessStore(home / "witness.db", anchor.trust.witness_name(peer), signer.private) as witness:
        notes = witness.notes(origin)
    paths = []
    for i, text in enumerate(notes):
        path = out / f"held-by-{peer}-{i:03d}.note"
        write_durably(path, text.encode("utf-8"))
        paths.append(path)
    return paths

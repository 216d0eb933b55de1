"""A site's books: its log, and what it cosigned of the others' logs. Safe for several threads and processes at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from client.home import AgentHome
from compliance.canonical import Json
from compliance.errors import Refused, ResidencyError
from compliance.identity import Signer
from compliance.log import merkle
from compliance.log.alarms import of_error, raise_alarm
from compliance.log.checkpoint import open_signed
from compliance.log.store import LogStore
from compliance.log.witness import WitnessStore
from compliance.messages import CheckpointOffer
from compliance.privacy.ledger_records import LogHead
from compliance.roster import EntryRef
from compliance.trust.root import Anchor

_KEPT_OFFERS = 64


def log_head(log: LogStore) -> LogHead:
    """The log as it is now, for the ledger to keep."""
    size = log.size
    return LogHead(log.origin, size, log.root(size).hex())


def check_log_not_older(log: LogStore, seen: Mapping[str, LogHead]) -> None:
    """The log continues what the ledger's charges found. Raises Refused RSD-1225 for a log that was put back."""
    refusal = log_put_back(log.origin, log.size, log.root, seen)
    if refusal is not None:
        raise refusal


def log_put_back(origin: str, size: int, root: Callable[[int], bytes], seen: Mapping[str, LogHead]) -> Refused | None:
    """RSD-1225 if the log is no continuation of what the ledger's charges `seen` found; `root` over its first entries.

    Another consortium's log beside the ledger of the same data is none of its business.
    """
    known = seen.get(origin)
    if known is None or (size >= known.size and root(known.size).hex() == known.root):
        return None
    return Refused(
        "RSD-1225",
        "the log is older than the ledger beside it, or another one",
        rule="what was spent stays spent, and stays on record",
        found=f"{size} entries",
        limit=f"a continuation of the {known.size} entries that a charge found",
        next="restore the newest log; the ledger holds what was spent",
    )


class Books:
    """One handle on the books of a site; whoever needs them in another thread opens handles of its own."""

    def __init__(self, home: AgentHome) -> None:
        self.home = home
        self.name = home.config.site
        self.anchor: Anchor = home.anchor()
        self.signer: Signer = home.signer()
        self.log: LogStore = home.log(self.anchor, self.signer)
        self.witness: WitnessStore = home.witness(self.anchor, self.signer)
        self._seen: set[int] = set()  # sizes that the operator says others have seen

    def close(self) -> None:
        """Close the stores."""
        self.log.close()
        self.witness.close()

    def record(self, kind: str, body: dict[str, Json], study: str) -> EntryRef:
        """Append to the log; it is on disk when this returns."""
        added = self.log.append(kind, body, study)
        return EntryRef(origin=self.log.origin, index=added.index, leaf=added.leaf_hash.hex())

    def record_once(self, kind: str, body: dict[str, Json], study: str, since: int = 0) -> EntryRef:
        """`record`, unless the log holds just this for the study: what is done again after a crash stands there once.

        `since`: the index before which it cannot stand; the log is read from there.
        """
        for entry in self.log.entries(since, study=study, kind=kind):
            if entry.body == body:
                return EntryRef(origin=self.log.origin, index=entry.index, leaf=entry.leaf_hash().hex())
        return self.record(kind, body, study)

    def record_refusal(self, error: ResidencyError, study: str) -> None:
        """Log what was refused before the refusal is answered."""
        self.record("refusal", {**error.as_json()}, study)

    def offer(self) -> CheckpointOffer:
        """The log's checkpoint now, with proofs from the sizes that others may have cosigned."""
        size = self.log.size
        known = {*self.log.signed_sizes(_KEPT_OFFERS), *self.log.cosigned_sizes().values(), *self._seen}
        earlier = sorted(s for s in known if 0 < s <= size)  # on disk: a restart forgets none
        proofs = {str(s): tuple(h.hex() for h in self.log.consistency_proof(s, size)) for s in earlier}
        return CheckpointOffer(origin=self.log.origin, note=self.log.checkpoint(size), proofs=proofs)

    def prove_from(self, sizes: tuple[int, ...]) -> None:
        """Others hold checkpoints of these sizes: the next offer proves from there."""
        self._seen = set(sizes)

    def check_not_restored(self, known: str) -> None:
        """This site's log continues `known`, its own checkpoint as others last saw it. Raises Refused RSD-1225.

        A home restored from a backup would train and spend again what it has forgotten.
        """
        if not known:
            return
        seen = open_signed(known, self.log.public_key, self.log.origin).checkpoint
        size = self.log.size
        self._seen.add(seen.size)
        if seen.size > size or merkle.root(self.log.leaf_hashes(seen.size)) != seen.root:
            refusal = Refused(
                "RSD-1225",
                "this site's log is older than the one that others have seen, or another one",
                rule="a restored home may not spend again",
                found=f"{size} entries",
                limit=f"a continuation of {seen.size} entries",
                next="restore the newest home; if it is lost, retire the data source with the DPO's advice",
            )
            raise_alarm(self.log, of_error(refusal, self.log.origin))
            raise refusal

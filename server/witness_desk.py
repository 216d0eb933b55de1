"""Keeps the members' checkpoints in circulation: each is shown to the others, and their cosignatures go back."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from compliance.errors import Refused, ResidencyError
from compliance.log.store import LogStore
from compliance.log.witness import WitnessStore
from compliance.messages import CheckpointOffer, CosignedLine
from compliance.roster import EntryRef
from compliance.trust.root import Anchor

_KEPT_OFFERS = 64


class WitnessDesk:
    """The operator's part in cosigning: it shows checkpoints around, and cosigns the sites' logs itself."""

    def __init__(self, anchor: Anchor, log: LogStore, witness: WitnessStore) -> None:
        self._anchor, self._log, self._witness = anchor, log, witness
        self._offers: dict[str, CheckpointOffer] = {}
        self._lines: dict[tuple[str, int], dict[str, str]] = {}

    def show(self, site: str, offer: CheckpointOffer, *covered: EntryRef) -> None:
        """Take the newest checkpoint of `site`, and cosign it as the operator; only then is it shown to others.

        `covered`: entries that it must cover, in log order. Raises Refused RSD-8220 for the checkpoint of another log
        or entries that are not its own, not in order or beyond it, CheckFailed RSD-5xxx for one that does not continue.
        """
        trust = self._anchor.trust
        if offer.origin != trust.log_origin(site):
            raise _not_its_own(site, "a checkpoint of another log", offer.origin, trust.log_origin(site))
        key = trust.log_key(site).key()
        last = self._witness.last(offer.origin)
        old = last[0] if last else 0
        proof = offer.proof(old)
        done = self._witness.cosign(offer.note, key, old, proof, origin=offer.origin)
        _check_covered(site, covered, offer.origin, done.size)
        self._offers[offer.origin] = offer
        self._keep(CosignedLine(origin=offer.origin, size=done.size, witness=self._witness.name, line=done.line))

    def last_note(self, site: str) -> str:
        """The last checkpoint of the site's log that was cosigned here; empty if there is none."""
        return self._witness.last_note(self._anchor.trust.log_origin(site))

    def offers_for(self, site: str) -> tuple[CheckpointOffer, ...]:
        """The checkpoints that `site` is asked to cosign: all but its own, the operator's included."""
        own = self._anchor.trust.log_origin(site)
        return (*(o for origin, o in sorted(self._offers.items()) if origin != own), self._own_offer())

    def _own_offer(self) -> CheckpointOffer:
        size = self._log.size
        known = {*self._log.signed_sizes(_KEPT_OFFERS), *self._log.cosigned_sizes().values()}
        earlier = sorted(s for s in known if 0 < s <= size)
        proofs = {str(s): tuple(h.hex() for h in self._log.consistency_proof(s, size)) for s in earlier}
        return CheckpointOffer(origin=self._log.origin, note=self._log.checkpoint(size), proofs=proofs)

    def take(self, site: str, line: CosignedLine) -> None:
        """Keep a cosignature that `site` gave; one on the operator's own log is verified and goes into its store.

        Raises Refused RSD-8220 for a line under another witness's name, CheckFailed RSD-5xxx if it does not verify.
        """
        name = self._anchor.trust.witness_name(site)
        if line.witness != name:
            raise _not_its_own(site, "a cosignature under another name", line.witness, name)
        self._keep(line)

    def _keep(self, line: CosignedLine) -> None:
        if line.origin == self._log.origin:
            self._log.add_cosignature(line.size, line.line, self.witness_keys())
        else:
            self._lines.setdefault((line.origin, line.size), {})[line.witness] = line.line

    def witness_keys(self) -> dict[str, Ed25519PublicKey]:
        """Names and keys of the sites, as witnesses of the operator's log."""
        trust = self._anchor.trust
        return {trust.witness_name(s.name): trust.log_key(s.name).key() for s in trust.sites}

    def lines_for(self, site: str) -> tuple[CosignedLine, ...]:
        """The cosignatures that belong on the log of `site`, given out once."""
        own = self._anchor.trust.log_origin(site)
        found = [key for key in self._lines if key[0] == own]
        return tuple(
            CosignedLine(origin=own, size=key[1], witness=name, line=line)
            for key in sorted(found)
            for name, line in sorted(self._lines.pop(key).items())
        )

    def try_show(self, site: str, offer: CheckpointOffer) -> ResidencyError | None:
        """`show`, with the refusal returned: one site's broken log must not end the others' run."""
        try:
            self.show(site, offer)
        except ResidencyError as e:
            return e
        return None

    def try_take(self, site: str, line: CosignedLine) -> ResidencyError | None:
        """`take`, with the refusal returned."""
        try:
            self.take(site, line)
        except ResidencyError as e:
            return e
        return None


def _check_covered(site: str, covered: tuple[EntryRef, ...], origin: str, size: int) -> None:
    strange = [ref.origin for ref in covered if ref.origin != origin]
    if strange:
        raise _not_its_own(site, "entries of another log", strange[0], origin)
    indices = [ref.index for ref in covered]
    if indices != sorted(set(indices)) or any(i >= size for i in indices):
        raise _not_its_own(site, "entries out of order or beyond its log", str(indices), f"rising, below {size}")


def _not_its_own(site: str, what: str, found: str, limit: str) -> Refused:
    return Refused(
        "RSD-8220",
        f"site {site} sent {what}",
        rule="a site speaks for its own log and under its own name",
        found=found[:200],
        limit=limit,
        next="tell the site's engineer; the run goes on without it",
    )

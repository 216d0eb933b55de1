"""Keeps the members' checkpoints in circulation: each is shown to the others, and their cosignatures go back."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from compliance.errors import ResidencyError
from compliance.log import checkpoint
from compliance.log.store import LogStore
from compliance.log.witness import WitnessStore
from compliance.messages import CheckpointOffer, CosignedLine
from compliance.trust.root import Anchor

_KEPT_OFFERS = 16


class WitnessDesk:
    """The operator's part in cosigning: it shows checkpoints around, and cosigns the sites' logs itself."""

    def __init__(self, anchor: Anchor, log: LogStore, witness: WitnessStore) -> None:
        self._anchor, self._log, self._witness = anchor, log, witness
        self._offers: dict[str, CheckpointOffer] = {}
        self._lines: dict[tuple[str, int], dict[str, str]] = {}
        self._offered: list[int] = []

    def show(self, offer: CheckpointOffer) -> None:
        """Take a site's newest checkpoint, and cosign it as the operator."""
        self._offers[offer.origin] = offer
        trust = self._anchor.trust
        owner = next(s.name for s in trust.sites if trust.log_origin(s.name) == offer.origin)
        key = trust.log_key(owner).key()
        last = self._witness.last(offer.origin)
        old = last[0] if last else 0
        proof = [bytes.fromhex(h) for h in offer.proofs.get(str(old), ())]
        done = self._witness.cosign(offer.note, key, old, proof, origin=offer.origin)
        self.take(CosignedLine(origin=offer.origin, size=done.size, witness=self._witness.name, line=done.line))

    def offers_for(self, site: str) -> tuple[CheckpointOffer, ...]:
        """The checkpoints that `site` is asked to cosign: all but its own, the operator's included."""
        own = self._anchor.trust.log_origin(site)
        return (*(o for origin, o in sorted(self._offers.items()) if origin != own), self._own_offer())

    def _own_offer(self) -> CheckpointOffer:
        size, key = self._log.size, self._log.public_key
        cosigned = [checkpoint.open_signed(n, key).checkpoint.size for n in self._log.cosigned_checkpoints()]
        earlier = sorted({s for s in [*cosigned, *self._offered] if 0 < s <= size})[-_KEPT_OFFERS:]
        self._offered = [*self._offered[-_KEPT_OFFERS:], size]
        proofs = {str(s): tuple(h.hex() for h in self._log.consistency_proof(s, size)) for s in earlier}
        return CheckpointOffer(origin=self._log.origin, note=self._log.checkpoint(size), proofs=proofs)

    def take(self, line: CosignedLine) -> None:
        """Keep a cosignature; one on the operator's own log goes into that log's store."""
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

    def try_show(self, offer: CheckpointOffer) -> ResidencyError | None:
        """`show`, with the refusal returned: one site's broken log must not end the others' run."""
        try:
            self.show(offer)
        except ResidencyError as e:
            return e
        return None

"""Keeps the members' checkpoints in circulation: each is shown to the others, and their cosignatures go back."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import partial

from compliance.clock import now
from compliance.errors import CheckFailed, Refused, ResidencyError
from compliance.log import checkpoint, cosign, note
from compliance.log.alarms import Alarm, add_cosignature, alarm, of_checkpoint, of_silence, raise_alarm
from compliance.log.store import LogStore
from compliance.log.witness import WitnessStore
from compliance.messages import CheckpointOffer, CosignedLine
from compliance.roster import EntryRef
from compliance.trust.root import Anchor
from compliance.trust.witnesses import witness_keys
from server.outside_witnesses import OutsideWitnesses, Shown

_KEPT_OFFERS = 64


class WitnessDesk:
    """The operator's part in cosigning: it shows checkpoints around, and cosigns the sites' logs itself."""

    def __init__(self, anchor: Anchor, log: LogStore, witness: WitnessStore, study: str = "") -> None:
        """`study`: the digest of the one that a run is of; its alarms stand in the evidence of the study."""
        self._anchor, self._log, self._witness, self._study = anchor, log, witness, study
        self._own: CheckpointOffer | None = None
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
        try:
            done = self._witness.cosign(offer.note, key, old, proof, origin=offer.origin)
        except CheckFailed as e:
            told = of_checkpoint(e, offer.origin, proved=str(old) in offer.proofs, direct=True)
            if told is not None:
                raise_alarm(self._log, told, self._study)
            raise
        _check_covered(site, covered, offer.origin, done.size)
        self._offers[offer.origin] = offer
        self._keep(CosignedLine(origin=offer.origin, size=done.size, witness=self._witness.name, line=done.line))

    def last_note(self, site: str) -> str:
        """The last checkpoint of the site's log that was cosigned here; empty if there is none."""
        return self._witness.last_note(self._anchor.trust.log_origin(site))

    def offers_for(self, site: str) -> tuple[CheckpointOffer, ...]:
        """The checkpoints that `site` is asked to cosign: all but its own, the operator's included."""
        own = self._anchor.trust.log_origin(site)
        return (*(o for origin, o in sorted(self._offers.items()) if origin != own), self._own or self._own_offer())

    def begin_turn(self) -> None:
        """From now on everybody is offered the same checkpoint of the operator's log: the one of now."""
        self._own = self._own_offer()

    def ask_outside(self, outside: OutsideWitnesses, *, at_once: bool = False) -> list[tuple[str, ResidencyError]]:
        """Have all checkpoints that are shown now cosigned by the outside witnesses; what failed, by address."""
        if not outside:
            return []
        own = self._own or self._own_offer()
        shown = [Shown(o.origin, o.note, partial(_proof_of, o)) for _, o in sorted(self._offers.items())]
        came = outside.ask([*shown, Shown(own.origin, own.note, partial(self._own_proof, own))], at_once=at_once)
        for line in came.lines:
            self._keep(line)
        for address, origin, cosigned, size in dict.fromkeys(came.ahead):
            found = f"{size} entries, and {address} says, unproved, that it cosigned {cosigned}"
            raise_alarm(self._log, _gap(origin, address, found), self._study)
        for told in came.alarms:
            raise_alarm(self._log, told, self._study)
        return came.errors

    def _own_proof(self, own: CheckpointOffer, old: int) -> tuple[bytes, ...]:
        return self._log.consistency_proof(old, _size_of(own))

    def tell_silence(self, sites: Iterable[str], since: datetime, limit: timedelta) -> None:
        """An alarm for each of these sites whose log was not seen to grow for too long, counted from `since`."""
        seen = {s.origin: datetime.fromtimestamp(s.at, UTC) for s in self._witness.seen()}
        for origin in map(self._anchor.trust.log_origin, sites):
            told = of_silence(origin, seen.get(origin), now(), since, limit)
            if told is not None:
                raise_alarm(self._log, told, self._study)

    def _own_offer(self) -> CheckpointOffer:
        size = self._log.size
        known = {*self._log.signed_sizes(_KEPT_OFFERS), *self._log.cosigned_sizes().values()}
        earlier = sorted(s for s in known if 0 < s <= size)
        proofs = {str(s): tuple(h.hex() for h in self._log.consistency_proof(s, size)) for s in earlier}
        return CheckpointOffer(origin=self._log.origin, note=self._log.checkpoint(size), proofs=proofs)

    def take(self, site: str, line: CosignedLine) -> None:
        """Keep a cosignature that `site` gave; one on the operator's own log is verified and goes into its store.

        Raises Refused RSD-8220 for a line under another witness's name, CheckFailed RSD-5xxx or InputError RSD-500x if
        it does not verify. One that does, on a longer log that the operator signed, is an alarm.
        """
        name = self._anchor.trust.witness_name(site)
        if line.witness != name:
            raise _not_its_own(site, "a cosignature under another name", line.witness, name)
        size = self._log.size
        if line.origin == self._log.origin and line.size > size:
            self._check_ahead(site, line)
            found = f"{size} entries, and {site} cosigned {line.size}"
            raise_alarm(self._log, _gap(line.origin, site, found), self._study)
        self._keep(line)

    def _check_ahead(self, site: str, line: CosignedLine) -> None:
        """The operator's own key signed the checkpoint of that size, and the witness cosigned it."""
        signed = checkpoint.open_signed(line.note, self._log.public_key, line.origin)
        if signed.checkpoint.size != line.size:
            raise _not_its_own(site, "a cosignature of another size", str(signed.checkpoint.size), str(line.size))
        signature, keys = note.parse_line(line.line), self.witness_keys()
        known = cosign.key_of(signature, keys)
        if known is None or signature.name != line.witness:
            raise cosign.unknown(signature, keys)
        cosign.verify(signed.note.text, signature, known.key)

    def _keep(self, line: CosignedLine) -> None:
        if line.origin == self._log.origin:
            add_cosignature(self._log, line.size, line.line, self.witness_keys(), self._study)
        else:
            self._lines.setdefault((line.origin, line.size), {})[line.witness] = line.line

    def witness_keys(self) -> cosign.WitnessKeys:
        """Who may cosign the operator's log."""
        trust = self._anchor.trust
        return witness_keys(trust, trust.operator.name, now())

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


def _gap(origin: str, accuser: str, found: str) -> Alarm:
    """The cause names who says so: nobody's claim silences another's."""
    limit = "a log as long as the one that others cosigned"
    return alarm("RSD-5106", f"{origin}, by {accuser}", found=found, limit=limit)


def _size_of(offer: CheckpointOffer) -> int:
    return checkpoint.parse_text(note.parse(offer.note).text).size


def _proof_of(offer: CheckpointOffer, old: int) -> tuple[bytes, ...] | None:
    """The proof from `old` that the site sent with its offer, if it did."""
    if old == _size_of(offer):
        return ()
    return tuple(offer.proof(old)) if str(old) in offer.proofs else None


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

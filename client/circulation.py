"""Checkpoints between runs, on the site's side: show its own, cosign the others', keep the cosignatures on its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from client.books import Books
from client.governance import GovernanceClient
from client.quota import Refusals
from client.standing import Standing
from client.witnessing import cosign, keep, told_line
from compliance.errors import ResidencyError
from compliance.governance import ExchangeReply, ExchangeRequest
from compliance.log import checkpoint, note
from compliance.messages import CheckpointOffer, CosignedLine

# Alone no reason to ask for cosignatures: every site would answer every other, and whoever sends rubbish be asked.
_QUIET: Final = frozenset({"cosign", "refusal"})
_STALE_PROOF: Final = "RSD-5043"
_CALLS_AT_MOST: Final = 3  # of one turn: the offer, once more with other proofs, and what was cosigned meanwhile

T = TypeVar("T", CheckpointOffer, CosignedLine)


@dataclass(frozen=True)
class Pace:
    """Seconds: how often the others are asked, and how soon after the last time a log that has grown is shown."""

    every_s: float = 60.0
    grown_s: float = 10.0


class Circulation:
    """One site's turns at the exchange, over one set of books. `refusals` may have seen earlier connections."""

    def __init__(
        self,
        books: Books,
        standing: Standing,
        pace: Pace,
        refusals: Refusals,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._books, self._standing, self._pace, self._clock = books, standing, pace, clock
        self._last: float | None = None
        self._shown = 0  # size of this log up to which others were told, or need not be
        self._kept: dict[str, CosignedLine] = {}  # witness -> its last line
        self._refusals = refusals
        self._known = ""
        self._in_run = False

    def turn(self, client: GovernanceClient) -> list[ResidencyError]:
        """Exchange if it is time; what was refused on the way, each thing once. Refusals are in the log, or counted.

        Among what is returned is RSD-1225: this log is older than the one that the operator has seen; nothing is
        cosigned then. Raises PeerUnreachable RSD-6301, Refused RSD-3100 (checkpoints may not leave).
        """
        size = self._books.log.size
        grown = self._grown(size)
        wait_s = self._pace.grown_s if grown and not self._in_run else self._pace.every_s
        if self._last is not None and self._clock() - self._last < wait_s:
            return []
        self._standing.check("log_checkpoint")
        self._last = self._clock()
        found: list[ResidencyError] = []
        asked = grown
        for _ in range(_CALLS_AT_MOST):
            offer = self._books.offer() if asked else None
            reply = client.exchange(self._request(offer))
            told = self._take(reply, found)
            lacking = offer is not None and bool(reply.refused) and not _proves(offer, reply.wanted)
            self._in_run = offer is not None and not reply.shown and not reply.refused
            if reply.shown:
                self._shown, asked = size, False
            if not (lacking or told):
                break
        return found

    def _grown(self, size: int) -> bool:
        """Whether the log holds something to show; what need not be shown is not looked at twice."""
        grown = any(e.kind not in _QUIET for e in self._books.log.entries(min(self._shown, size), size))
        self._shown = self._shown if grown else size
        return grown

    def _request(self, offer: CheckpointOffer | None) -> ExchangeRequest:
        held: dict[str, int] = {}
        given: list[CosignedLine] = []
        for origin in others(self._books):
            text = self._books.witness.last_note(origin)
            if text:
                signed = note.parse(text)
                held[origin] = checkpoint.parse_text(signed.text).size
                lines = [s.line() for s in signed.signatures if s.name == self._books.witness.name]
                given += [told_line(self._books, origin, t, signed) for t in lines]
        return ExchangeRequest(offer=offer, held=held, given=tuple(given))

    def _take(self, reply: ExchangeReply, found: list[ResidencyError]) -> bool:
        """Keep and cosign what came; whether something was cosigned that the others have yet to hear of."""
        self._books.prove_from(reply.wanted)
        if reply.known != self._known:
            if not self._try(partial(self._books.check_not_restored, reply.known), reply.known, found):
                return False  # this log is not the one that was cosigned: it vouches for nobody else's
            self._known = reply.known
        for line in self._lines(reply):
            if self._kept.get(line.witness) != line:
                self._try(partial(keep, self._books, line, ""), line.line, found)
                self._kept[line.witness] = line
        told = False
        for offer in self._offers(reply):
            if self._is_news(offer):
                told |= self._try(partial(cosign, self._books, offer, ""), offer.note, found)
        return told

    def _lines(self, reply: ExchangeReply) -> list[CosignedLine]:
        """One line of each witness in the trust file: whatever else a reply holds is not looked at."""
        trust = self._books.anchor.trust
        names = {trust.operator.name, *(s.name for s in trust.sites)} - {self._books.name}
        return _one_of_each(reply.cosigned, "witness", {trust.witness_name(n) for n in names})

    def _offers(self, reply: ExchangeReply) -> list[CheckpointOffer]:
        """One offer of each log that this site witnesses."""
        return _one_of_each(reply.offers, "origin", set(others(self._books)))

    def _is_news(self, offer: CheckpointOffer) -> bool:
        """Not one that was cosigned here, and not an older one than that: those travel late, and prove nothing."""
        last = self._books.witness.last(offer.origin)
        if last is None:
            return True
        try:
            found = checkpoint.parse_text(note.parse(offer.note).text)
        except ResidencyError:
            return True  # whoever cosigns refuses it with the reason, and the other offers are looked at
        return found.size >= last[0] and (found.size, found.root) != last

    def _try(self, act: Callable[[], object], name: str, found: list[ResidencyError]) -> bool:
        if name in self._refusals.known:
            return False
        try:
            act()
        except ResidencyError as e:
            if e.code == _STALE_PROOF:  # something was cosigned in the meantime: the next turn gets the right proof
                return False
            self._refusals.known.add(name)
            self._refusals.record(self._books, e)
            found.append(e)
            return False
        return True


def others(books: Books) -> list[str]:
    """The logs that this site witnesses: those of the other members."""
    trust = books.anchor.trust
    names = [trust.operator.name, *(s.name for s in trust.sites if s.name != books.name)]
    return [trust.log_origin(name) for name in names]


def _one_of_each(found: tuple[T, ...], field: str, names: set[str]) -> list[T]:
    """The first of each name."""
    kept: dict[str, T] = {}
    for one in found:
        name = str(getattr(one, field))
        if name in names:
            kept.setdefault(name, one)
    return list(kept.values())


def _proves(offer: CheckpointOffer, sizes: tuple[int, ...]) -> bool:
    return {str(s) for s in sizes} <= set(offer.proofs)

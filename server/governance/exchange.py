"""Checkpoints between runs: each member shows its newest one, and gets the others' and the cosignatures on its own.

What a site said last is kept in `exchange/SITE.json`; what anybody is told follows from these files and from the
operator's own log and witness memory, so that nothing depends on the process that answers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pydantic import Field

from compliance.canonical import canonical, parse_canonical
from compliance.errors import ResidencyError
from compliance.files import read_bytes, write_durably
from compliance.governance import ExchangeReply, ExchangeRequest
from compliance.log import checkpoint, note
from compliance.log.store import LogStore
from compliance.log.witness import WitnessStore
from compliance.messages import CheckpointOffer, CosignedLine
from compliance.training_spec import Frozen
from compliance.trust.root import Anchor
from compliance.validation import load_model
from server.witness_desk import WitnessDesk

_QUIET: Final = frozenset({"calls", "cosign"})  # entries that alone are no reason to ask everybody for a cosignature
_AT_LEAST_EVERY_S: Final = 3600.0
_RUN_QUIET_S: Final = 6 * 3600.0  # a run without an event for so long is taken for dead


class Board(Frozen):
    """What one site said last: its newest checkpoint, what it holds of the others' logs, and its cosignatures."""

    offer: CheckpointOffer | None = None
    held: dict[str, int] = Field(default_factory=dict)
    given: tuple[CosignedLine, ...] = ()


class Exchange:
    """The operator's part of the exchange. One at a time: calls take milliseconds and share the files."""

    def __init__(self, home: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._home, self._clock = home, clock
        self._folder = home / "exchange"
        self._lock = threading.Lock()
        self._told: dict[str, str] = {}  # site -> code of the refusal of its checkpoint that stands in the log
        self._own: tuple[int, float] | None = None  # size of the operator's own newest offer, and when it was made

    def exchange(
        self, anchor: Anchor, log: LogStore, witness: WitnessStore, site: str, request: ExchangeRequest
    ) -> ExchangeReply:
        """Keep what `site` says and tell it what is new. A bad offer is named in `refused`; the rest goes on.

        Raises Refused RSD-8220 or CheckFailed RSD-5xxx for a cosignature that is not the site's own.
        """
        desk = WitnessDesk(anchor, log, witness)
        with self._lock:
            for line in request.given:
                desk.take(site, line)
            running = in_run(self._home, site)
            error = desk.try_show(site, request.offer) if request.offer and not running else None
            if error and self._told.get(site) != error.code:
                log.append("refusal", {**error.as_json(), "site": site})
                self._told[site] = error.code
            elif request.offer and not running and not error:
                self._told.pop(site, None)
            shown = None if error or running else request.offer
            self._keep(site, request, shown, _logs(anchor))
            boards = {s.name: self._board(s.name) for s in anchor.trust.sites}
            own = anchor.trust.log_origin(site)
            offers = () if running else self._offers(log, site, request.held, boards)
        known = desk.last_note(site)
        return ExchangeReply(
            offers=offers,
            cosigned=(*_lines(boards, own), *desk.lines_for(site)),
            wanted=_wanted(boards, own, known),
            known=known,
            shown=shown is not None,
            refused=f"{error}"[:1000] if error else "",
        )

    def _keep(self, site: str, request: ExchangeRequest, shown: CheckpointOffer | None, logs: frozenset[str]) -> None:
        before = self._board(site)
        given = {line.origin: line for line in (*before.given, *request.given) if line.origin in logs}
        held = {origin: size for origin, size in request.held.items() if origin in logs}
        after = Board(offer=shown or before.offer, held=held, given=tuple(given[o] for o in sorted(given)))
        if after != before:
            write_durably(self._file(site), canonical(after.model_dump(mode="json")))

    def _board(self, site: str) -> Board:
        file = self._file(site)
        if not file.exists():
            return Board()
        return load_model(
            Board, parse_canonical(read_bytes(file, "what a site showed"), str(file)), "RSD-1210", str(file)
        )

    def _file(self, site: str) -> Path:
        return self._folder / f"{site}.json"

    def _offers(
        self, log: LogStore, site: str, held: dict[str, int], boards: dict[str, Board]
    ) -> tuple[CheckpointOffer, ...]:
        others = [b.offer for name, b in boards.items() if name != site and b.offer is not None]
        shown = [_trimmed(offer, held.get(offer.origin, 0)) for offer in others]
        return (*(o for o in shown if o is not None), *self._own_offer(log, held.get(log.origin, 0)))

    def _own_offer(self, log: LogStore, held: int) -> tuple[CheckpointOffer, ...]:
        """The operator's newest checkpoint; made anew when something but calls and cosignatures came in, or hourly."""
        at, size = self._clock(), log.size
        last = self._own
        if last is None or not last[0] or at - last[1] >= _AT_LEAST_EVERY_S or _grown(log, last[0], size):
            last = self._own = (size, at)
        text = log.checkpoint(last[0])
        if held > last[0] or not last[0]:
            return ()
        proof = tuple(h.hex() for h in log.consistency_proof(held, last[0])) if held else ()
        return (CheckpointOffer(origin=log.origin, note=text, proofs={str(held): proof} if held else {}),)


def _logs(anchor: Anchor) -> frozenset[str]:
    """The logs that a site may speak about: what it says about others is not kept."""
    trust = anchor.trust
    return frozenset(trust.log_origin(name) for name in (trust.operator.name, *(s.name for s in trust.sites)))


def _grown(log: LogStore, before: int, size: int) -> bool:
    return any(e.kind not in _QUIET for e in log.entries(before, size))


def _trimmed(offer: CheckpointOffer, held: int) -> CheckpointOffer | None:
    """The offer with the one proof that its reader needs; None if the log's site has yet to send that proof."""
    size = checkpoint.parse_text(note.parse(offer.note).text).size
    if held in (0, size):
        return offer.model_copy(update={"proofs": {}})
    if str(held) not in offer.proofs:
        return None
    return offer.model_copy(update={"proofs": {str(held): offer.proofs[str(held)]}})


def _lines(boards: dict[str, Board], origin: str) -> tuple[CosignedLine, ...]:
    return tuple(line for board in boards.values() for line in board.given if line.origin == origin)


def _wanted(boards: dict[str, Board], origin: str, known: str) -> tuple[int, ...]:
    sizes = {board.held[origin] for board in boards.values() if origin in board.held}
    if known:
        sizes.add(checkpoint.parse_text(note.parse(known).text).size)
    return tuple(sorted(s for s in sizes if s > 0))


def in_run(home: Path, site: str) -> bool:
    """Whether a run with this site goes on: then the run itself carries the checkpoints.

    A log's checkpoints must reach each witness in the order of their sizes, and two carriers would race.
    """
    for folder in (home / "runs").glob("*"):
        nodes = folder / "nodes.json"
        if (folder / "result.json").exists() or not nodes.exists():
            continue
        events = folder / "events.jsonl"
        seen = max(f.stat().st_mtime for f in (nodes, events) if f.exists())
        if time.time() - seen < _RUN_QUIET_S and _names(nodes, site):
            return True
    return False


def _names(nodes: Path, site: str) -> bool:
    try:
        return site in parse_canonical(read_bytes(nodes, "nodes"), str(nodes))
    except ResidencyError:
        return True  # unreadable: nothing is shown until the operator looks

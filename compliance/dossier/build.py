"""Make a dossier from logs as a reader finds them. Nothing is signed: everything in it can be checked without us."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from compliance.canonical import b64encode
from compliance.clock import parse_time
from compliance.dossier.derive import dossier
from compliance.dossier.given import Given, Tip, held, is_shown, last_time, packs_held, packs_named, tip
from compliance.dossier.model import Dossier, Opened
from compliance.dossier.regime import Regime
from compliance.errors import InputError
from compliance.log import checkpoint, merkle, note
from compliance.log.entry import Entry
from compliance.log.view import LogView
from compliance.trust.root import Anchor, Trust


@dataclass(frozen=True)
class Files:
    """What a dossier carries besides logs: the signed study, if it is at hand, and packs and region sets by digest."""

    study: bytes = b""
    packs: Mapping[str, bytes] = field(default_factory=dict)


def build(regime: Regime, study: str, views: Sequence[LogView], anchor: Anchor, files: Files | None = None) -> Dossier:
    """The dossier of the study with this digest, from these logs, each up to one checkpoint of its own.

    Entries behind the last checkpoint are left out: nothing proves them. Raises InputError RSD-9111 (no entry of the
    study), RSD-9112 (one log twice), RSD-9113 (a log without a signed checkpoint), CheckFailed RSD-9104 and RSD-9105
    (a log that is not what it should be), and what reading the signed study raises.
    """
    files = files or Files()
    names = [view.origin for view in views]
    if len(set(names)) != len(names):
        raise _twice(names)
    wanted = {v.origin: [e for e in v.entries.values() if is_shown(e, study, regime)] for v in views}
    times = [parse_time(e.at) for found in wanted.values() for e in found if e.study == study]
    if not times:
        raise _nothing(study, views)
    tips = {v.origin: _tip(anchor.trust, v, wanted[v.origin], max(times)) for v in views}
    pairs = [pair for v in views for pair in _opened(v, wanted[v.origin], tips[v.origin].checkpoint.size)]
    entries = held(anchor.trust, pairs)
    opened = {(o.origin, o.index): o for o, _ in pairs}
    if until := last_time(entries):  # as verification judges cosigners' keys
        tips = {origin: tip(anchor.trust, origin, end.text, parse_time(until)) for origin, end in tips.items()}
    return dossier(
        Given(
            regime=regime,
            anchor=anchor,
            study=study,
            document=b64encode(files.study.rstrip(b"\n")),
            tips=tips,
            opened=tuple(opened[h.origin, h.entry.index] for h in entries),
            held=entries,
            packs=packs_held(packs_named(entries, regime), files.packs),
        )
    )


def _tip(trust: Trust, view: LogView, wanted: Sequence[Entry], at: datetime) -> Tip:
    """Of the checkpoints that reach to the study's close, or to the last entry, the one with the most cosigners.

    If none reaches so far, the largest one.
    """
    closes = [e.index for e in wanted if e.kind == "close"]
    least = max(closes or [e.index for e in wanted], default=-1) + 1
    sizes = [(checkpoint.parse_text(note.parse(text).text).size, text) for text in view.checkpoints]
    if not sizes:
        raise _unsigned(view)
    covering = [tip(trust, view.origin, text, at) for size, text in sizes if size >= least]
    if not covering:
        return tip(trust, view.origin, max(sizes)[1], at)
    return max(covering, key=lambda end: (len(end.cosigners), end.checkpoint.size))


def _opened(view: LogView, wanted: Sequence[Entry], size: int) -> list[tuple[Opened, Entry]]:
    subtrees = merkle.subtrees_of(view.leaf_hashes)
    return [
        (
            Opened(
                origin=view.origin,
                index=entry.index,
                entry=b64encode(entry.encode()),
                proof=tuple(h.hex() for h in merkle.inclusion_proof(subtrees, entry.index, size)),
            ),
            entry,
        )
        for entry in wanted
        if entry.index < size
    ]


def _nothing(study: str, views: Sequence[LogView]) -> InputError:
    others = {e.study for view in views for e in view.entries.values()} - {""}
    return InputError(
        "RSD-9111",
        f"the logs hold no entry of study {study[:16]}",
        found=", ".join(sorted(d[:16] for d in others)) or "no study",
        limit=study,
        next="give one of these studies, or the logs of its members",
    )


def _twice(names: Sequence[str]) -> InputError:
    return InputError(
        "RSD-9112",
        "one log was given twice",
        rule="each log stands in a dossier once",
        found=", ".join(name for name in dict.fromkeys(names) if names.count(name) > 1),
        limit="each log once",
        next="give the folder, file or log.db that holds most of it",
    )


def _unsigned(view: LogView) -> InputError:
    return InputError(
        "RSD-9113",
        f"log {view.origin} has no signed checkpoint",
        rule="an entry is proved by a signed checkpoint",
        found="none",
        limit="a checkpoint of the log's own key",
        next="let the member's agent or server run until it has signed one, or take the evidence of a run",
    )

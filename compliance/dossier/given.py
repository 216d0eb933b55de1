"""What a dossier is made from, and what follows from that: one way for whoever makes it and for whoever verifies it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import takewhile
from typing import Final, Literal

from compliance.canonical import b64decode, b64encode, canonical, sha256_hex
from compliance.clock import parse_time
from compliance.dossier.material import OF_NO_STUDY, Held
from compliance.dossier.model import Opened, PackHeld, Source
from compliance.dossier.regime import Regime
from compliance.errors import CheckFailed
from compliance.law.pack import Pack, load_pack
from compliance.law.regions import load_regions
from compliance.log import checkpoint, cosign, note
from compliance.log.checkpoint import Checkpoint
from compliance.log.entry import Entry
from compliance.log.evidence import LogEvidence
from compliance.log.expired import Removed, by_class, removed_by
from compliance.release import bodies
from compliance.release.verify_logs import log_key
from compliance.study import Study, open_study
from compliance.trust.root import Anchor, Trust
from compliance.trust.witnesses import holders, owners, witness_keys

REGIONS: Final = "regions"
_MOST_COUNTED: Final = 1 << 20  # entries of a study; honest ones have thousands
Completeness = Literal["counted", "counted, some expired", "not counted"]


@dataclass(frozen=True)
class Tip:
    """The end of a log that is shown: its checkpoint, without lines of keys that the trust file does not know."""

    member: str
    checkpoint: Checkpoint
    text: str
    cosigners: tuple[str, ...]


@dataclass(frozen=True)
class Given:
    """What everything else in a dossier follows from. `tips` by origin; `opened` and `held` are in one order."""

    regime: Regime
    anchor: Anchor
    study: str
    document: str
    tips: Mapping[str, Tip]
    opened: tuple[Opened, ...]
    held: tuple[Held, ...]
    packs: tuple[PackHeld, ...]

    @property
    def ordered_tips(self) -> list[Tip]:
        """The logs in the order of the trust file's members."""
        return [self.tips[origin] for origin in owners(self.anchor.trust) if origin in self.tips]


def is_shown(entry: Entry, study: str, regime: Regime) -> bool:
    """Whether an entry belongs into the dossier: all of the study, and those of no study that the regime asks for."""
    asked = regime.kinds() & OF_NO_STUDY | {"compaction"}
    return entry.study == study or (not entry.study and entry.kind in asked)


def member_of(trust: Trust, origin: str) -> str:
    """Whose log this is. Raises CheckFailed RSD-9104."""
    found = owners(trust).get(origin)
    if found is None:
        raise CheckFailed(
            "RSD-9104", "this log belongs to no member of the consortium", found=origin,
            limit=trust.log_origin("<member>"), next="give the trust file of the log's consortium",
        )  # fmt: skip
    return found


def tip(trust: Trust, origin: str, text: str, at: datetime) -> Tip:
    """The checkpoint in `text`: signed by its log's key, cosignatures by keys valid `at`.

    Raises InputError RSD-5001..5004, CheckFailed RSD-5002, RSD-5005, RSD-9007, RSD-9104.
    """
    member = member_of(trust, origin)
    shown = LogEvidence(origin=origin, checkpoint=text, earlier=(), leaf_hashes=(), entries=())
    key = log_key(trust, member, shown)
    signed = checkpoint.open_signed(text, key, origin)
    known = witness_keys(trust, member, at)
    cosign.check_witness_keys(known, key)
    lines = sorted(cosign.counted(signed.note, known), key=lambda s: (s.name, s.key_id))
    names = {s.name for s in lines}
    kept = note.Note(signed.note.text, (signed.signature, *lines))
    return Tip(member, signed.checkpoint, kept.encode(), tuple(sorted(holders(trust, names))))


def study_of(anchor: Anchor, document: str, digest: str) -> Study | None:
    """The signed study, None without one. Raises what `open_study` raises, CheckFailed RSD-9103 for another one."""
    if not document:
        return None
    study, found = open_study(anchor, b64decode(document, "the study"), "the study")
    if found != digest:
        raise CheckFailed("RSD-9103", "the signed study is another one", found=found, limit=digest)
    return study


def held(trust: Trust, opened: Sequence[tuple[Opened, Entry]]) -> tuple[Held, ...]:
    """The entries with whose they are, in the order of the trust file's members, then by index."""
    order = list(owners(trust))
    found = [Held(o.origin, member_of(trust, o.origin), entry) for o, entry in opened]
    return tuple(sorted(found, key=lambda h: (order.index(h.origin), h.entry.index)))


def last_time(entries: Sequence[Held]) -> str:
    """The time of the last entry; empty without any."""
    return max((h.entry.at for h in entries), key=parse_time, default="")


def source(trust: Trust, end: Tip, entries: Sequence[Held], study: str) -> Source:
    """What is said of a log, from its checkpoint and the entries that are here of it. Raises CheckFailed RSD-9105."""
    origin = end.checkpoint.origin
    own = [h.entry for h in entries if h.origin == origin]
    of_study = [e for e in own if e.study == study]
    close = next((e for e in reversed(of_study) if e.kind == "close"), None)
    expired = removed_by(own, end.checkpoint.size)
    jurisdiction = (
        trust.operator.jurisdiction if end.member == trust.operator.name else trust.site(end.member).jurisdiction
    )
    return Source(
        member=end.member,
        jurisdiction=jurisdiction,
        origin=origin,
        size=end.checkpoint.size,
        root=end.checkpoint.root.hex(),
        checkpoint=end.text,
        cosigners=end.cosigners,
        entries=len(of_study),
        after_close=sum(e.index > close.index for e in of_study) if close else 0,
        expired=tuple(f"{n} of class {name}" for name, n in by_class(expired.counts()).items()),
        complete=_complete(of_study, close, expired, origin),
    )


def _are_counted(indices: set[int], counted: bodies.CloseBody) -> bool:
    return (len(indices), sha256_hex(canonical(sorted(indices)))) == (counted.entries, counted.entries_sha256)


def _complete(of_study: Sequence[Entry], close: Entry | None, expired: Removed, origin: str) -> Completeness:
    """Whether the entries before the last close are exactly those that it counts, with or without expired ones."""
    if close is None:
        return "not counted"
    counted = bodies.read_body(bodies.CloseBody, close, f"entry {close.index} of log {origin}")
    shown = {e.index for e in of_study if e.index < close.index}
    if _are_counted(shown, counted):
        return "counted"
    in_all = len(shown) + expired.below(close.index) - sum(i in expired for i in shown)
    few = in_all == counted.entries <= _MOST_COUNTED
    if few and _are_counted(shown | set(takewhile(lambda i: i < close.index, expired)), counted):
        return "counted, some expired"
    if len(shown) < counted.entries < in_all:  # expired entries of other studies are among them
        return "not counted"
    if len(shown) < in_all == counted.entries > _MOST_COUNTED:  # as many as nobody has to spell out
        return "not counted"
    raise CheckFailed(
        "RSD-9105",
        f"log {origin}: other entries of the study are here than entry {close.index} counts",
        rule="a log is shown whole for the study",
        found=f"{len(shown)} entries",
        limit=f"{counted.entries} entries, by their indices",
        next="have the dossier made again from the log; if it stays so, show both to the auditor",
    )


def packs_named(entries: Sequence[Held], regime: Regime) -> dict[str, tuple[str, str]]:
    """Pack id -> digests of the pack and of the region sets, as the first decision that names the pack does."""
    found: dict[str, tuple[str, str]] = {}
    for entry in (h.entry for h in entries if h.entry.kind == "decision"):
        packs, regions = entry.body.get("packs"), str(entry.body.get("regions"))
        if isinstance(packs, dict):
            for name in regime.packs() & packs.keys():
                found.setdefault(name, (str(packs[name]), regions))
    return found


def packs_held(named: Mapping[str, tuple[str, str]], files: Mapping[str, bytes]) -> tuple[PackHeld, ...]:
    """The packs that are named and their region sets, of those `files` (by digest) that are at hand."""
    wanted: dict[tuple[str, str], None] = {}
    for name, (pack, regions) in sorted(named.items()):
        if pack in files and regions in files:
            wanted |= {(name, pack): None, (REGIONS, regions): None}
    return tuple(PackHeld(id=name, sha256=digest, data=b64encode(files[digest])) for name, digest in sorted(wanted))


def packs_of(named: Mapping[str, tuple[str, str]], shown: Sequence[PackHeld]) -> dict[str, Pack]:
    """The packs in a dossier, by id. Raises CheckFailed RSD-9105 unless they are files that decisions name."""
    files = {sha256_hex(data): data for p in shown if (data := b64decode(p.data, f"law pack {p.id}"))}
    if packs_held(named, files) != tuple(shown):
        raise CheckFailed(
            "RSD-9105",
            "the law packs are not those that the decisions name",
            rule="a pack counts by its digest in a logged decision",
            found=", ".join(f"{p.id} {p.sha256[:12]}" for p in shown) or "none",
            limit=", ".join(f"{name} {digest[:12]}" for name, (digest, _) in named.items()) or "none",
        )
    return {n: _pack(files[p], files[r]) for n, (p, r) in named.items() if p in files and r in files}


@lru_cache(maxsize=64)
def _pack(data: bytes, regions: bytes) -> Pack:
    """Reading a pack takes longer than all else in a dossier, and the same bytes are the same pack."""
    return load_pack(data, load_regions(regions))

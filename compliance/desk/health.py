"""Whether a log is what its checkpoints say: signed by its member, cosigned by whom and when, over these hashes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

from compliance.clock import parse_time, rfc3339
from compliance.errors import CheckFailed, ResidencyError
from compliance.log import checkpoint, cosign, merkle, note
from compliance.log.view import LogView
from compliance.trust.root import Trust
from compliance.trust.witnesses import log_role, owners, witness_keys


@dataclass(frozen=True)
class Seen:
    """One checkpoint of a log: who cosigned it, and when (UTC); `note` as it was signed."""

    size: int
    root: str
    cosigners: Mapping[str, str]
    note: str


@dataclass(frozen=True)
class Health:
    """What was found of one log. `error`: the first thing that is false; then `seen` may lack what comes after it."""

    seen: tuple[Seen, ...]
    error: ResidencyError | None = None

    @property
    def last(self) -> Seen | None:
        """The largest checkpoint."""
        return max(self.seen, key=lambda s: s.size, default=None)

    @property
    def witnesses(self) -> dict[str, Seen]:
        """Each cosigner with the largest checkpoint that it cosigned."""
        return {name: s for s in sorted(self.seen, key=lambda s: s.size) for name in s.cosigners}


def examine(trust: Trust, view: LogView, at: datetime) -> Health:
    """The log of `view` under the trust file; keys are judged at the time of its last entry, or `at` without one."""
    seen: list[Seen] = []
    try:
        _check_origin(trust, view)
        when = max((parse_time(e.at) for e in view.entries.values()), default=at)
        keys = witness_keys(trust, view.member, when)
        opened = [_open(trust, view, text) for text in view.checkpoints]
        roots = merkle.prefix_roots(view.leaf_hashes, [o.checkpoint.size for o in opened])
        seen.extend(_compare(view, signed, roots, keys) for signed in opened)
    except ResidencyError as e:
        return Health(tuple(seen), e)
    return Health(tuple(seen))


def forks(views: Mapping[int, LogView]) -> dict[int, CheckFailed]:
    """Number -> what is wrong, of logs of one origin of which none continues the other: each alone may well verify."""
    found: dict[int, CheckFailed] = {}
    ordered = sorted(views.items(), key=lambda one: (one[1].origin, one[1].size))
    for (number, short), (other, long) in pairwise(ordered):
        if short.origin != long.origin:
            continue
        pairs = enumerate(zip(short.leaf_hashes, long.leaf_hashes, strict=False))
        same = next((i for i, (a, b) in pairs if a != b), short.size)
        if same < short.size:
            found[number] = found[other] = CheckFailed(
                "RSD-5040",
                f"two histories of log {short.origin} are shown: they part at entry {same}",
                rule="a log only grows; there is one of it",
                found=f"log {other}: {long.leaf_hashes[same].hex()}",
                limit=f"log {number}: {short.leaf_hashes[same].hex()}",
                next="keep both; show them to the member, the other members and the witnesses",
            )
    return found


def _check_origin(trust: Trust, view: LogView) -> None:
    if view.origin not in owners(trust):
        raise CheckFailed(
            "RSD-9182",
            f"the log {view.origin} belongs to no member of the consortium in the trust file",
            rule="a log is judged by the keys of its member",
            found=view.origin,
            limit=trust.log_origin("<member>"),
            next="give the trust file of the log's consortium",
        )


def _open(trust: Trust, view: LogView, text: str) -> checkpoint.SignedCheckpoint:
    held = trust.keys_of(log_role(trust, view.member), view.member)
    parsed = note.parse(text)
    for identity in held:
        if parsed.signature(view.origin, note.key_id(view.origin, note.TYPE_ED25519, identity.key())):
            return checkpoint.open_signed(text, identity.key(), view.origin)
    raise CheckFailed(
        "RSD-9182",
        f"a checkpoint of log {view.origin} is not signed by a key of {view.member}",
        rule=f"trust version {trust.version}",
        found=", ".join(f"{s.name} ({s.key_id.hex()})" for s in parsed.signatures[:4]),
        limit=", ".join(i.keyid[:12] for i in held) or "no such key",
        next="obtain the log again from its member; if it stays so, somebody else signed it",
    )


def _compare(
    view: LogView, signed: checkpoint.SignedCheckpoint, roots: Mapping[int, bytes], keys: cosign.WitnessKeys
) -> Seen:
    claimed, found = signed.checkpoint, roots.get(signed.checkpoint.size)
    if found != claimed.root:
        raise CheckFailed(
            "RSD-9182",
            f"the entries of log {view.origin} do not lead to its checkpoint of {claimed.size} entries",
            rule="a log only grows; what was signed stays",
            found=found.hex() if found else f"{view.size} entries",
            limit=claimed.root.hex(),
            next="do not rely on this log; show it to the other members and compare with what they cosigned",
        )
    times = cosign.cosigners(signed.note, keys)
    said = {name: rfc3339(datetime.fromtimestamp(second, UTC)) for name, second in sorted(times.items())}
    return Seen(claimed.size, claimed.root.hex(), said, signed.note.encode())

"""A complete synthetic world: keys, trust, a study, real logs with cosignatures, decisions, rosters, a run folder.

Four sites take part (DE, FR, GB, JP), one is refused (CN), the operator is in IE. Nothing is random but keys and
salts; the clock is stopped at November 2026 and ticks a second per look, so that tests do not expire.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from compliance import clock
from compliance.canonical import b64encode
from compliance.identity import Signer, new_signer, parse_envelope, seal
from compliance.log import checkpoint, cosign, merkle, note
from compliance.log.entry import Entry
from compliance.log.evidence import EvidenceEntry, LogEvidence
from compliance.release import bodies, manifest
from compliance.release.build import build_bundle
from compliance.release.case import Contents
from compliance.release.report import Report
from compliance.release.verify import verify_bundle
from compliance.study import Study
from compliance.trust.root import Anchor, open_trust
from compliance.validation import load_model
from tests.world_plan import (
    AT,
    CONSORTIUM,
    CONTRIBUTORS,
    EVENT,
    JURISDICTIONS,
    LAYOUT,
    LORA,
    OPERATOR,
    ORDER,
    ORDINARY,
    REFUSED,
    SIZE,
    START,
    WITNESS,
    Plan,
    study_json,
)
from tests.world_run import Run as _Run

__all__ = [
    "AT",
    "CONSORTIUM",
    "CONTRIBUTORS",
    "EVENT",
    "JURISDICTIONS",
    "LAYOUT",
    "LORA",
    "OPERATOR",
    "ORDER",
    "REFUSED",
    "SIZE",
    "START",
    "Plan",
    "World",
    "build_world",
    "dishonest",
    "failed",
    "give_back",
    "rebuilt",
    "released",
    "resealed",
    "said",
    "stopped_clock",
    "study_json",
    "world",
]  # fmt: skip


@contextmanager
def stopped_clock(start: datetime = START) -> Iterator[None]:
    """`compliance.clock.now` starts at `start` and ticks one second per look."""
    ticks, real = [start], clock.now

    def now() -> datetime:
        ticks[0] += timedelta(seconds=1)
        return ticks[0]

    with patch.object(clock, "now", now):
        yield
    give_back(now, real)


def give_back(fake: Callable[[], datetime], real: Callable[[], datetime]) -> None:
    """Modules that were first imported while the clock was another one have kept it: they get the real one."""
    for module in list(sys.modules.values()):
        if getattr(module, "__dict__", {}).get("now") is fake:
            module.now = real  # type: ignore[attr-defined]


@dataclass
class World:
    """Everything that the members hold, and the run folder `run`: relative path -> bytes."""

    keys: dict[tuple[str, str], Signer]
    trust: bytes
    study: Study
    study_digest: str
    run: dict[str, bytes] = field(default_factory=dict)
    held: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def anchor(self) -> Anchor:
        return open_trust(self.trust, "trust.json")

    @property
    def operator(self) -> Signer:
        return self.keys[OPERATOR, "operator"]

    def log_signer(self, member: str) -> Signer:
        return self.keys[member, "operator" if member == OPERATOR else "agent"]

    def origin(self, member: str) -> str:
        return self.anchor.trust.log_origin(member)

    @property
    def bundle(self) -> dict[str, bytes]:
        """A fresh bundle of the run folder."""
        return build_bundle(self.run, self.operator, self.anchor)

    def resigned(self, files: Mapping[str, bytes], **changes: Any) -> dict[str, bytes]:
        """`files` under a new manifest with the operator's real signature: what a dishonest operator can make."""
        out = {p: d for p, d in files.items() if p != manifest.PATH}
        claimed = Contents(self.bundle_of(files)).manifest.as_json()
        statement = {**claimed, "files": manifest.listed(out), **changes}
        return {**out, manifest.PATH: seal(statement, self.operator).encode() + b"\n"}

    def bundle_of(self, files: Mapping[str, bytes]) -> Mapping[str, bytes]:
        return files if manifest.PATH in files else self.bundle

    def verify(self, files: Mapping[str, bytes]) -> Report:
        return verify_bundle(files, self.anchor, AT)

    def evidence(self, member: str) -> LogEvidence:
        return Contents(self.run).logs[member].evidence

    def entries(self, member: str) -> list[Entry]:
        return [e for _, e in sorted(Contents(self.run).logs[member].entries.items())]


def rebuilt(world: World, member: str, entries: Iterable[Entry], cosigners: Iterable[str] = ()) -> LogEvidence:
    """Evidence of a log that holds just these entries, renumbered and signed with the member's real key."""
    kept = [e.model_copy(update={"index": i}) for i, e in enumerate(entries)]
    hashes = [e.leaf_hash() for e in kept]
    made = checkpoint.Checkpoint(world.origin(member), len(kept), merkle.root(hashes))
    signed = note.parse(checkpoint.sign(made, world.log_signer(member).private))
    for name in cosigners:
        key = world.log_signer(name).private
        signature = cosign.cosign(signed.text, world.anchor.trust.witness_name(name), key, int(START.timestamp()))
        signed = note.with_signature(signed, signature)
    opened = tuple(EvidenceEntry(index=e.index, entry=b64encode(e.encode())) for e in kept)
    return LogEvidence(
        origin=made.origin,
        checkpoint=signed.encode(),
        earlier=(),
        leaf_hashes=tuple(h.hex() for h in hashes),
        entries=opened,
    )


@cache
def world() -> World:
    """The ordinary world, built once. Copy before changing."""
    return build_world()


def build_world(plan: Plan = ORDINARY) -> World:
    """A world according to `plan`, with new keys."""
    memory = next((d for d in ("/dev/shm",) if Path(d).is_dir()), None)  # noqa: S108 - fsync is another test's matter
    with stopped_clock(), tempfile.TemporaryDirectory(dir=memory) as folder, ExitStack() as stack:
        made = _members(plan)
        _Run(made, plan, Path(folder), stack).play()
    return made


def _members(plan: Plan) -> World:
    period = ("2026-01-01T00:00:00Z", "2028-01-01T00:00:00Z")
    keys = {(OPERATOR, "operator"): new_signer("operator", OPERATOR, *period)}
    for site in JURISDICTIONS:
        for role in ("agent", "signatory", "dpo"):
            keys[site, role] = new_signer(role, site, *period)  # type: ignore[arg-type]
        # Two people more, for the law set: the keys of those who answer studies can be revoked without it.
        keys[site, "adopter"] = new_signer("signatory", site, *period)
        keys[site, "adviser"] = new_signer("dpo", site, *period)
    keys[WITNESS, "witness"] = new_signer("witness", WITNESS, *period)  # cosigns only what a test has it cosign
    trust = {
        "schema": "residency.trust/1",
        "consortium": CONSORTIUM,
        "version": 1,
        "previous": "",
        "issued": "2026-11-01T00:00:00Z",
        "expires": "2027-11-01T00:00:00Z",
        "threshold": 3,
        "operator": {"name": OPERATOR, "jurisdiction": "IE", "node_key": ""},
        "sites": [{"name": n, "jurisdiction": j, "node_key": ""} for n, j in JURISDICTIONS.items()],
        "keys": [s.identity.as_json() for s in keys.values()],
    }
    signed = seal(trust, *(keys[s, "signatory"] for s in ("site-a", "site-b", "site-c"))).encode() + b"\n"
    study = load_model(Study, study_json(plan), "RSD-2007", "study")
    return World(keys, signed, study, seal(study.as_json()).digest)


def resealed(data: bytes, change: Any, *signers: Signer) -> bytes:
    """The statement in `data` after `change(payload)`, signed by `signers`."""
    payload = json.loads(parse_envelope(data, "statement").payload)
    change(payload)
    return seal(payload, *signers).encode() + b"\n"


def dishonest(made: World) -> dict[str, bytes]:
    """The bundle that an operator builds who does not mind that a decision contradicts itself."""
    with patch.object(bodies, "_contradiction", lambda _: ""):
        return made.bundle


def failed(report: Report) -> tuple[int, str]:
    """Number of the false step, and what it says; (0, "") for a bundle that verifies."""
    if report.failed is None or report.error is None:
        return 0, ""
    return report.failed.step.number, report.error.message


def said(report: Report) -> str:
    """All that is asserted, and by whom."""
    assert report.error is None, report.error
    return "\n".join(f"{who}: {text}" for who, texts in report.asserted().items() for text in texts)


def released(made: World, run: Mapping[str, bytes]) -> Report:
    return made.verify(build_bundle(run, made.operator, made.anchor))

"""A complete synthetic world: keys, trust, a study, real logs with cosignatures, decisions, rosters, a run folder.

Four sites take part (DE, FR, GB, JP), one is refused (CN), the operator is in IE. Nothing is random but keys and
salts; the clock is stopped at November 2026 and ticks a second per look, so that tests do not expire.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from compliance import clock
from compliance.canonical import b64encode, canonical, sha256_hex
from compliance.clock import rfc3339
from compliance.identity import Signer, new_signer, parse_envelope, seal
from compliance.law.decide import Engine, builtin_packs
from compliance.law.model import Document, Guarantees, Party, Transfer
from compliance.law.pack import Pack
from compliance.log import checkpoint, cosign, merkle, note
from compliance.log.entry import Entry
from compliance.log.evidence import EvidenceEntry, LogEvidence, build_evidence
from compliance.log.store import Appended, LogStore
from compliance.log.witness import WitnessStore
from compliance.privacy.events import PrivacyEvent
from compliance.release import bodies, manifest
from compliance.release.build import build_bundle
from compliance.release.case import Contents, evidence_bytes
from compliance.release.report import Report
from compliance.release.verify import verify_bundle
from compliance.release.verify_logs import witness_keys
from compliance.study import Study
from compliance.trust.root import Anchor, open_trust
from compliance.validation import load_model

CONSORTIUM, OPERATOR, REFUSED = "thyroid", "coordinator", "site-e"
JURISDICTIONS = {"site-a": "DE", "site-b": "FR", "site-c": "GB", "site-d": "JP", REFUSED: "CN"}
CONTRIBUTORS = tuple(name for name in JURISDICTIONS if name != REFUSED)
START = datetime(2026, 11, 21, 10, tzinfo=UTC)
AT = START + timedelta(days=1)
ORDER = ("charge", "commit", "decision", "transfer")
LORA = "base_model.model.encoder.layer.0.attention.self.query.lora_B.weight"
LAYOUT = {
    "schema": "residency.layout/1",
    "entries": [
        {"name": "head.weight", "shape": [2, 3]},
        {"name": "head.bias", "shape": [2]},
        {"name": LORA, "shape": [4, 2], "a_width": 4},
    ],
}
SIZE = 16
EVENT = PrivacyEvent(
    noise_multiplier_micro=2_000_000, sample_numerator=64, sample_denominator=1000, steps=2, unit="record"
)


Change = Callable[[str, str, dict[str, Any]], None]


@dataclass(frozen=True)
class Plan:
    """What is special about a world. `order` is the order of log entries of site-a's contribution in round 1.

    `failed_first`: site-a's first attempt of round 1 is charged and fails, the second contributes. `body` changes the
    body of every log entry in place before it is logged, given (member, kind, body); `roster` every roster before it
    is signed by all.
    """

    order: tuple[str, ...] = ORDER
    failed_first: bool = False
    self_refusal: bool = False
    skip_denials: bool = False
    noise_multiplier_micro: int = EVENT.noise_multiplier_micro
    rounds: int = 2
    body: Change | None = None
    roster: Callable[[dict[str, Any]], None] | None = None


@contextmanager
def stopped_clock(start: datetime = START) -> Iterator[None]:
    """`compliance.clock.now` starts at `start` and ticks one second per look."""
    ticks = [start]

    def now() -> datetime:
        ticks[0] += timedelta(seconds=1)
        return ticks[0]

    with patch.object(clock, "now", now):
        yield


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


def build_world(plan: Plan = Plan()) -> World:
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


def study_json(plan: Plan = Plan()) -> dict[str, Any]:
    """The study of the world, as JSON."""
    sites = [
        {
            "name": name,
            "jurisdiction": jurisdiction,
            "records_public": 1000,
            "batch": 64,
            "weight": 1,
            "epsilon_milli": 8000,
            "noise_multiplier_micro": plan.noise_multiplier_micro,
        }
        for name, jurisdiction in JURISDICTIONS.items()
    ]
    return {
        "schema": "residency.study/1",
        "name": "thyroid-one",
        "consortium": CONSORTIUM,
        "purpose": "scientific_research",
        "description": "An invented study.",
        "operator": {"name": OPERATOR, "jurisdiction": "IE"},
        "controllers": ["Invented hospital"],
        "documents": list(_documents()),
        "issued": "2026-11-02",
        "starts": "2026-11-01",
        "ends": "2027-03-01",
        "dataset": "thyroid",
        "task": {
            "kind": "sequence_classification",
            "labels": ["ill", "well"],
            "label_column": "target",
            "label_values": {"x": "ill"},
            "label_other": "well",
            "template": "age {age}",
            "max_tokens": 16,
        },
        "model": {
            "name": "tiny-bert",
            "sha256": sha256_hex(b"model"),
            "pooling": "mean",
            "adapters": {"layers": 1, "rank": 2, "scale_milli": 2000, "targets": ["query"], "init_seed": 7},
            "features": None,
            "feature_norm_milli": 1000,
        },
        "training": {
            "rounds": plan.rounds,
            "steps": 2,
            "head_rate_milli": 1000,
            "adapter_rate_milli": 100,
            "physical_batch": 32,
        },
        "privacy": {"unit": "record", "inverse_delta": 100_000, "clip_micro": 1_000_000, "spare_rounds": 1},
        "aggregation": {"rule": "fedavg", "average_last_rounds": 2},
        "sites": sites,
        "quorum": {"sites": 3},
        "round_deadline_s": 60,
        "software": {"version": "1.0.0", "bundle_sha256": sha256_hex(b"bundle")},
    }


def _documents() -> Iterator[dict[str, Any]]:
    papers = [(kind, "*") for kind in ("dpia", "art6_basis", "art9_basis", "ethics")]
    papers += [("adequacy_confirmation", name) for name in (OPERATOR, *CONTRIBUTORS)]
    for kind, covers in papers:
        name = f"{kind}-{covers}".replace("_", "-").replace("-*", "")
        yield {
            "id": name,
            "kind": kind,
            "title": f"Invented {name}",
            "sha256": sha256_hex(name.encode()),
            "expires": "2027-12-31",
            "from_jurisdiction": "*",
            "to_jurisdiction": "*",
            "covers": covers,
        }


@cache
def _engine() -> tuple[dict[str, Pack], Engine]:
    packs = builtin_packs()
    return packs, Engine(packs, {name: pack.digest for name, pack in packs.items()})


class _Run:
    """One run of the study, recorded by every member as the real programs record it."""

    def __init__(self, made: World, plan: Plan, folder: Path, stack: ExitStack) -> None:
        self.world, self.plan, self.digest = made, plan, made.study_digest
        self.members = (OPERATOR, *CONTRIBUTORS)
        self.logs: dict[str, LogStore] = {}
        self.witnesses: dict[str, WitnessStore] = {}
        for member in self.members:
            key, origin = made.log_signer(member).private, made.origin(member)
            name = made.anchor.trust.witness_name(member)
            self.logs[member] = stack.enter_context(LogStore.open(folder / f"{member}.db", origin, key))
            self.witnesses[member] = stack.enter_context(WitnessStore(folder / f"{member}-witness.db", name, key))
        self.packs, self.engine = _engine()
        self.documents = tuple(
            Document(**{k: v for k, v in d.items() if k not in ("id", "title")}) for d in _documents()
        )
        self.parties = {OPERATOR: Party(name=OPERATOR, jurisdiction="IE")}
        self.parties |= {n: Party(name=n, jurisdiction=j) for n, j in JURISDICTIONS.items()}
        self.seq = dict.fromkeys(CONTRIBUTORS, 1)
        self.used: set[str] = set()

    def play(self) -> None:
        """From the proposal to the close."""
        self._join()
        flat = np.arange(SIZE, dtype="<f4") / 8
        self._snapshot(0, flat)
        for round_ in range(1, self.plan.rounds + 1):
            flat = self._round(round_, flat)
            self._cosign_all(1)
        for member in self.members:
            self.append(member, "close", {"rounds": self.plan.rounds})
        sizes = {m: log.size for m, log in self.logs.items()}
        self._cosign_all(2)
        self._collect(sizes)

    def append(self, member: str, kind: str, body: dict[str, Any]) -> Appended:
        if self.plan.body:
            self.plan.body(member, kind, body)
        return self.logs[member].append(kind, body, self.digest)

    def ref(self, member: str, appended: Appended) -> dict[str, Any]:
        return {"origin": self.logs[member].origin, "index": appended.index, "leaf": appended.leaf_hash.hex()}

    def _join(self) -> None:
        run, keys, study = self.world.run, self.world.keys, self.world.study
        run["study.json"] = seal(study.as_json(), self.world.operator).encode() + b"\n"
        run["layout.json"] = canonical(LAYOUT) + b"\n"
        self.append(OPERATOR, "study", {"name": study.name})
        for site in CONTRIBUTORS:
            self.append(site, "study", {"name": study.name})
            common = {"subject": "study", "digest": self.digest, "site": site, "at": rfc3339(clock.now())}
            advice = seal(
                {"schema": "residency.advice/1", **common, "favourable": True, "text": "fine"}, keys[site, "dpo"]
            )
            approval = seal(
                {
                    "schema": "residency.approval/1",
                    **common,
                    "advice": advice.digest,
                    "against_advice_reason": "",
                    "policy": sha256_hex(b"policy"),
                    "software": study.software.model_dump(),
                },
                keys[site, "signatory"],
            )
            for name, answer in (("advice", advice), ("approval", approval)):
                run[f"answers/{site}.{name}.json"] = answer.encode() + b"\n"
                body = bodies.AnswerBody(statement=name, digest=answer.digest, site=site)  # type: ignore[arg-type]
                for member in (site, OPERATOR):
                    self.append(member, "answer", body.as_json())
            self._reserve(site)
        self._refuse()

    def _reserve(self, site: str) -> None:
        rounds = self.world.study.charged_rounds
        template = EVENT.model_copy(
            update={"steps": EVENT.steps * rounds, "noise_multiplier_micro": self.plan.noise_multiplier_micro}
        )
        body = bodies.ReservationBody(
            source=f"{site}-patients", study_epsilon_milli=8000, inverse_delta=100_000, event=template
        )
        self.append(site, "reservation", body.as_json())
        self.seq[site] += 1

    def _refuse(self) -> None:
        self.denials = []
        if self.plan.self_refusal:
            refusal = {
                "schema": "residency.refusal/1",
                "subject": "study",
                "digest": self.digest,
                "site": REFUSED,
                "at": rfc3339(clock.now()),
                "reason": "no capacity",
            }
            signed = seal(refusal, self.world.keys[REFUSED, "signatory"])
            self.world.run[f"answers/{REFUSED}.refusal.json"] = signed.encode() + b"\n"
        if self.plan.skip_denials:
            return
        for member in (OPERATOR, "site-a", "site-d"):
            self.denials.append(self.ref(member, self._decide(member, "aggregate", REFUSED, 0, allow=False)))

    def _decide(self, member: str, artifact: str, peer: str, round_: int, *, allow: bool = True) -> Appended:
        transfer = Transfer(
            artifact=artifact,  # type: ignore[arg-type]
            exporter=self.parties[member],
            recipient=self.parties[peer],
            purpose="scientific_research",
            study=self.digest,
            documents=self.documents,
            guarantees=Guarantees(unit="record", epsilon_milli=8000, inverse_delta=100_000, min_sites=4),
            at=rfc3339(clock.now()),
        )
        decision = self.engine.decide(transfer)
        assert decision.allow == allow, decision
        self.used.update(decision.packs)
        return self.append(member, "decision", bodies.decision_body(decision, round_, peer))

    def _send_base(self, round_: int, base: str) -> None:
        for site in CONTRIBUTORS:
            decided = self._decide(OPERATOR, "aggregate", site, round_)
            body = bodies.TransferBody(
                artifact="aggregate", recipient=site, round=round_, attempt=1, sha256=base, decision=decided.index
            )
            self.append(OPERATOR, "transfer", body.as_json())

    def _round(self, round_: int, flat: Any) -> Any:
        base = sha256_hex(flat.tobytes())
        self._send_base(round_, base)
        rows = [self._contribute(site, round_, i, base) for i, site in enumerate(CONTRIBUTORS)]
        rows.append(
            {
                "site": REFUSED,
                "jurisdiction": JURISDICTIONS[REFUSED],
                "outcome": "refused",
                "reason": {"code": "RSD-3101", "rule": "eu.no-basis", "message": "no transfer basis"},
                "denied_by": self.denials,
            }
        )
        result = (flat + np.float32(0.25 * round_)).astype("<f4")
        self._snapshot(round_, result)
        roster = {
            "schema": "residency.roster/1",
            "study": self.digest,
            "run": "run-1",
            "round": round_,
            "at": rfc3339(clock.now()),
            "base_sha256": base,
            "result_sha256": sha256_hex(result.tobytes()),
            "recipients": list(CONTRIBUTORS),
            "rows": rows,
        }
        if self.plan.roster:
            self.plan.roster(roster)
        signed = seal(roster, self.world.operator, *(self.world.keys[s, "agent"] for s in CONTRIBUTORS))
        self.world.run[f"rosters/round-{round_:03d}.json"] = signed.encode() + b"\n"
        for member in self.members:
            self.append(member, "roster", {"round": round_, "digest": signed.digest})
        return result

    def _contribute(self, site: str, round_: int, number: int, base: str) -> dict[str, Any]:
        attempt, special = 1, site == "site-a" and round_ == 1
        if special and self.plan.failed_first:
            self._charge(site, round_, 1, base)
            attempt = 2
        update = sha256_hex((np.ones(SIZE, "<f4") * (number + round_)).tobytes())
        refs: dict[str, Any] = {}
        for kind in self.plan.order if special else ORDER:
            if kind == "charge":
                refs[kind] = self._charge(site, round_, attempt, base)
            elif kind == "commit":
                body = bodies.CommitBody(
                    round=round_, attempt=attempt, update_sha256=update, conformance={"noise": True}
                ).as_json()
                refs[kind] = self.append(site, "commit", body)
            elif kind == "decision":
                refs[kind] = self._decide(site, "dp_update", OPERATOR, round_)
            else:
                index = refs["decision"].index if "decision" in refs else 0
                sent = bodies.TransferBody(
                    artifact="dp_update", recipient=OPERATOR, round=round_, attempt=attempt, sha256=update,
                    decision=index,
                )  # fmt: skip
                refs[kind] = self.append(site, "transfer", sent.as_json())
        row = {"site": site, "jurisdiction": JURISDICTIONS[site], "outcome": "contributed"}
        named = {kind: self.ref(site, appended) for kind, appended in refs.items()}
        return {**row, "attempt": attempt, "update_sha256": update, **named}

    def _charge(self, site: str, round_: int, attempt: int, base: str) -> Appended:
        self.seq[site] += 1
        seq = self.seq[site]
        event = EVENT.model_copy(update={"noise_multiplier_micro": self.plan.noise_multiplier_micro})
        body = bodies.ChargeBody(
            source=f"{site}-patients", round=round_, attempt=attempt, event=event, seq=seq,
            head=sha256_hex(f"{site} {seq}".encode()), base_sha256=base,
        )  # fmt: skip
        return self.append(site, "charge", body.as_json())

    def _snapshot(self, round_: int, flat: Any) -> None:
        self.world.run[f"snapshots/round-{round_:03d}.f32"] = flat.tobytes()

    def _cosign_all(self, peers: int) -> None:
        """Every log is cosigned by the next `peers` members, who log what they saw."""
        trust = self.world.anchor.trust
        notes = {m: (log.checkpoint(), log.size) for m, log in self.logs.items()}
        for i, member in enumerate(self.members):
            log, (text, size) = self.logs[member], notes[member]
            for step in range(1, peers + 1):
                peer = self.members[(i + step) % len(self.members)]
                last = self.witnesses[peer].last(log.origin)
                old = last[0] if last else 0
                proof = log.consistency_proof(old, size) if old else ()
                signed = self.witnesses[peer].cosign(text, log.public_key, old, proof, origin=log.origin)
                log.add_cosignature(signed.size, signed.line, witness_keys(trust, member))
                root = checkpoint.parse_text(note.parse(text).text).root.hex()
                self.append(peer, "cosign", bodies.CosignBody(origin=log.origin, size=size, root=root).as_json())

    def _collect(self, sizes: dict[str, int]) -> None:
        run = self.world.run
        for member, log in self.logs.items():
            run[f"evidence/{member}.json"] = evidence_bytes(build_evidence(log, range(sizes[member])))
            self.world.held[member] = tuple(
                text for peer in self.members if peer != member for text in self.witnesses[peer].notes(log.origin)
            )
        for name in sorted(self.used):
            run[f"packs/{name}.yaml"] = self.packs[name].raw
        result = {"schema": "residency.run/1", "run": "run-1", "study": self.digest, "outcome": "finished"}
        run["result.json"] = canonical(result) + b"\n"


def resealed(data: bytes, change: Any, *signers: Signer) -> bytes:
    """The statement in `data` after `change(payload)`, signed by `signers`."""
    payload = json.loads(parse_envelope(data, "statement").payload)
    change(payload)
    return seal(payload, *signers).encode() + b"\n"

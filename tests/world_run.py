"""One run of the synthetic world, recorded by every member as the real programs record it."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compliance import clock
from compliance.canonical import canonical, sha256_hex
from compliance.clock import rfc3339
from compliance.identity import Envelope, Signer, seal
from compliance.law.decide import Engine, builtin_packs
from compliance.law.law_adoption import adoption_record, draft_law_set
from compliance.law.law_set import LawSet
from compliance.law.regions import load_regions
from compliance.log import checkpoint, note
from compliance.log.evidence import build_evidence, closing_body
from compliance.log.store import Appended, LogStore
from compliance.log.witness import WitnessStore
from compliance.release import bodies
from compliance.release.case import evidence_bytes
from compliance.study_transfer import parties, transfer_of
from compliance.trust.witnesses import witness_keys
from compliance.validation import load_model
from tests.world_plan import (
    CONTRIBUTORS,
    EVENT,
    JURISDICTIONS,
    LAYOUT,
    OPERATOR,
    ORDER,
    REFUSED,
    SIZE,
    START,
    Plan,
)

if TYPE_CHECKING:
    from tests.world import World


@cache
def law_set_of(site: str) -> LawSet:
    """All built-in packs that bind the site's jurisdiction."""
    return draft_law_set(site, JURISDICTIONS[site], builtin_packs(), load_regions(), {})


@cache
def operator_law_set() -> LawSet:
    """The packs that bind the operator, with a declaration about one that would bind it elsewhere."""
    made = draft_law_set(OPERATOR, "IE", builtin_packs(), load_regions(), {}).as_json()
    declared = [{"id": "us-ca", "reason": "No business in California."}]
    return load_model(LawSet, {**made, "not_binding": declared}, "RSD-3030", "law set")


@cache
def _engine(member: str, own: bool) -> Engine:
    """A site's law set, or the operator's if it has its `own`; else it applies every pack."""
    packs = builtin_packs()
    if member in JURISDICTIONS or own:
        law_set = operator_law_set() if member == OPERATOR else law_set_of(member)
        return Engine.of(law_set, packs, load_regions())
    return Engine(packs, {n: p.digest for n, p in packs.items()}, regions=load_regions())


class Run:
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
        self.parties = parties(made.study)
        self.seq = dict.fromkeys(CONTRIBUTORS, 1)
        self.used: set[str] = set()

    def play(self) -> None:
        """From the proposal to the close."""
        self._adopt()
        self._join()
        flat = np.arange(SIZE, dtype="<f4") / 8
        self._snapshot(0, flat)
        for round_ in range(1, self.plan.rounds + 1):
            flat = self._round(round_, flat)
            self._cosign_all(1)
        for member in self.members:
            self._clear(member)
        for member in self.members:
            self._close(member)
        sizes = {m: log.size for m, log in self.logs.items()}
        self._cosign_all(2)
        self._collect(sizes)

    def append(self, member: str, kind: str, body: dict[str, Any]) -> Appended:
        if self.plan.body:
            self.plan.body(member, kind, body)
        return self.logs[member].append(kind, body, self.digest)

    def ref(self, member: str, appended: Appended) -> dict[str, Any]:
        return {"origin": self.logs[member].origin, "index": appended.index, "leaf": appended.leaf_hash.hex()}

    def _adopt(self) -> None:
        """Each site's signatory adopts its law set on the DPO's advice; the operator notes what it was shown."""
        run, keys = self.world.run, self.world.keys
        run["regions.yaml"] = load_regions().raw
        for site in CONTRIBUTORS:
            law_set = law_set_of(site)
            said = {
                "schema": "residency.advice/1", "subject": "law_set", "digest": law_set.digest, "site": site,
                "at": rfc3339(clock.now()), "favourable": True, "text": "complete",
            }  # fmt: skip
            advice = self._answer(site, "law advice", said, keys[site, "adviser"])
            record = adoption_record(law_set, clock.now(), advice.digest, "")
            adoption = self._answer(site, "adoption", record, keys[site, "adopter"])
            run[f"law/{site}.advice.json"] = advice.encode() + b"\n"
            run[f"law/{site}.adoption.json"] = adoption.encode() + b"\n"
            body = bodies.AdoptionBody(site=site, law_set=record["digest"], digest=adoption.digest)
            self.append(OPERATOR, "law", body.as_json())
            self.used.update(law_set.adopted)

        if self.plan.operator_law:
            record = adoption_record(operator_law_set(), clock.now(), "", "The operator has no officer.")
            signed = self._answer(OPERATOR, "adoption", record, self.world.operator)
            run[f"law/{OPERATOR}.adoption.json"] = signed.encode() + b"\n"
            body = bodies.AdoptionBody(site=OPERATOR, law_set=record["digest"], digest=signed.digest)
            self.append(OPERATOR, "law", body.as_json())

    def _join(self) -> None:
        run, keys, study = self.world.run, self.world.keys, self.world.study
        run["study.json"] = seal(study.as_json(), self.world.operator).encode() + b"\n"
        run["layout.json"] = canonical(LAYOUT) + b"\n"
        self.append(OPERATOR, "study", {"name": study.name})
        for site in CONTRIBUTORS:
            self.append(site, "study", {"name": study.name})
            common = {"subject": "study", "digest": self.digest, "site": site, "at": rfc3339(clock.now())}
            said = {"schema": "residency.advice/1", **common, "favourable": True, "text": "fine"}
            advice = self._answer(site, "advice", said, keys[site, "dpo"])
            approved = {
                "schema": "residency.approval/1",
                **common,
                "advice": advice.digest,
                "against_advice_reason": "",
                "policy": sha256_hex(b"policy"),
                "software": study.software.model_dump(),
            }
            approval = self._answer(site, "approval", approved, keys[site, "signatory"])
            for name, answer in (("advice", advice), ("approval", approval)):
                run[f"answers/{site}.{name}.json"] = answer.encode() + b"\n"
                body = bodies.AnswerBody(statement=name, digest=answer.digest, site=site)  # type: ignore[arg-type]
                for member in (site, OPERATOR):
                    self.append(member, "answer", body.as_json())
            self._reserve(site)
            body = bodies.JoinBody(
                run="run-1", approval_policy=sha256_hex(b"policy"), law_set=law_set_of(site).digest, device="cpu",
                layout_sha256=sha256_hex(canonical(LAYOUT["entries"])),
            )  # fmt: skip
            self.append(site, "join", body.as_json())
        self._refuse()

    def _answer(self, site: str, kind: str, statement: dict[str, Any], signer: Signer) -> Envelope:
        if self.plan.answer:
            self.plan.answer(site, kind, statement)
        return seal(statement, signer)

    def _close(self, member: str) -> None:
        """The entry that counts the member's entries of the study, after what the plan adds before it."""
        if self.plan.before_close:
            self.plan.before_close(self, member)
        held = self.logs[member].entries(0, study=self.digest)
        self.append(member, "close", closing_body(held, [e.body["digest"] for e in held if e.kind == "roster"]))

    def _reserve(self, site: str) -> None:
        rounds = self.world.study.charged_rounds
        template = EVENT.model_copy(
            update={
                "steps": EVENT.steps * rounds,
                "tv_error_femto": EVENT.tv_error_femto * rounds,
                "noise_multiplier_micro": self.plan.noise_multiplier_micro,
                "unit": self.plan.unit,
            }
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

    def _decide(self, member: str, artifact: str, peer: str, round_: int, *, allow: bool | None = True) -> Appended:
        others = [self.parties[s] for s in self.plan.told if s != member]
        onward = tuple(others) if artifact == "dp_update" else ()
        transfer = transfer_of(
            self.world.study,
            self.digest,
            member,
            artifact,  # type: ignore[arg-type]
            self.parties[peer],
            onward,
            at=rfc3339(clock.now()),
        )
        decision = _engine(member, self.plan.operator_law).decide(transfer)
        assert allow in {None, decision.allow}, decision
        self.used.update(decision.packs)
        return self.append(member, "decision", bodies.decision_body(decision, round_, peer))

    def _clear(self, member: str) -> None:
        """Whether each other site may have the release."""
        for site in JURISDICTIONS:
            if site != member:
                self._decide(member, "released_model", site, 0, allow=None if site == REFUSED else True)

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
            "unit": self.plan.unit,
            "adjacency": "add_remove",
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
        event = EVENT.model_copy(
            update={"noise_multiplier_micro": self.plan.noise_multiplier_micro, "unit": self.plan.unit}
        )
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
                log.add_cosignature(signed.size, signed.line, witness_keys(trust, member, START))
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
            run[f"packs/{name}.yaml"] = builtin_packs()[name].raw
        result = {"schema": "residency.run/1", "run": "run-1", "study": self.digest, "outcome": "finished"}
        run["result.json"] = canonical(result) + b"\n"

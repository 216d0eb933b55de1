"""What a ledger's entries add up to, and what they allow next: decisions without I/O.

A data source's history is a chain of entries; its state is their fold. Kinds: `limit`, `reserve`, `charge`, `release`.
Every decision is a function of this state and one request; it returns the body of the entry to append, or raises
`Refused`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from compliance.canonical import Json
from compliance.errors import InternalBug, Refused
from compliance.privacy.events import UNITS, PrivacyEvent, Unit
from compliance.privacy.ledger_records import Balance, Charge, Limit, LogHead, Plan, Reservation
from compliance.privacy.rdp_filter import Total, needed_milli, sampler_allowance_femto, total


@dataclass
class SourceState:
    """Fold of one data source's entries. `apply` is the only way to change it.

    `logs`: origin -> the log as the charge that found most of it did. `policies`: the digests of all policies that ever
    set a limit here.
    """

    source: str
    head: str
    seq: int = 0
    limit: Limit | None = None
    reservations: dict[str, Reservation] = field(default_factory=dict)
    charges: list[Charge] = field(default_factory=list)
    last_attempt: dict[tuple[str, int], int] = field(default_factory=dict)
    logs: dict[str, LogHead] = field(default_factory=dict)
    policies: set[str] = field(default_factory=set)

    def apply(self, seq: int, kind: str, body: Json, head: str) -> None:
        """Count the entry `seq`, which was committed. Raises InternalBug RSD-4190 for an unknown kind."""
        step = _STEPS.get(kind)
        if step is None:
            raise InternalBug("RSD-4190", "the ledger holds an entry of an unknown kind", found=kind)
        self.seq, self.head = seq, head
        step(self, body)

    def total(self, *, held: bool) -> Total:
        """Filter cost of everything held (or only of everything charged)."""
        return total(e for r in self.reservations.values() for e in (r.held() if held else r.charged()))

    def units(self) -> tuple[Unit, ...]:
        """The units in which everything held here is accounted; all of them while nothing is held."""
        held = [set(r.units) for r in self.reservations.values() if r.held()]
        return tuple(u for u in UNITS if all(u in units for units in held))

    def balance(self) -> Balance:
        """Raises Refused RSD-4100 for a source without a limit."""
        limit = required_limit(self)
        held = needed_milli(self.total(held=True), limit.inverse_delta)
        charged = needed_milli(self.total(held=False), limit.inverse_delta)
        left = max(limit.epsilon_milli - held, 0)
        return Balance(self.source, limit.epsilon_milli, limit.inverse_delta, charged, held, left)


def _apply_limit(state: SourceState, body: Json) -> None:
    state.limit = Limit(body["epsilon_milli"], body["inverse_delta"], body["policy_sha256"])
    state.policies.add(body["policy_sha256"])


def _apply_reserve(state: SourceState, body: Json) -> None:
    also = tuple(PrivacyEvent.model_validate(e) for e in body["also"])
    state.reservations[body["study"]] = Reservation(
        source=state.source,
        study=body["study"],
        event=PrivacyEvent.model_validate(body["event"]),
        also=also,
        units=tuple(body["units"]),
        claim_epsilon_milli=body["claim_epsilon_milli"],
        claim_inverse_delta=body["claim_inverse_delta"],
        spent=((0, 0),) * (1 + len(also)),
        released=False,
        seq=state.seq,
    )


def _apply_charge(state: SourceState, body: Json) -> None:
    event = PrivacyEvent.model_validate(body["event"])
    study = body["study"]
    after = state.reservations[study].after(body["round"], event)
    if after is None:
        raise InternalBug("RSD-4190", "the ledger holds a charge beyond its reservation", found=f"entry {state.seq}")
    state.reservations[study] = after
    state.last_attempt[study, body["round"]] = body["attempt"]
    state.charges.append(
        Charge(state.source, study, body["round"], body["attempt"], event, seq=state.seq, head=state.head)
    )
    if "log" in body:  # charges of earlier days say nothing of it
        longest(state.logs, LogHead(**body["log"]))


def _apply_release(state: SourceState, body: Json) -> None:
    state.reservations[body["study"]] = replace(state.reservations[body["study"]], released=True)


def longest(logs: dict[str, LogHead], found: LogHead) -> None:
    """Keep `found` if it is more of its log than is known."""
    known = logs.get(found.origin)
    if known is None or found.size > known.size:
        logs[found.origin] = found


_STEPS: dict[str, Callable[[SourceState, Json], None]] = {
    "limit": _apply_limit,
    "reserve": _apply_reserve,
    "charge": _apply_charge,
    "release": _apply_release,
}


def required_limit(state: SourceState) -> Limit:
    """The source's limit. Raises Refused RSD-4100 if none was ever set."""
    if state.limit is None:
        raise Refused(
            "RSD-4100",
            f"data source {state.source} has no privacy budget",
            rule="nothing is read before a budget is registered",
            found="no limit",
            limit="a limit from the site's signed policy",
            next="register the data source with a limit",
        )
    return state.limit


def decide_limit(state: SourceState, wanted: Limit) -> Json | None:
    """First limit and lowering: free. Raising (larger eps or larger delta): only by a policy that never set a limit
    here, RSD-4102: what an earlier one allowed was taken back. None if nothing changes.
    """
    old = state.limit
    if old == wanted:
        return None
    if old is not None:
        raises = wanted.epsilon_milli > old.epsilon_milli or wanted.inverse_delta < old.inverse_delta
        if raises and (not wanted.policy_sha256 or wanted.policy_sha256 in state.policies):
            raise Refused(
                "RSD-4102",
                f"the budget of {state.source} may be raised only by a newly signed policy",
                rule="a budget is raised by a signature, not by a command",
                found=f"{wanted.epsilon_milli} milli-eps at delta 1/{wanted.inverse_delta}",
                limit=f"{old.epsilon_milli} milli-eps at delta 1/{old.inverse_delta}",
                next="have the signatory sign a site policy with the new limit and give its digest",
            )
    return {
        "epsilon_milli": wanted.epsilon_milli,
        "inverse_delta": wanted.inverse_delta,
        "policy_sha256": wanted.policy_sha256,
    }


def plan(state: SourceState, event: PrivacyEvent, also: tuple[PrivacyEvent, ...] = ()) -> Plan:
    """What reserving `event` and what is done `also` would take. Raises Refused RSD-4100 without a limit."""
    balance = state.balance()
    held = state.total(held=True)
    after = _plus(held, event, *also)
    need = needed_milli(after, balance.inverse_delta)
    fits = need <= balance.limit_milli and after.tv_error_femto <= _allowance(state)
    return Plan(state.source, need - balance.held_milli, balance.left_milli, fits)


def decide_reserve(
    state: SourceState,
    study: str,
    event: PrivacyEvent,
    claim: tuple[int, int],
    units: tuple[Unit, ...],
    also: tuple[PrivacyEvent, ...] = (),
) -> Json | None:
    """Body of the reservation; None if exactly this one stands. Refused: RSD-4100, 4101, 4103, 4104, 4107, 4108."""
    limit = required_limit(state)
    old = state.reservations.get(study)
    if old is not None:
        _require_same(state, old, (event, *also), claim)
        return None
    _require_common_unit(state, units)
    _require_room(state, study, _plus(state.total(held=True), event, *also), limit, state.balance().held_milli)
    return {
        "study": study,
        "event": event.model_dump(),
        "also": [e.model_dump() for e in also],
        "units": list(units),
        "claim_epsilon_milli": claim[0],
        "claim_inverse_delta": claim[1],
    }


def decide_charge(
    state: SourceState, study: str, round_no: int, attempt: int, event: PrivacyEvent, log: LogHead | None = None
) -> Json:
    """Body of the charge. Refused: RSD-4101, 4103 (the limit was lowered), 4104, 4105, 4106, 4109."""
    limit = required_limit(state)
    held = state.reservations.get(study)
    if held is None or held.released:
        raise Refused(
            "RSD-4104",
            f"study {study} holds no open reservation on {state.source}",
            rule="a charge is paid from a reservation",
            found="released" if held else "never reserved",
            limit="an open reservation",
            next="reserve the study first; a closed study cannot go on",
        )
    _require_next_attempt(state, study, round_no, attempt)
    _require_within(state, held, round_no, event)
    charged = state.total(held=False)
    before = needed_milli(charged, limit.inverse_delta)
    _require_room(state, study, _plus(charged, event), limit, before)
    found = {"log": log._asdict()} if log is not None else {}
    return {"study": study, "round": round_no, "attempt": attempt, "event": event.model_dump(), **found}


def decide_release(state: SourceState, study: str) -> Json | None:
    """Body of the release; None if the study holds nothing open here."""
    held = state.reservations.get(study)
    return None if held is None or held.released else {"study": study}


def _plus(before: Total, *events: PrivacyEvent) -> Total:
    one = total(events)
    nano = tuple(a + b for a, b in zip(before.nano, one.nano, strict=True))
    return Total(nano, before.tv_error_femto + one.tv_error_femto)


def _allowance(state: SourceState) -> int:
    limit = required_limit(state)
    return sampler_allowance_femto(limit.epsilon_milli, limit.inverse_delta)


def _require_room(state: SourceState, study: str, after: Total, limit: Limit, before_milli: int) -> None:
    need = needed_milli(after, limit.inverse_delta)
    if need > limit.epsilon_milli:
        raise Refused(
            "RSD-4101",
            f"the privacy budget of {state.source} does not cover study {study}",
            rule=f"RDP filter over all studies, {limit.epsilon_milli} milli-eps at delta 1/{limit.inverse_delta}",
            found=f"{need - before_milli} milli-eps needed",
            limit=f"{max(limit.epsilon_milli - before_milli, 0)} milli-eps left",
            next="propose it with a smaller epsilon_milli for this site, or close a study that holds room",
        )
    allowed = _allowance(state)
    if after.tv_error_femto > allowed:
        raise Refused(
            "RSD-4103",
            f"the sampler's errors use up the delta of {state.source}",
            rule="(1 + e^eps) times the total-variation errors is at most a tenth of delta",
            found=f"{after.tv_error_femto} femto",
            limit=f"{allowed} femto",
            next="use a sampler with a smaller error, fewer steps or a smaller limit eps",
        )


def _require_same(
    state: SourceState, old: Reservation, events: tuple[PrivacyEvent, ...], claim: tuple[int, int]
) -> None:
    event = events[0]
    if old.events != events or (old.claim_epsilon_milli, old.claim_inverse_delta) != claim:
        raise Refused(
            "RSD-4107",
            f"study {old.study} already holds another reservation on {state.source}",
            rule="a study is reserved once, as it was signed",
            found=f"{event.steps} steps at noise {event.noise_multiplier_micro} micro",
            limit=f"{old.event.steps} steps at noise {old.event.noise_multiplier_micro} micro",
            next="propose the changed study under its own digest",
        )
    if old.released:
        raise Refused(
            "RSD-4104",
            f"study {old.study} was closed on {state.source}",
            rule="a closed study is not opened again",
            found="released",
            limit="an open reservation",
            next="propose a new study",
        )


def _require_common_unit(state: SourceState, units: tuple[Unit, ...]) -> None:
    """A record-level event says nothing of a patient with several rows, however often it is composed."""
    common = state.units()
    if not set(units) & set(common):
        raise Refused(
            "RSD-4108",
            f"data source {state.source} is accounted per {' and '.join(common)}",
            rule="what was spent per record and what was spent per patient have no common eps on one data source",
            found=f"a study per {' and '.join(units)}",
            limit=f"a study per {' or '.join(common)}",
            next="propose the study with the source's unit",
        )


def _require_next_attempt(state: SourceState, study: str, round_no: int, attempt: int) -> None:
    last = state.last_attempt.get((study, round_no), 0)
    if attempt == last + 1:
        return
    if attempt <= last:
        raise Refused(
            "RSD-4105",
            f"attempt {attempt} of round {round_no} was charged already",
            rule="one charge per attempt, one attempt per charge",
            found=attempt,
            limit=last + 1,
            next="send the committed update again, or charge the next attempt",
        )
    raise Refused(
        "RSD-4106",
        f"attempt {attempt} of round {round_no} skips a number",
        rule="attempts count from 1 without a gap",
        found=attempt,
        limit=last + 1,
        next="charge the next attempt",
    )


def _require_within(state: SourceState, held: Reservation, round_: int, event: PrivacyEvent) -> None:
    if held.after(round_, event) is not None:
        return
    part = held.part(round_)
    whole, (steps, femto) = (held.event, (0, 0)) if part is None else (held.events[part], held.spent[part])
    steps, femto = steps + event.steps, femto + event.tv_error_femto
    same = part is not None and whole.same_mechanism(event)
    found = f"{steps} steps, sampler error {femto} femto" if same else "another noise, rate or unit"
    raise Refused(
        "RSD-4109",
        f"study {held.study} would spend more of {state.source} than it reserved",
        rule="charges stay within the reservation",
        found=found,
        limit=f"{whole.steps} steps, sampler error {whole.tv_error_femto} femto, as reserved",
        next="end the study's run; what is left needs a new study",
    )

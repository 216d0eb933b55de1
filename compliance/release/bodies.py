"""What a release reads in the bodies of log entries: writers and the verifier share these shapes.

An unknown field is an error: what nobody reads nobody checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

from pydantic import Field

from compliance.canonical import Json
from compliance.errors import InputError
from compliance.law.model import Decision
from compliance.log.bodies import Body
from compliance.log.entry import Entry
from compliance.privacy.events import PrivacyEvent
from compliance.study import SHA256
from compliance.training_spec import Frozen
from compliance.trust.root import NAME
from compliance.validation import load_model

AGGREGATE, METRIC, UPDATE = "aggregate", "metric", ("dp_update", "masked_update")
RELEASED = "released_model"
VERSION = 1  # of all these shapes, as in compliance/log/kinds.py
ENGINE = "engine."  # begins the engine's own rules, which can only deny
B = TypeVar("B", bound="Body")


class AnswerBody(Body):
    """`answer`: a signed answer of `site` to the study; `digest` is that of the signed statement."""

    statement: Literal["advice", "approval", "refusal"]
    digest: str = Field(pattern=SHA256)
    site: str = Field(pattern=NAME)


class ReservationBody(Body):
    """`reservation`: room held on a data source for the whole study."""

    source: str
    study_epsilon_milli: int = Field(ge=1)
    inverse_delta: int = Field(ge=1)
    event: PrivacyEvent
    also: tuple[PrivacyEvent, ...] = ()


class ChargeBody(Body):
    """`charge`: one attempt paid for; `seq` and `head` are the ledger's, so that a ledger cannot be rolled back.

    `base_sha256` is of the model that is trained from; in round 0, the evaluation, of the model that is evaluated.
    """

    source: str
    round: int = Field(ge=0)
    attempt: int = Field(ge=1)
    event: PrivacyEvent
    seq: int = Field(ge=1)
    head: str = Field(pattern=SHA256)
    base_sha256: str = Field(pattern=SHA256)


class CommitBody(Body):
    """`commit`: the finished update is on disk; `conformance` says which checks of the noise passed."""

    round: int = Field(ge=1)
    attempt: int = Field(ge=1)
    update_sha256: str = Field(pattern=SHA256)
    conformance: dict[str, bool]


class EvaluationBody(Body):
    """`evaluation` at a site: its signed histogram is on disk; `conformance` says which checks of the noise passed."""

    digest: str = Field(pattern=SHA256)
    model_sha256: str = Field(pattern=SHA256)
    conformance: dict[str, bool]


class EvaluationRecordBody(Body):
    """`evaluation` at the operator: the signed record of the evaluation is fixed."""

    digest: str = Field(pattern=SHA256)
    model_sha256: str = Field(pattern=SHA256)


class TransferBody(Body):
    """`transfer`: these bytes were let go to `recipient` by the decision at index `decision` of the same log.

    For the operator's aggregates `round` is the round that starts with these bytes, and `attempt` is 1; the model that
    is evaluated is sent as that of the round after the last. A site's histogram (artifact `metric`) is of round 0.
    """

    artifact: str
    recipient: str = Field(pattern=NAME)
    round: int = Field(ge=0)
    attempt: int = Field(ge=1)
    sha256: str = Field(pattern=SHA256)
    decision: int = Field(ge=0)


class CosignBody(Body):
    """`cosign`: this member cosigned a checkpoint of the log `origin`; `root` in hex."""

    origin: str
    size: int = Field(ge=0)
    root: str = Field(pattern=SHA256)


class RosterBody(Body):
    """`roster`: the operator made this roster, or this site countersigned it."""

    round: int = Field(ge=1)
    digest: str = Field(pattern=SHA256)


class JoinBody(Body):
    """`join`: the site takes part in `run`, under this law set, with parameters whose layout has this digest."""

    run: str = Field(pattern=NAME)
    approval_policy: str = Field(pattern=SHA256)
    law_set: str = Field(pattern=SHA256)
    device: str
    layout_sha256: str = Field(pattern=SHA256)


class AdoptionBody(Body):
    """`law` at the operator: the site that joins showed this signed adoption (`digest`) of this law set."""

    site: str = Field(pattern=NAME)
    law_set: str = Field(pattern=SHA256)
    digest: str = Field(pattern=SHA256)


class CloseBody(Body):
    """`close`: `entries` counts the entries of the study before this one, `entries_sha256` is of their indices.

    `rosters` are the digests that the log's owner holds, in order (`compliance.log.evidence.closing_body`).
    """

    rounds: int = Field(ge=0)
    rosters: tuple[Annotated[str, Field(pattern=SHA256)], ...]
    entries: int = Field(ge=0)
    entries_sha256: str = Field(pattern=SHA256)


@dataclass(frozen=True)
class LoggedDecision:
    """A decision as it was logged: before `round` (0: at joining), about `peer`."""

    decision: Decision
    round: int
    peer: str


class DecisionBody(Decision):
    """`decision`: as it was made, with the round that it was made before (0: at joining) and whom it is about."""

    schema_: Literal["residency.decision/1"] = Field(alias="schema")
    round: int = Field(ge=0)
    peer: str = Field(pattern=NAME)


class _DecisionHead(Frozen):
    schema_: Literal["residency.decision/1"] = Field(alias="schema")
    round: int = Field(ge=0)
    peer: str = Field(pattern=NAME)


def decision_body(decision: Decision, round_: int, peer: str) -> dict[str, Json]:
    """The body of a `decision` entry."""
    return {**decision.as_entry(), "round": round_, "peer": peer}


def read_body(model: type[B], entry: Entry, where: str) -> B:
    """The typed body of `entry`. Raises InputError RSD-9041 naming `where` it stands."""
    _check_version(entry, where)
    return load_model(model, entry.body, "RSD-9041", where)


def read_decision(entry: Entry, where: str) -> LoggedDecision:
    """The decision in `entry`. Raises InputError RSD-9041, also for one that no engine makes: see `_contradiction`."""
    _check_version(entry, where)
    own = {"schema", "round", "peer"}
    head = load_model(_DecisionHead, {k: v for k, v in entry.body.items() if k in own}, "RSD-9041", where)
    rest = {k: v for k, v in entry.body.items() if k not in own}
    decision = load_model(Decision, rest, "RSD-9041", where)
    contradiction = _contradiction(decision)
    if contradiction:
        said = "allow" if decision.allow else "deny"
        raise InputError("RSD-9041", f"{where} contradicts itself", found=contradiction, limit=f"all of it says {said}")
    return LoggedDecision(decision, head.round, head.peer)


def _check_version(entry: Entry, where: str) -> None:
    if entry.v != VERSION:
        raise InputError("RSD-9041", f"{where} has a shape of another version", found=entry.v, limit=VERSION)


def _contradiction(decision: Decision) -> str:
    """What in a decision does not go with its `allow`; empty if all does.

    ALLOW: by a pack's rule, both evaluators and every leg. DENY: the last leg alone denies; without any leg, and
    where the evaluators disagree, the engine itself does.
    """
    rule, votes = decision.rule, {decision.evaluators.python, decision.evaluators.cedar}
    effects, of_the_engine = [leg.effect for leg in decision.legs], rule.startswith(ENGINE)
    if decision.effect != ("allow" if decision.allow else "deny"):
        return f"effect {decision.effect}"
    if decision.allow and of_the_engine:
        return f"{rule}, a rule that can only deny"
    if votes != {decision.effect} and (decision.allow or rule != f"{ENGINE}disagreement"):
        return f"votes python {decision.evaluators.python}, cedar {decision.evaluators.cedar}"
    follows = effects[-1] == decision.effect and "deny" not in effects[:-1] if effects else of_the_engine
    return "" if follows else f"legs {', '.join(effects) or 'none'}"

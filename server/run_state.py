"""Where a run stands, as its folder says: all that a restarted coordinator needs to go on with the same round."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field

from compliance.canonical import Json
from compliance.clock import now, rfc3339
from compliance.errors import ResidencyError, error_class
from compliance.law.model import Party
from compliance.roster import EntryRef
from compliance.study import SHA256
from compliance.training_spec import Frozen
from compliance.trust.root import NAME

Phase: TypeAlias = Literal["joining", "joined", "sent", "closed", "witnessed", "evaluating", "closing"]


class Cause(Frozen):
    """Why a site takes no part: an error with its class, and the log entries that it rests on."""

    code: str
    message: str
    rule: str
    found: str
    limit: str
    next: str
    exit: int
    entries: tuple[EntryRef, ...] = ()

    @classmethod
    def of(cls, error: ResidencyError, entries: tuple[EntryRef, ...] = ()) -> Cause:
        """The error as it is kept."""
        return cls(**error.as_json(), exit=error.exit_code, entries=entries)

    def error(self) -> ResidencyError:
        """The error again, in its class."""
        texts = {"rule": self.rule, "found": self.found, "limit": self.limit, "next": self.next}
        return error_class(self.exit)(self.code, self.message, **texts)


class State(Frozen):
    """state.json: the last step that is on disk. A run that has result.json has ended, whatever stands here.

    `round` is the round that is being played, or was last. `members` are sent the model; `allowed` cites the operator's
    decision for each of them. `absent` did not join; `left_out` joined and may not be sent the model, or not any more.
    `cleared` names those to whom each joined site lets its checkpoints be shown, as they were when it decided.
    """

    schema_: Literal["residency.run-state/1"] = Field(alias="schema")
    study: str = Field(pattern=SHA256)
    phase: Phase = "joining"
    since: str
    round: int = Field(default=0, ge=0)
    members: tuple[str, ...] = ()
    allowed: dict[str, EntryRef] = Field(default_factory=dict)
    absent: dict[str, Cause] = Field(default_factory=dict)
    left_out: dict[str, Cause] = Field(default_factory=dict)
    cleared: dict[str, tuple[Party, ...]] = Field(default_factory=dict)

    def moved(self, phase: Phase, **changes: object) -> State:
        """The next state, dated now."""
        return self.model_copy(update={"phase": phase, "since": rfc3339(now()), **changes})

    def as_json(self) -> dict[str, Json]:
        """JSON form, with `schema` under its public name."""
        return self.model_dump(mode="json", by_alias=True)

    @property
    def last_closed(self) -> int:
        """The last round whose roster is fixed; 0 before the first."""
        return self.round - 1 if self.phase == "sent" else self.round


class Cancel(Frozen):
    """cancel.json: the operator wants the run to end."""

    schema_: Literal["residency.cancel/1"] = Field(alias="schema")
    run: str = Field(pattern=NAME)
    reason: str = Field(min_length=1, max_length=500)
    at: str


def new_state(study: str) -> State:
    """The state of a run that nobody has worked on."""
    return State(schema="residency.run-state/1", study=study, since=rfc3339(now()))


def end_of(error: ResidencyError) -> Json:
    """An error as it stands in result.json."""
    return {**error.as_json(), "exit": str(error.exit_code)}

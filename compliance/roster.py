"""The roster: every site of a round with its outcome and reason, signed by the operator, countersigned by the sites."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from compliance.canonical import Json
from compliance.privacy.events import Unit
from compliance.study import SHA256
from compliance.training_spec import Frozen
from compliance.trust.root import NAME

SCHEMA = "residency.roster/1"


class EntryRef(Frozen):
    """An entry of a log, by origin, index and leaf hash: what stands there cannot be exchanged unseen."""

    origin: str
    index: int = Field(ge=0)
    leaf: str = Field(pattern=SHA256)


class Reason(Frozen):
    """Why a site did not contribute: an error code, its rule and message."""

    code: str
    rule: str
    message: str = Field(max_length=2000)


class RosterRow(Frozen):
    """One site in one round. A contribution names the update's digest and the entries that cover it, in log order."""

    site: str = Field(pattern=NAME)
    jurisdiction: str = Field(pattern=r"^[A-Z]{2}$")
    outcome: Literal["contributed", "refused", "failed", "late"]
    reason: Reason | None = None
    attempt: int | None = Field(default=None, ge=1)
    update_sha256: str | None = Field(default=None, pattern=SHA256)
    charge: EntryRef | None = None
    commit: EntryRef | None = None
    decision: EntryRef | None = None
    transfer: EntryRef | None = None
    denied_by: tuple[EntryRef, ...] = ()

    @model_validator(mode="after")
    def _complete(self) -> RosterRow:
        contribution = (self.attempt, self.update_sha256, self.charge, self.commit, self.decision, self.transfer)
        if self.outcome == "contributed" and (None in contribution or self.reason is not None):
            raise ValueError(f"the contribution of {self.site} is incomplete")
        if self.outcome != "contributed" and self.reason is None:
            raise ValueError(f"{self.site} is {self.outcome} without a reason")
        return self


class Roster(Frozen):
    """One round: `base_sha256` is the digest of the flat global model sent, `result_sha256` of what came out.

    `unit` and `adjacency` say what the differential privacy of every contribution protects, as the study does.
    """

    schema_: Literal["residency.roster/1"] = Field(alias="schema")
    study: str = Field(pattern=SHA256)
    run: str
    round: int = Field(ge=1)
    unit: Unit
    adjacency: Literal["add_remove"]
    at: str
    base_sha256: str = Field(pattern=SHA256)
    result_sha256: str = Field(pattern=SHA256)
    recipients: tuple[str, ...] = Field(description="sites that were sent the global model of this round")
    rows: tuple[RosterRow, ...]

    @model_validator(mode="after")
    def _each_once(self) -> Roster:
        names = [r.site for r in self.rows]
        if len(set(names)) != len(names):
            raise ValueError("a site stands twice in the roster")
        return self

    def row(self, site: str) -> RosterRow | None:
        """The row of `site`."""
        return next((r for r in self.rows if r.site == site), None)

    def as_json(self) -> dict[str, Json]:
        """JSON form, with `schema` under its public name."""
        return self.model_dump(mode="json", by_alias=True)

"""The site policy: the signed limits of one site. A study outside them is refused whole; nothing is merged."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from compliance.canonical import Json
from compliance.clock import parse_time, time_or_none
from compliance.errors import Refused
from compliance.privacy.events import Unit
from compliance.study import DATE, SHA256, Purpose, SiteTerms, Study
from compliance.training_spec import Frozen
from compliance.trust.root import NAME

SCHEMA = "residency.policy/1"


class LedgerLimit(Frozen):
    """What all studies together may spend on one data source, for ever, at one delta."""

    epsilon_milli: int = Field(ge=1, le=100_000)
    inverse_delta: int = Field(ge=1_000, le=10**12)


class SitePolicy(Frozen):
    """Limits that the signatory signed on the data-protection officer's advice."""

    schema_: Literal["residency.policy/1"] = Field(alias="schema")
    site: str = Field(pattern=NAME)
    jurisdiction: str = Field(pattern=r"^[A-Z]{2}$")
    issued: str = Field(pattern=DATE)
    expires: str = Field(pattern=DATE)
    purposes: tuple[Purpose, ...] = Field(min_length=1)
    tasks: tuple[str, ...] = Field(min_length=1)
    units: tuple[Literal["record", "sole_record", "patient"], ...] = Field(
        min_length=1, description="sole_record: per record, and only on an extract in which nobody has several rows"
    )
    epsilon_milli_at_most: int = Field(ge=1, le=100_000)
    inverse_delta_at_least: int = Field(ge=1_000, le=10**12)
    rounds_at_most: int = Field(ge=1, le=1000)
    sites_at_least: int = Field(ge=2, le=1000)
    operators: tuple[str, ...] = Field(min_length=1)
    required_documents: tuple[str, ...]
    models: tuple[str, ...] = Field(default=(), description="digests of model folders; empty: any registered model")
    ledger: LedgerLimit
    law_set: str = Field(pattern=SHA256, description="digest of the law set that the signatory adopted")

    @model_validator(mode="after")
    def _coherent(self) -> SitePolicy:
        issued, expires = time_or_none(self.issued), time_or_none(self.expires)
        if issued is None or expires is None:
            raise ValueError(f"issued {self.issued} or expires {self.expires} is no day of the calendar")
        if expires <= issued:
            raise ValueError(f"expires {self.expires} is not after issued {self.issued}")
        return self

    def as_json(self) -> dict[str, Json]:
        """JSON form, with `schema` under its public name."""
        return self.model_dump(mode="json", by_alias=True)


def check_study(policy: SitePolicy, study: Study) -> None:
    """The study lies inside the policy, or Refused RSD-2101 names the first limit that it breaks, and all others."""
    terms = study.site(policy.site)
    if terms is None:
        raise Refused(
            "RSD-2102",
            f"study {study.name} does not list site {policy.site}",
            rule="site policy",
            found=", ".join(s.name for s in study.sites),
            limit=policy.site,
            next="ask the operator for a study that names this site",
        )
    broken = [(rule, found, limit) for bad, rule, found, limit in _limits(policy, study, terms) if bad]
    if broken:
        rule, found, limit = broken[0]
        others = "" if len(broken) == 1 else "; also " + ", ".join(f"{r} {f} (limit {x})" for r, f, x in broken[1:])
        raise Refused(
            "RSD-2101",
            f"study {study.name} is outside the policy of site {policy.site}: {rule}{others}",
            rule=f"policy.{rule}",
            found=found,
            limit=limit,
            next="the operator proposes a study inside the limits, or the signatory signs another policy",
        )


def _allows_unit(policy: SitePolicy, unit: Unit) -> bool:
    """Whether some extract of the site may be used with this unit; which ones is judged where they are registered."""
    return unit in policy.units or (unit == "record" and "sole_record" in policy.units)


def _limits(policy: SitePolicy, study: Study, terms: SiteTerms) -> list[tuple[bool, str, object, object]]:
    kinds = {d.kind for d in study.documents}
    missing = [d for d in policy.required_documents if d not in kinds]
    privacy = study.privacy
    return [
        (
            terms.epsilon_milli > policy.epsilon_milli_at_most,
            "epsilon_milli_at_most",
            terms.epsilon_milli,
            policy.epsilon_milli_at_most,
        ),
        (
            privacy.inverse_delta < policy.inverse_delta_at_least,
            "inverse_delta_at_least",
            privacy.inverse_delta,
            policy.inverse_delta_at_least,
        ),
        (not _allows_unit(policy, privacy.unit), "units", privacy.unit, ", ".join(policy.units)),
        (study.charged_rounds > policy.rounds_at_most, "rounds_at_most", study.charged_rounds, policy.rounds_at_most),
        (study.purpose not in policy.purposes, "purposes", study.purpose, ", ".join(policy.purposes)),
        (study.task.kind not in policy.tasks, "tasks", study.task.kind, ", ".join(policy.tasks)),
        (study.quorum.sites < policy.sites_at_least, "sites_at_least", study.quorum.sites, policy.sites_at_least),
        (study.operator.name not in policy.operators, "operators", study.operator.name, ", ".join(policy.operators)),
        (
            bool(policy.models) and study.model.sha256 not in policy.models,
            "models",
            study.model.sha256[:12],
            ", ".join(m[:12] for m in policy.models),
        ),
        (terms.jurisdiction != policy.jurisdiction, "jurisdiction", terms.jurisdiction, policy.jurisdiction),
        (bool(missing), "required_documents", "missing " + ", ".join(missing), ", ".join(policy.required_documents)),
        (parse_time(study.ends) > parse_time(policy.expires), "expires", f"study ends {study.ends}", policy.expires),
    ]

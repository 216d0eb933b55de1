"""The study: the signed, frozen configuration of one training job. Integers only; no message can change it."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Literal

from pydantic import Field, model_validator

from compliance.canonical import Json, parse_canonical
from compliance.clock import parse_time, time_or_none
from compliance.errors import Refused
from compliance.identity import parse_envelope
from compliance.law.vocabulary import Category
from compliance.privacy.events import (
    LEAST_NOISE_MICRO,
    MOST_EPSILON_MILLI,
    MOST_NOISE_MICRO,
    MOST_RECORDS_PER_UNIT,
    MOST_STEPS,
    Unit,
)
from compliance.study_places import CODE, Access, RegionGroup, place_mistakes
from compliance.task_spec import TaskSpec, task_mistakes
from compliance.training_spec import Frozen, ModelSpec, TrainingSpec
from compliance.trust.root import NAME, Anchor
from compliance.validation import Mistake, load_model

SCHEMA = "residency.study/1"
SHA256 = r"^[0-9a-f]{64}$"
DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)?$"
Purpose = Literal["scientific_research", "public_health", "quality_improvement"]


class Organisation(Frozen):
    """A legal entity with the country that it and its machines are in."""

    name: str = Field(pattern=NAME)
    jurisdiction: str = Field(pattern=CODE)


class Operator(Organisation):
    """Whom a study's updates reach.

    `access`: other countries from which its people, owners or processors can reach what it holds. `covered_person`:
    whether 28 CFR 202.211 covers it.
    """

    access: Access = ()
    covered_person: bool = False


class StudyDocument(Frozen):
    """A paper on file, by its hash. `*` means: whatever the jurisdiction or recipient."""

    id: str = Field(pattern=NAME)
    kind: str = Field(pattern=r"^[a-z0-9_]{2,40}$")
    title: str = Field(min_length=1, max_length=300)
    sha256: str = Field(pattern=SHA256)
    expires: str = Field(pattern=DATE)
    from_jurisdiction: str = Field(default="*", pattern=r"^([A-Z]{2}|\*)$")
    to_jurisdiction: str = Field(default="*", pattern=r"^([A-Z]{2}|\*)$")
    covers: str = Field(default="*", pattern=r"^(\*|[a-z0-9][a-z0-9-]{0,62})$")


class PrivacyTerms(Frozen):
    """Common to all sites: adjacency is add/remove one `unit`. delta = 1 / inverse_delta, clip in millionths.

    With the unit `patient`, `group_column` names the column that identifies the person, and a sampled patient brings at
    most `records_per_unit` records to a step, a public bound; these make one clipped gradient. A file that names a
    group column and no unit means patients (`study_file`). `spare_rounds`: rounds' worth of charged attempts beyond
    `rounds` that the noise already pays for, so that a crash before a commit can be repeated once with fresh
    randomness (invariant 3).
    """

    unit: Unit
    group_column: str | None = Field(default=None, min_length=1, max_length=128)
    records_per_unit: int = Field(default=1, ge=1, le=MOST_RECORDS_PER_UNIT)
    inverse_delta: int = Field(ge=1_000, le=10**12)
    clip_micro: int = Field(ge=1, le=10**9)
    spare_rounds: int = Field(ge=0, le=100)


class Aggregation(Frozen):
    """FedAvg, or FedAdam on the server (arXiv 2003.00295). Weights are the sites' public `weight`s."""

    rule: Literal["fedavg", "fedadam"]
    server_rate_micro: int = Field(default=1_000_000, ge=1, le=10**9)
    beta1_micro: int = Field(default=900_000, ge=0, lt=10**6)
    beta2_micro: int = Field(default=990_000, ge=0, lt=10**6)
    tau_micro: int = Field(default=1_000, ge=1, le=10**6)
    average_last_rounds: int = Field(
        default=1, ge=1, le=1000, description="the released model is the mean of the globals after the last k rounds"
    )


class SiteTerms(Frozen):
    """One site. Sampling is Poisson with q = batch / records_public; `batch` is the public denominator of the mean.

    Both count units of the study: records, or patients. `records_public` is at most the rounded count that the site
    declares. `noise_multiplier_micro` is sigma in millionths. `sole_record`: the extract has one row of a person.
    """

    name: str = Field(pattern=NAME)
    jurisdiction: str = Field(pattern=CODE)
    access: Access = ()
    covered_person: bool = False
    sole_record: bool = False
    records_public: int = Field(ge=1, le=10**9)
    batch: int = Field(ge=1, le=10**7)
    weight: int = Field(ge=1, le=10**9)
    epsilon_milli: int = Field(ge=1, le=MOST_EPSILON_MILLI)
    noise_multiplier_micro: int = Field(ge=LEAST_NOISE_MICRO, le=MOST_NOISE_MICRO)


class EvaluationTerms(Frozen):
    """One noised evaluation of the final model on the sites' own records, after the last round.

    Each unit adds one to one cell; every cell of a site gets Gaussian noise of standard deviation
    `noise_multiplier_micro` * 1e-6. Two classes: the cells are class x `bins` equal bins of the second class's
    probability, an even number, so that 1/2 is an edge. More classes: true x predicted class, and `bins` is null.
    """

    noise_multiplier_micro: int = Field(ge=LEAST_NOISE_MICRO, le=MOST_NOISE_MICRO)
    bins: int | None = Field(default=None, ge=2, le=100)


class Quorum(Frozen):
    """`sites`: fewer contributing sites than this in a round, and the run fails.

    `witnesses`: at least so many cosign the last checkpoint of every log that a release shows, neither the log's owner
    nor the operator among them; else there is no release.
    """

    sites: int = Field(ge=2, le=1000)
    witnesses: int = Field(default=1, ge=1, le=1000)


class Software(Frozen):
    """What the sites are asked to run: the installed package version and the digest of the code-free bundle."""

    version: str = Field(min_length=1, max_length=40)
    bundle_sha256: str = Field(pattern=SHA256)


class Study(Frozen):
    """One training job, complete. Its name everywhere is the SHA-256 of its canonical form."""

    schema_: Literal["residency.study/1"] = Field(alias="schema")
    name: str = Field(pattern=NAME)
    consortium: str = Field(pattern=NAME)
    purpose: Purpose
    description: str = Field(min_length=1, max_length=2000)
    operator: Operator
    controllers: tuple[str, ...] = Field(
        min_length=1, description="GDPR 4(7): legal entities, which need be no members"
    )
    data_categories: tuple[Category, ...] = Field(default=("health",), min_length=1)
    documents: tuple[StudyDocument, ...]
    issued: str = Field(pattern=DATE, description="when it was signed; `study sign` fills it in")
    starts: str = Field(pattern=DATE)
    ends: str = Field(pattern=DATE)
    dataset: str = Field(pattern=NAME, description="the name under which each site registered its extract")
    task: TaskSpec
    model: ModelSpec
    training: TrainingSpec
    privacy: PrivacyTerms
    aggregation: Aggregation
    evaluation: EvaluationTerms | None = None
    sites: tuple[SiteTerms, ...] = Field(min_length=1, max_length=1000)
    groups: tuple[RegionGroup, ...] = ()
    quorum: Quorum
    round_deadline_s: int = Field(ge=1, le=7 * 24 * 3600)
    software: Software

    @model_validator(mode="after")
    def _coherent(self) -> Study:
        mistakes = study_mistakes(self.as_json())
        if mistakes:
            raise ValueError("; ".join(map(str, mistakes)))
        return self

    def as_json(self) -> dict[str, Json]:
        """JSON form, with `schema` under its public name."""
        return self.model_dump(mode="json", by_alias=True)

    def site(self, name: str) -> SiteTerms | None:
        """The terms of the site, None if the study does not list it."""
        return next((s for s in self.sites if s.name == name), None)

    @property
    def members(self) -> tuple[Operator | SiteTerms, ...]:
        """The operator and every site."""
        return (self.operator, *self.sites)

    @property
    def charged_rounds(self) -> int:
        """Rounds that the noise pays for: planned plus spare."""
        return self.training.rounds + self.privacy.spare_rounds


def open_study(anchor: Anchor, data: bytes, what: str, seen_at: datetime | None = None) -> tuple[Study, str]:
    """The study in a signed file, with its digest: signed by this consortium's operator, judged at `issued`.

    Whoever acts on it now gives `seen_at`: the key must be valid then too (`Anchor.statement`). Raises CheckFailed
    (signature), InputError RSD-2007 (mistakes), Refused RSD-2210 (another consortium) or RSD-2211 (future date).
    """
    study = load_model(Study, parse_canonical(parse_envelope(data, what).payload, what), "RSD-2007", what)
    if (study.consortium, study.operator.name) != (anchor.trust.consortium, anchor.trust.operator.name):
        raise Refused(
            "RSD-2210",
            f"{what} belongs to another consortium or operator",
            rule="a study is the operator's of the consortium in the trust file",
            found=f"{study.consortium}, {study.operator.name}",
            limit=f"{anchor.trust.consortium}, {anchor.trust.operator.name}",
            next="give the trust file of the study's consortium",
        )
    issued = parse_time(study.issued)
    found = anchor.statement(
        data, SCHEMA, what, role="operator", holder=study.operator.name, at=issued, seen_at=seen_at
    )
    return study, found.digest


def study_mistakes(raw: Json) -> list[Mistake]:
    """Rules between fields, all at once, on a raw study; a field of the wrong shape is left to the schema's report."""
    if not isinstance(raw, dict):
        return []
    parts = (
        *(_site_mistakes, place_mistakes, _unit_mistakes, _document_mistakes),
        *(_term_mistakes, _evaluation_mistakes, task_mistakes),
    )
    return [mistake for part in parts for mistake in part(raw)]


def _rows(raw: dict[str, Json], field: str) -> list[tuple[int, dict[str, Json]]]:
    rows = raw.get(field)
    return [(i, r) for i, r in enumerate(rows) if isinstance(r, dict)] if isinstance(rows, list | tuple) else []


def _integer(raw: Json, *path: str) -> int | None:
    for part in path:
        raw = raw.get(part) if isinstance(raw, dict) else None
    return raw if isinstance(raw, int) and not isinstance(raw, bool) else None


def _site_mistakes(raw: dict[str, Json]) -> list[Mistake]:
    out: list[Mistake] = []
    seen: dict[Json, int] = {}
    for i, site in _rows(raw, "sites"):
        name, batch, count = site.get("name"), _integer(site, "batch"), _integer(site, "records_public")
        if isinstance(name, str) and name in seen:
            out.append(Mistake(f"sites[{i}].name", f"{name} is listed twice (first as sites[{seen[name]}])"))
        elif isinstance(name, str):
            seen[name] = i
        if batch and count and batch > count:
            text = f"{batch} is above records_public {count}: q would exceed 1"
            out.append(Mistake(f"sites[{i}].batch", text, limit=f"at most {count}"))
    out += _delta_mistakes(raw)
    quorum = _integer(raw, "quorum", "sites")
    if quorum and seen and quorum > len(seen):
        out.append(Mistake("quorum.sites", f"{quorum} is above the {len(seen)} sites", limit=f"at most {len(seen)}"))
    return out


def _delta_mistakes(raw: dict[str, Json]) -> list[Mistake]:
    """One mistake for the delta of all sites, with the site that asks for the smallest."""
    counts = [(_integer(s, "records_public") or 0, str(s.get("name"))) for _, s in _rows(raw, "sites")]
    inverse_delta, (count, name) = _integer(raw, "privacy", "inverse_delta"), max(counts, default=(0, ""))
    if not inverse_delta or inverse_delta >= 10 * count:
        return []
    message = f"delta is too large: 1/{inverse_delta} is above 1/(10 records_public) = 1/{10 * count} at site {name}"
    return [Mistake("privacy.inverse_delta", message, limit=f"at least {10 * count}")]


def _unit_mistakes(raw: dict[str, Json]) -> list[Mistake]:
    privacy = raw.get("privacy")
    if not isinstance(privacy, dict) or privacy.get("unit") not in ("record", "patient"):
        return []
    named, bound = privacy.get("group_column") is not None, _integer(raw, "privacy", "records_per_unit") or 1
    if privacy["unit"] == "record":
        text = "the unit is the record: leave it out, or leave `unit` out to protect patients"
        return [
            *([Mistake("privacy.group_column", text)] if named else []),
            *([Mistake("privacy.records_per_unit", f"{bound} is above 1, and {text}", limit="1")] if bound > 1 else []),
        ]
    physical = _integer(raw, "training", "physical_batch") or bound
    out = [] if named else [Mistake("privacy.group_column", "the unit is the patient: name the column of the person")]
    if bound > physical:
        text = f"{bound} is above training.physical_batch {physical}: a patient's records are clipped as one"
        out.append(Mistake("privacy.records_per_unit", text, limit=f"at most {physical}"))
    return out


def _document_mistakes(raw: dict[str, Json]) -> list[Mistake]:
    out: list[Mistake] = []
    seen: set[str] = set()
    for i, doc in _rows(raw, "documents"):
        name, expires, ends = doc.get("id"), doc.get("expires"), raw.get("ends")
        if isinstance(name, str) and name in seen:
            out.append(Mistake(f"documents[{i}].id", f"{name} is listed twice"))
        elif isinstance(name, str):
            seen.add(name)
        out += _date_mistakes(doc, "expires", f"documents[{i}].expires")
        until, end = time_or_none(expires), time_or_none(ends)
        if until and end and until < end:
            text = f"{expires} is before the end of the study, {ends}"
            out.append(Mistake(f"documents[{i}].expires", text, limit=f"{ends} or later"))
    return out


def _term_mistakes(raw: dict[str, Json]) -> list[Mistake]:
    out = [*_date_mistakes(raw, "starts", "starts"), *_date_mistakes(raw, "ends", "ends")]
    starts, ends = time_or_none(raw.get("starts")), time_or_none(raw.get("ends"))
    if starts and ends and ends <= starts:
        text = f"{raw['ends']} is not after starts, {raw['starts']}"
        out.append(Mistake("ends", text, limit=f"after {raw['starts']}"))
    rounds, last = _integer(raw, "training", "rounds"), _integer(raw, "aggregation", "average_last_rounds")
    steps, spare = _integer(raw, "training", "steps"), _integer(raw, "privacy", "spare_rounds")
    if rounds and steps and spare is not None and steps * (rounds + spare) > MOST_STEPS:
        found = steps * (rounds + spare)
        text = f"{found} steps in all rounds and spare rounds, above {MOST_STEPS}"
        out.append(Mistake("training.steps", text, found=f"{found} in all", limit=f"at most {MOST_STEPS} in all"))
    if rounds and last and last > rounds:
        text = f"{last} is above training.rounds {rounds}"
        out.append(Mistake("aggregation.average_last_rounds", text, limit=f"at most {rounds}"))
    return out


def _evaluation_mistakes(raw: dict[str, Json]) -> list[Mistake]:
    """The cells of an evaluation count classes: a task without one class a record has none."""
    terms, task = raw.get("evaluation"), raw.get("task")
    if not isinstance(terms, dict) or not isinstance(task, dict):
        return []
    labels, bins = task.get("labels"), terms.get("bins")
    if not isinstance(labels, list | tuple) or task.get("kind") == "token_classification":
        return [Mistake("evaluation", f"the task {task.get('kind')} has no class a record: leave evaluation out")]
    if len(labels) == 2 and (not isinstance(bins, int) or bins % 2):
        return [Mistake("evaluation.bins", "two classes need an even number of bins")]
    if len(labels) != 2 and bins is not None:
        return [Mistake("evaluation.bins", f"{len(labels)} classes have no bins: leave bins out")]
    return []


def _date_mistakes(row: dict[str, Json], key: str, field: str) -> list[Mistake]:
    """A date of the right form that no calendar has, such as 2026-13-01; other forms are the schema's to report."""
    value = row.get(key)
    if isinstance(value, str) and re.fullmatch(DATE, value) and time_or_none(value) is None:
        return [Mistake(field, f"{value} is no day of the calendar")]
    return []


def covers(study: Study, at: str) -> bool:
    """Whether `at` (RFC 3339) lies in the study's term."""
    return parse_time(study.starts) <= parse_time(at) <= parse_time(study.ends)

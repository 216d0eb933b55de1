"""The study: the signed, frozen configuration of one training job. Integers only; no message can change it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from compliance.canonical import Json
from compliance.clock import parse_time
from compliance.training_spec import Frozen, ModelSpec, TaskSpec, TrainingSpec
from compliance.trust.root import NAME
from compliance.validation import Mistake

SCHEMA = "residency.study/1"
SHA256 = r"^[0-9a-f]{64}$"
DATE = r"^\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}:\d{2}Z)?$"


class Organisation(Frozen):
    """A legal entity with the country that it and its machines are in."""

    name: str = Field(pattern=NAME)
    jurisdiction: str = Field(pattern=r"^[A-Z]{2}$")


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
    """Common to all sites: adjacency is add/remove one unit. delta = 1 / inverse_delta, clip in millionths.

    `spare_rounds`: rounds' worth of charged attempts beyond `rounds` that the noise already pays for, so that a crash
    before a commit can be repeated once with fresh randomness (invariant 3).
    """

    unit: Literal["record"]
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

    `records_public` is the rounded count that the site declares. `noise_multiplier_micro` is sigma in millionths.
    """

    name: str = Field(pattern=NAME)
    jurisdiction: str = Field(pattern=r"^[A-Z]{2}$")
    records_public: int = Field(ge=1, le=10**9)
    batch: int = Field(ge=1, le=10**7)
    weight: int = Field(ge=1, le=10**9)
    epsilon_milli: int = Field(ge=1, le=100_000)
    noise_multiplier_micro: int = Field(ge=1, le=10**12)


class Quorum(Frozen):
    """Fewer contributing sites than this in a round, and the run fails."""

    sites: int = Field(ge=2, le=1000)


class Software(Frozen):
    """What the sites are asked to run: the installed package version and the digest of the code-free bundle."""

    version: str = Field(min_length=1, max_length=40)
    bundle_sha256: str = Field(pattern=SHA256)


class Study(Frozen):
    """One training job, complete. Its name everywhere is the SHA-256 of its canonical form."""

    schema_: Literal["residency.study/1"] = Field(alias="schema")
    name: str = Field(pattern=NAME)
    consortium: str = Field(pattern=NAME)
    purpose: Literal["scientific_research", "public_health", "quality_improvement"]
    description: str = Field(min_length=1, max_length=2000)
    operator: Organisation
    controllers: tuple[str, ...] = Field(min_length=1)
    documents: tuple[StudyDocument, ...]
    starts: str = Field(pattern=DATE)
    ends: str = Field(pattern=DATE)
    task: TaskSpec
    model: ModelSpec
    training: TrainingSpec
    privacy: PrivacyTerms
    aggregation: Aggregation
    sites: tuple[SiteTerms, ...] = Field(min_length=1, max_length=1000)
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
    def charged_rounds(self) -> int:
        """Rounds that the noise pays for: planned plus spare."""
        return self.training.rounds + self.privacy.spare_rounds


def study_mistakes(raw: Json) -> list[Mistake]:
    """Rules between fields, all at once, on a raw study; a field of the wrong shape is left to the schema's report."""
    if not isinstance(raw, dict):
        return []
    return [*_site_mistakes(raw), *_document_mistakes(raw), *_term_mistakes(raw)]


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
    inverse_delta = _integer(raw, "privacy", "inverse_delta")
    for i, site in _rows(raw, "sites"):
        name, batch, count = site.get("name"), _integer(site, "batch"), _integer(site, "records_public")
        if isinstance(name, str) and name in seen:
            out.append(Mistake(f"sites[{i}].name", f"{name} is listed twice (first as sites[{seen[name]}])"))
        elif isinstance(name, str):
            seen[name] = i
        if batch and count and batch > count:
            out.append(Mistake(f"sites[{i}].batch", f"{batch} is above records_public {count}: q would exceed 1"))
        if inverse_delta and count and inverse_delta < 10 * count:
            message = f"delta is too large: 1/{inverse_delta} is above 1/(10 records_public) = 1/{10 * count}"
            out.append(Mistake("privacy.inverse_delta", f"{message} at site {name}"))
    quorum = _integer(raw, "quorum", "sites")
    if quorum and seen and quorum > len(seen):
        out.append(Mistake("quorum.sites", f"{quorum} is above the {len(seen)} sites"))
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
        if isinstance(expires, str) and isinstance(ends, str) and expires[:10] < ends[:10]:
            out.append(Mistake(f"documents[{i}].expires", f"{expires} is before the end of the study, {ends}"))
    return out


def _term_mistakes(raw: dict[str, Json]) -> list[Mistake]:
    out: list[Mistake] = []
    starts, ends = raw.get("starts"), raw.get("ends")
    if isinstance(starts, str) and isinstance(ends, str) and ends <= starts:
        out.append(Mistake("ends", f"{ends} is not after starts, {starts}"))
    rounds, last = _integer(raw, "training", "rounds"), _integer(raw, "aggregation", "average_last_rounds")
    if rounds and last and last > rounds:
        out.append(Mistake("aggregation.average_last_rounds", f"{last} is above training.rounds {rounds}"))
    return out


def covers(study: Study, at: str) -> bool:
    """Whether `at` (RFC 3339) lies in the study's term."""
    return parse_time(study.starts) <= parse_time(at) <= parse_time(study.ends)

"""A bundle in memory, read lazily: whoever first needs a part finds out whether it is well formed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from typing import Literal, TypeVar

from pydantic import BaseModel, Field

from compliance.canonical import b64decode, canonical, parse_canonical, parse_json
from compliance.clock import parse_time
from compliance.errors import CheckFailed, InputError, ResidencyError
from compliance.evaluation.record import FILE, EvaluationRecord
from compliance.evaluation.record import SCHEMA as EVALUATION_SCHEMA
from compliance.identity import Envelope, media_type, parse_envelope
from compliance.law.law_set import ADOPTION, Adoption
from compliance.law.pack import Pack, load_pack
from compliance.law.regions import Regions, load_regions
from compliance.log.entry import Entry, decode
from compliance.log.evidence import LogEvidence
from compliance.privacy.events import Unit
from compliance.release import bodies
from compliance.release import manifest as manifests
from compliance.release.model_files import LayoutFile
from compliance.roster import SCHEMA as ROSTER_SCHEMA
from compliance.roster import Roster
from compliance.study import SCHEMA as STUDY_SCHEMA
from compliance.study import Study
from compliance.training_spec import Frozen
from compliance.trust.root import Anchor
from compliance.validation import load_model

M = TypeVar("M", bound=BaseModel)


class SiteEpsilon(Frozen):
    """What one site's charges add up to. `charges` counts attempts, failed ones too."""

    site: str
    epsilon_milli: int = Field(ge=0)
    limit_milli: int = Field(ge=1)
    charges: int = Field(ge=0)


class OverlapEpsilon(Frozen):
    """For one unit that is present at `sites` of the sites, whichever they are; None: no finite eps at this delta."""

    sites: int = Field(ge=2)
    epsilon_milli: int | None = Field(ge=0)

    @property
    def text(self) -> str:
        """The bound with three decimals, for people."""
        return "no finite bound" if self.epsilon_milli is None else f"{self.epsilon_milli / 1000:.3f}"


class PrivacyClaims(Frozen):
    """privacy.json: the claimed upper bound per site, for units that several sites hold, and what computed it."""

    schema_: Literal["residency.privacy/1"] = Field(alias="schema")
    unit: Unit
    adjacency: Literal["add_remove"]
    inverse_delta: int = Field(ge=1)
    accountant: str = Field(pattern=r"^[a-zA-Z0-9 ._()+-]{1,100}$")
    sites: tuple[SiteEpsilon, ...]
    overlap: tuple[OverlapEpsilon, ...]


@dataclass(frozen=True)
class SignedRoster:
    """A roster with the envelope that it came in."""

    path: str
    roster: Roster
    envelope: Envelope


@dataclass(frozen=True)
class Logged:
    """The opened entries of one member's log, in order. Not yet compared with any checkpoint."""

    member: str
    evidence: LogEvidence
    entries: dict[int, Entry]

    def of(self, study: str, *kinds: str) -> list[Entry]:
        """Entries of the study in these kinds."""
        return [e for _, e in sorted(self.entries.items()) if e.study == study and e.kind in kinds]

    def where(self, entry: Entry | int) -> str:
        """How messages name an entry."""
        return f"entry {entry if isinstance(entry, int) else entry.index} of log {self.evidence.origin}"


@dataclass(frozen=True)
class Contents:
    """Path -> bytes of a bundle or run folder, and typed views. Raises InputError naming the file; judges nothing."""

    files: Mapping[str, bytes]

    def file(self, path: str) -> bytes:
        """The bytes of a file that must be there. Raises InputError RSD-9040."""
        if path not in self.files:
            raise InputError("RSD-9040", f"{path} is missing", found="no file", limit=path)
        return self.files[path]

    def envelope(self, path: str) -> Envelope:
        """The signed statement at `path`, unverified."""
        return parse_envelope(self.file(path), path)

    def under(self, folder: str) -> dict[str, bytes]:
        """Files of a folder by name, sorted."""
        return {p.removeprefix(f"{folder}/"): self.files[p] for p in sorted(self.files) if p.startswith(f"{folder}/")}

    @cached_property
    def manifest(self) -> manifests.Manifest:
        """The list of files, unverified."""
        return self._statement(manifests.PATH, manifests.SCHEMA, manifests.Manifest)[0]

    @cached_property
    def _study(self) -> tuple[Study, Envelope]:
        return self._statement("study.json", STUDY_SCHEMA, Study)

    @property
    def study(self) -> Study:
        """The study, unverified."""
        return self._study[0]

    @property
    def study_digest(self) -> str:
        """SHA-256 of its canonical form."""
        return self._study[1].digest

    @cached_property
    def layout(self) -> LayoutFile:
        """Names and shapes of the trained parameters."""
        return load_model(LayoutFile, parse_json(self.file("layout.json"), "layout.json"), "RSD-9041", "layout.json")

    @cached_property
    def claims(self) -> PrivacyClaims:
        """The claimed eps per site."""
        raw = parse_canonical(self.file("privacy.json").removesuffix(b"\n"), "privacy.json")
        return load_model(PrivacyClaims, raw, "RSD-9041", "privacy.json")

    @cached_property
    def regions(self) -> Regions:
        """The region sets of the run's day."""
        with _part("RSD-9006"):
            return _regions(self.file("regions.yaml"))

    @cached_property
    def adoptions(self) -> dict[str, Adoption]:
        """The law set under which each site takes part, by site, unverified."""
        found = {}
        with _part("RSD-9006"):
            for name in self.under("law"):
                if name.endswith(".adoption.json"):
                    path = f"law/{name}"
                    found[name.split(".")[0]] = self._statement(path, ADOPTION, Adoption)[0]
        return found

    @cached_property
    def packs(self) -> dict[str, Pack]:
        """Law packs by digest. A file is called by its pack's id."""
        packs = {}
        with _part("RSD-9006"):
            for name, data in self.under("packs").items():
                pack = _pack(data, self.regions.raw)
                if name.split(".")[0] != pack.id:
                    raise InputError("RSD-9041", f"packs/{name} holds another pack", found=pack.id, limit=name)
                packs[pack.digest] = pack
        return packs

    @cached_property
    def rosters(self) -> tuple[SignedRoster, ...]:
        """Rosters by the numbers in their file names."""
        out = []
        with _part("RSD-9008"):
            for name in self.under("rosters"):
                path = f"rosters/{name}"
                roster, envelope = self._statement(path, ROSTER_SCHEMA, Roster)
                if name != f"round-{roster.round:03d}.json":
                    raise InputError("RSD-9041", f"{path} is of another round", found=roster.round, limit=name)
                out.append(SignedRoster(path, roster, envelope))
        return tuple(sorted(out, key=lambda r: r.roster.round))

    @cached_property
    def evaluation(self) -> tuple[EvaluationRecord, Envelope] | None:
        """The record of the evaluation, unverified; None if the bundle has none."""
        if FILE not in self.files:
            return None
        with _part("RSD-9015"):
            return self._statement(FILE, EVALUATION_SCHEMA, EvaluationRecord)

    @cached_property
    def contributing(self) -> tuple[str, ...]:
        """Sites with a contribution in any round, in the order of the study."""
        names = {row.site for r in self.rosters for row in r.roster.rows if row.outcome == "contributed"}
        return tuple(s.name for s in self.study.sites if s.name in names)

    @cached_property
    def logs(self) -> dict[str, Logged]:
        """Logs by member, decoded only; `verify_logs` compares them with their checkpoints."""
        out = {}
        with _part("RSD-9007"):
            for name, data in self.under("evidence").items():
                what = f"evidence/{name}"
                evidence = load_model(LogEvidence, parse_json(data, what), "RSD-9041", what)
                entries = {e.index: decode(b64decode(e.entry, f"entry {e.index} in {what}")) for e in evidence.entries}
                member = name.removesuffix(".json")
                out[member] = Logged(member, evidence, entries)
        return out

    def log(self, member: str) -> Logged:
        """The log of a member that must be shown. Raises InputError RSD-9040."""
        with _part("RSD-9007"):
            self.file(f"evidence/{member}.json")
        return self.logs[member]

    def decisions(self, member: str) -> list[tuple[Entry, bodies.LoggedDecision]]:
        """The study's logged decisions of one member; read once."""
        log = self.log(member)
        if member not in self._decisions:
            entries = log.of(self.study_digest, "decision")
            with _part("RSD-9010"):
                self._decisions[member] = [(e, bodies.read_decision(e, log.where(e))) for e in entries]
        return self._decisions[member]

    @cached_property
    def _decisions(self) -> dict[str, list[tuple[Entry, bodies.LoggedDecision]]]:
        return {}

    def bodies(self, member: str, kind: str, model: type[bodies.B]) -> list[tuple[Entry, bodies.B]]:
        """The study's entries of one kind in one log, typed."""
        log = self.log(member)
        return [(e, bodies.read_body(model, e, log.where(e))) for e in log.of(self.study_digest, kind)]

    def joined_at(self, site: str) -> int:
        """Index of the entry by which the site joined this run, the last one; -1 if its log shows none."""
        joins = self.bodies(site, "join", bodies.JoinBody)
        return max((e.index for e, body in joins if body.run == self.manifest.run), default=-1)

    @cached_property
    def last_logged(self) -> str:
        """Time of the last entry shown in any log."""
        times = [e.at for log in self.logs.values() for e in log.entries.values()]
        if not times:
            raise InputError("RSD-9040", "no log shows any entry", found="no entry", limit="evidence/*.json")
        return max(times, key=parse_time)

    def _statement(self, path: str, schema: str, model: type[M]) -> tuple[M, Envelope]:
        data = self.file(path)
        envelope = parse_envelope(data, path)
        if envelope.payload_type != media_type(schema):
            raise InputError(
                "RSD-9041",
                f"{path} is another kind of statement",
                found=envelope.payload_type,
                limit=media_type(schema),
            )
        return load_model(model, parse_canonical(envelope.payload, path), "RSD-9041", path), envelope


@lru_cache(maxsize=256)
def _pack(data: bytes, regions: bytes) -> Pack:
    """Reading a pack is most of a verification's time, and the same bytes are the same pack."""
    return load_pack(data, _regions(regions))


@lru_cache(maxsize=8)
def _regions(data: bytes) -> Regions:
    return load_regions(data)


@contextmanager
def _part(code: str) -> Iterator[None]:
    """What is wrong with a part makes the step false that judges the part, whichever step reads it first."""
    try:
        yield
    except ResidencyError as e:
        origin = "" if e.code == code else f" ({e.code})"
        message = f"{e.message}{origin}"
        raise CheckFailed(code, message, rule=e.rule, found=e.found, limit=e.limit, next=e.next) from e


@dataclass(frozen=True)
class Context:
    """What statements are judged by: the trust file from outside and the time of judging."""

    anchor: Anchor
    at: datetime


def evidence_bytes(evidence: LogEvidence) -> bytes:
    """The one form of an evidence file: canonical JSON and a newline."""
    return canonical(evidence.model_dump(mode="json")) + b"\n"

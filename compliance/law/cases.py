"""Reference cases: transfers whose outcome a person wrote down from the law, each with the citation it rests on.

They are the third opinion beside the two evaluators: what loader, region sets and evaluators share, the cases do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from compliance.canonical import sha256_hex
from compliance.clock import parse_time
from compliance.files import read_bytes
from compliance.law.decide import Engine
from compliance.law.fields import Citation
from compliance.law.model import CODE, NAME, Count, Decision, Document, Guarantees, Party, Transfer
from compliance.law.pack import Pack
from compliance.law.regions import Regions
from compliance.law.strict_yaml import MOST_BYTES, load_strict
from compliance.law.vocabulary import (
    NAMES_ITS_DESTINATION,
    NAMES_ITS_RECIPIENT,
    Artifact,
    Category,
    CounterName,
    DocumentKind,
    Effect,
    Purpose,
)
from compliance.training_spec import Frozen
from compliance.validation import Mistake

FOLDER = Path(__file__).with_name("cases")
STUDY = "c5" * 32  # the study that the cases' transfers belong to
_ANY_TIME = "2026-11-22"
_PER_RECIPIENT = "us_12_months"  # the other counter is of all recipients together

Kind = Literal["allow", "region", "document", "guarantee", "threshold", "other"]


class CasePaper(Frozen):
    """A paper on file; a bare kind in a case means one with these defaults.

    Empty `covers`: the recipient for kinds that must name it, else everybody. Empty `to`: likewise its jurisdiction.
    """

    kind: DocumentKind
    covers: str = ""
    expires: str = "2030-01-01"
    from_jurisdiction: str = Field(default="*", alias="from")
    to_jurisdiction: str = Field(default="", alias="to")


class CaseCount(Frozen):
    """A counter's bucket edge. Empty `categories`: the window holds those of the transfer."""

    at_most: int = Field(ge=0)
    categories: tuple[Category, ...] = ()


class CaseTransfer(Frozen):
    """A transfer in few words. `counts` (a bare number is the edge) hold for the recipient and each onward party."""

    artifact: Artifact
    from_: str = Field(pattern=CODE, alias="from")
    to: str = Field(pattern=CODE)
    exporter: str = Field(default="clinic", pattern=NAME)
    recipient: str = Field(default="coordinator", pattern=NAME)
    access: tuple[str, ...] = ()
    covered_person: bool = False
    onward: tuple[Party, ...] = ()
    purpose: Purpose = "scientific_research"
    controllers: tuple[str, ...] = ()
    documents: tuple[DocumentKind | CasePaper, ...] = ()
    guarantees: Guarantees = Guarantees()
    categories: tuple[Category, ...] = ("health",)
    counts: dict[CounterName, int | CaseCount] = Field(default_factory=dict)
    group: str = ""
    group_members: tuple[str, ...] = ()

    def transfer(self, at: str) -> Transfer:
        """The transfer itself."""
        recipient = Party(
            name=self.recipient, jurisdiction=self.to, access=self.access, covered_person=self.covered_person
        )
        return Transfer(
            artifact=self.artifact,
            exporter=Party(name=self.exporter, jurisdiction=self.from_),
            recipient=recipient,
            onward=self.onward,
            purpose=self.purpose,
            study=STUDY,
            controllers=self.controllers,
            documents=tuple(self._document(d) for d in self.documents),
            guarantees=self.guarantees,
            categories=self.categories,
            counts=self._counts(),
            group=self.group,
            group_members=self.group_members,
            at=at,
        )

    def _document(self, given: DocumentKind | CasePaper) -> Document:
        paper = CasePaper(kind=given) if isinstance(given, str) else given
        named = self.recipient if paper.kind in NAMES_ITS_RECIPIENT else "*"
        placed = self.to if paper.kind in NAMES_ITS_DESTINATION else "*"
        return Document(
            kind=paper.kind,
            sha256=sha256_hex(paper.kind.encode()),
            expires=paper.expires,
            from_jurisdiction=paper.from_jurisdiction,
            to_jurisdiction=paper.to_jurisdiction or placed,
            covers=paper.covers or named,
        )

    def _counts(self) -> tuple[Count, ...]:
        names = dict.fromkeys((self.recipient, *(p.name for p in self.onward)))
        return tuple(
            Count(
                counter=counter, recipient=name, at_most=count.at_most, categories=count.categories or self.categories
            )
            for counter, given in self.counts.items()
            for count in [CaseCount(at_most=given) if isinstance(given, int) else given]
            for name in (names if counter == _PER_RECIPIENT else ("*",))
        )


class Expect(Frozen):
    """The outcome: the rule that decides (for an allow: one of the rules that carry a leg), words of what lacks."""

    effect: Effect
    rule: str = Field(min_length=3)
    missing: tuple[str, ...] = ()


class Case(Frozen):
    """One case. Only `packs` (adopted; empty: the file's own) and `offered` and `not_binding` are known to the site.

    Empty `at`: noon of the day on which the adopted packs were verified, the last of them.
    """

    id: str = Field(pattern=r"^[a-z0-9-]{2,20}(\.[a-z0-9-]{1,60}){1,3}$")
    kind: Kind
    cites: tuple[Citation, ...] = Field(min_length=1)
    says: str = Field(min_length=10, max_length=400)
    packs: tuple[str, ...] = ()
    offered: tuple[str, ...] = ()
    not_binding: tuple[str, ...] = ()
    at: str = ""
    transfer: CaseTransfer
    expect: Expect

    @model_validator(mode="after")
    def _decidable(self) -> Case:
        if self.at:
            parse_time(self.at, "the time of a case")
        self.transfer.transfer(self.at or _ANY_TIME)
        if self.kind == "allow" and self.expect.effect != "allow":
            raise ValueError("a case of kind allow expects an allow")
        return self


class CaseFile(Frozen):
    """The cases of one pack."""

    schema_: Literal["residency.law-cases/1"] = Field(alias="schema")
    pack: str
    cases: tuple[Case, ...] = Field(min_length=1)


@dataclass(frozen=True)
class CaseResult:
    """What came of a case; `wrong` is empty if it came as expected."""

    pack: str
    case: Case
    decision: Decision | None
    wrong: str

    @property
    def passed(self) -> bool:
        """True if the decision is the expected one."""
        return not self.wrong

    @property
    def outcome(self) -> str:
        """What was decided and by which rule, or why nothing could be."""
        return f"{self.decision.effect} by {self.decision.rule}" if self.decision else self.wrong


def load_cases(source: Path) -> CaseFile:
    """One file of cases. Raises InputError RSD-2005, RSD-3001 (YAML) or RSD-3002 (every mistake, with its line)."""
    raw = read_bytes(source, "reference cases", MOST_BYTES)
    return load_strict(CaseFile, raw, f"reference cases {source.name}", lambda file: _mistakes(file, source.stem))


def _mistakes(file: CaseFile, name: str) -> Iterator[Mistake]:
    if file.pack != name:
        yield Mistake("pack", f"these are the cases of another pack than {name}, by which the file is called")
    seen: set[str] = set()
    for i, case in enumerate(file.cases):
        if not case.id.startswith(f"{file.pack}."):
            yield Mistake(f"cases[{i}].id", f"ids of cases begin with {file.pack}.")
        if case.id in seen:
            yield Mistake(f"cases[{i}].id", f"{case.id} stands twice")
        seen.add(case.id)


def load_folder(folder: Path = FOLDER) -> tuple[CaseFile, ...]:
    """Every `*.yaml` of the folder, by name. Raises as `load_cases`."""
    return tuple(load_cases(path) for path in sorted(folder.glob("*.yaml")))


def run_cases(
    files: Iterable[CaseFile], packs: Mapping[str, Pack], regions: Regions | None = None
) -> tuple[CaseResult, ...]:
    """Decide every case with both evaluators. A case that names a pack which is not in `packs` fails."""
    engines: dict[tuple[str, ...], Engine] = {}

    def engine(adopted: tuple[str, ...], others: tuple[str, ...], not_binding: tuple[str, ...]) -> Engine:
        key = (*adopted, "/", *others, "/", *not_binding)
        if key not in engines:
            offered = {name: packs[name] for name in dict.fromkeys((*adopted, *others, *not_binding))}
            digests = {name: packs[name].digest for name in adopted}
            engines[key] = Engine(offered, digests, not_binding=not_binding, regions=regions)
        return engines[key]

    out = []
    for file in files:
        for case in file.cases:
            adopted = case.packs or (file.pack,)
            absent = [name for name in (*adopted, *case.offered, *case.not_binding) if name not in packs]
            if absent:
                out.append(CaseResult(file.pack, case, None, f"there is no pack {', '.join(absent)}"))
                continue
            at = case.at or noon(packs[name] for name in adopted)
            decision = engine(adopted, case.offered, case.not_binding).decide(case.transfer.transfer(at))
            out.append(CaseResult(file.pack, case, decision, difference(case.expect, decision)))
    return tuple(out)


def noon(packs: Iterable[Pack]) -> str:
    """Noon of the day on which the last of these packs was verified."""
    return f"{max(pack.verified_on for pack in packs)}T12:00:00Z"


def difference(expect: Expect, decision: Decision) -> str:
    """What in the decision is not as expected; empty if nothing."""
    carried = {rule for leg in decision.legs for rule in leg.rules} if decision.allow else set()
    if decision.effect != expect.effect or expect.rule not in {decision.rule, *carried}:
        return f"{decision.effect} by {decision.rule}, expected {expect.effect} by {expect.rule}"
    lines = " ".join(decision.missing)
    absent = [word for word in expect.missing if word not in lines]
    if absent:
        return f"{', '.join(absent)} is not named as missing: {lines or 'nothing is'}"
    return ""

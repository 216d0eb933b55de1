"""Who may send what to whom under a set of packs, and what must be on file first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from compliance.canonical import Json, sha256_hex
from compliance.law.decide import Engine
from compliance.law.facts import facts_of
from compliance.law.model import Count, Decision, Document, Guarantees, Party, Transfer
from compliance.law.pack import Pack
from compliance.law.python_eval import evaluate
from compliance.law.regions import Regions
from compliance.law.rule import Rule
from compliance.law.vocabulary import (
    DOCUMENT_KINDS,
    NAMES_ITS_DESTINATION,
    NAMES_ITS_RECIPIENT,
    TRANSFER_BASES,
    Artifact,
    Category,
    CounterName,
    Purpose,
)

_MOST = 2**53 - 1
_LEAST_BUCKET = 100
_NEVER_EXPIRES = "9999-12-31"
_RECIPIENT = "recipient"


@dataclass(frozen=True)
class Question:
    """What the matrix asks: this artifact, for this purpose, of data of these categories, at this time."""

    artifact: Artifact
    purpose: Purpose
    categories: tuple[Category, ...]
    at: str


State = Literal["home", "papers", "basis", "never"]
STATES: tuple[State, ...] = get_args(State)
NOTHING = "nothing is asked"
COUNTED = "#"  # stands behind the mark of a cell that is denied once too many persons are counted


@dataclass(frozen=True)
class Cell:
    """One exporter and one destination. `state`: what is asked of it, by `papers` and `limits`, the least first.

    home: nothing more than within the exporter's own country; papers: more papers or limits; basis: papers that only a
    transfer abroad needs; never: it is denied whatever is on file.
    `counted`: true if it is denied as soon as nobody counts the persons, or they are too many. `rules` carry the
    answer, `plain` is the sentence of the first of them.
    """

    exporter: str
    to: str
    state: State
    papers: tuple[str, ...]
    limits: tuple[str, ...]
    counted: bool
    rules: tuple[str, ...]
    plain: str
    draft: bool

    @property
    def asks(self) -> str:
        """In words what must be there, or which rule denies."""
        if self.state == "never":
            return f"never, by {', '.join(self.rules)}"
        below = ("persons counted, below the thresholds",) if self.counted else ()
        return "; ".join((*_on_file(self.papers), *self.limits, *below)) or NOTHING

    def as_json(self) -> dict[str, Json]:
        """For `--json`."""
        return {
            "from": self.exporter,
            "to": self.to,
            "state": self.state,
            "papers": list(self.papers),
            "limits": list(self.limits),
            "counted": self.counted,
            "rules": list(self.rules),
            "plain": self.plain,
            "draft": self.draft,
        }


class Matrix:
    """Cells of `exporters` x `destinations` under all of `packs`, or under the engine of one site's law set."""

    def __init__(
        self, question: Question, packs: Mapping[str, Pack], regions: Regions, engine: Engine | None = None
    ) -> None:
        self.question = question
        self.packs, self._regions = packs, regions
        self._engine = engine or Engine(packs, {i: p.digest for i, p in packs.items()}, regions=regions)
        self._rules: dict[str, Rule] = {rule.id: rule for pack in packs.values() for rule in pack.rules}

    def cells(self, exporters: Iterable[str], destinations: Sequence[str]) -> tuple[tuple[Cell, ...], ...]:
        """One row for each exporter's jurisdiction."""
        return tuple(tuple(self.cell(exporter, to) for to in destinations) for exporter in exporters)

    def cell(self, exporter: str, to: str) -> Cell:
        """The fewest papers with which it passes; what the other papers of an alternative are is not shown."""
        found = self._asked(exporter, to)
        if found.state == "never" or exporter == to:
            return found
        home = self._asked(exporter, exporter)
        more = set(found.papers) - set(home.papers)
        limits = set(found.limits) - set(home.limits) or (found.counted and not home.counted)
        if more & TRANSFER_BASES:
            return replace(found, state="basis")
        return replace(found, state="papers") if more or limits or home.state == "never" else found

    def _asked(self, exporter: str, to: str) -> Cell:
        """As if nothing were asked at home either."""
        best = self._best(exporter, to)
        decision = self._engine.decide(best)
        if not decision.allow:
            return self._made(best, decision, "never", (), counted=False)
        used = [self.packs[name] for name in decision.packs]
        papers = self._needed(best, used)
        least = best.model_copy(update={"documents": _papers(papers, to)})
        decision = self._engine.decide(least)
        counted = not _allowed(used, least.model_copy(update={"counts": ()}), self._regions)
        return self._made(least, decision, "home", papers, counted=counted)

    def _made(
        self, transfer: Transfer, decision: Decision, state: State, papers: tuple[str, ...], *, counted: bool
    ) -> Cell:
        rules = decision.legs[0].rules if decision.legs and decision.allow else (decision.rule,)
        limits = () if state == "never" else self._limits(rules)
        return Cell(
            transfer.exporter.jurisdiction,
            transfer.recipient.jurisdiction,
            state,
            papers,
            limits,
            counted,
            tuple(rules),
            decision.plain,
            decision.draft,
        )

    def _limits(self, rules: Iterable[str]) -> tuple[str, ...]:
        found = [self._rules[i] for i in rules if i in self._rules]
        lines = [line for r in found for part in (r.requires.guarantees, r.house) for line in part.limit_lines()]
        return tuple(dict.fromkeys(lines))

    def _needed(self, best: Transfer, used: list[Pack]) -> tuple[str, ...]:
        """Papers without which it would not pass: each is taken away, the later ones of the vocabulary first."""
        kinds, to = list(DOCUMENT_KINDS), best.recipient.jurisdiction
        for kind in reversed(DOCUMENT_KINDS):
            fewer = [k for k in kinds if k != kind]
            if _allowed(used, best.model_copy(update={"documents": _papers(fewer, to)}), self._regions):
                kinds = fewer
        return tuple(kinds)

    def _best(self, exporter: str, to: str) -> Transfer:
        """With every paper on file, every guarantee given, and nobody counted yet."""
        asked = self.question
        return Transfer(
            artifact=asked.artifact,
            exporter=Party(name="exporter", jurisdiction=exporter),
            recipient=Party(name=_RECIPIENT, jurisdiction=to),
            purpose=asked.purpose,
            study="0" * 64,
            documents=_papers(DOCUMENT_KINDS, to),
            guarantees=Guarantees(
                unit="patient",
                epsilon_milli=1,
                inverse_delta=_MOST,
                min_sites=100_000,
                min_patients=_MOST,
                secure_aggregation=True,
                secure_aggregation_threshold=100_000,
                group_sum=True,
                keys_in=(exporter,),
            ),
            categories=asked.categories,
            counts=tuple(
                Count(counter=c, recipient="*", at_most=_LEAST_BUCKET, categories=asked.categories)
                for c in get_args(CounterName)
            ),
            at=asked.at,
        )


def _allowed(packs: list[Pack], transfer: Transfer, regions: Regions) -> bool:
    """By the faster evaluator alone: what is shown was decided by both."""
    facts = facts_of(transfer, transfer.recipient, regions)
    return all(evaluate(pack, facts).allow for pack in packs)


def _papers(kinds: Iterable[str], to: str) -> tuple[Document, ...]:
    """One of each kind, for this recipient in this country."""
    return tuple(
        Document(
            kind=kind,
            sha256=sha256_hex(kind.encode()),
            expires=_NEVER_EXPIRES,
            to_jurisdiction=to,
            covers=_RECIPIENT,
        )
        for kind in kinds
    )


def _on_file(papers: tuple[str, ...]) -> Iterator[str]:
    """The papers in words: those that hold for anybody, those that name the recipient, those that name the country."""
    rest = NAMES_ITS_RECIPIENT | NAMES_ITS_DESTINATION
    for says, kinds in (
        ("on file", [p for p in papers if p not in rest]),
        ("naming the recipient", [p for p in papers if p in NAMES_ITS_RECIPIENT]),
        ("naming the destination", [p for p in papers if p in NAMES_ITS_DESTINATION]),
    ):
        if kinds:
            yield f"{says}: {', '.join(kinds)}"


def default_jurisdictions(packs: Mapping[str, Pack]) -> tuple[str, ...]:
    """One for each group of packs that bind the same: Germany for the EEA, else the first that a pack names."""
    seen: dict[tuple[str, ...], str] = {}
    for pack in sorted(packs.values(), key=lambda p: (p.kind == "facts", p.id)):
        code = "DE" if "DE" in pack.jurisdictions else pack.jurisdictions[0]
        seen.setdefault(pack.jurisdictions, code)
    return tuple(dict.fromkeys(seen.values()))


@dataclass(frozen=True)
class Legend:
    """Cells that ask the same share a mark: a letter of LETTERS and a number, COUNTED if persons are; `.` nothing."""

    marks: dict[tuple[State, str], str]

    def of(self, cell: Cell) -> str:
        """The mark of the cell."""
        return self.marks[cell.state, cell.asks]

    def lines(self) -> list[str]:
        """Mark and meaning, a line each: what asks least first."""
        width = max(map(len, self.marks.values()))
        ranked = sorted(self.marks.items(), key=lambda found: STATES.index(found[0][0]))
        return [f" {mark:<{width}}  {asks}" for (_, asks), mark in ranked]


LETTERS: dict[State, str] = {"home": "H", "papers": "P", "basis": "T", "never": "X"}
MEANINGS: dict[State, str] = {
    "home": "no more than at home",
    "papers": "more papers or limits",
    "basis": "a basis for the transfer",
    "never": "never",
}


def legend(rows: Iterable[Iterable[Cell]]) -> Legend:
    """The marks of all cells, numbered in the order of reading."""
    marks: dict[tuple[State, str], str] = {}
    for cell in (c for row in rows for c in row):
        if (cell.state, cell.asks) not in marks:
            number = sum(state == cell.state for state, _ in marks) + 1
            mark = "." if cell.asks == NOTHING else f"{LETTERS[cell.state]}{number}"
            marks[cell.state, cell.asks] = f"{mark}{COUNTED if cell.counted else ''}"
    return Legend(marks)


def key_line() -> str:
    """What the letters of the marks mean."""
    letters = ", ".join(f"{LETTERS[state]} {MEANINGS[state]}" for state in STATES)
    return f". nothing is asked, {letters}; {COUNTED} denied once too many persons are counted, or nobody counts"

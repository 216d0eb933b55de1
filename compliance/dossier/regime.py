"""Regimes as data: for each article or control what it asks, which records speak to it, and what they do not cover."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, PrivateAttr, model_validator

from compliance.canonical import sha256_hex
from compliance.errors import InputError
from compliance.files import read_bytes
from compliance.law.fields import NOBODY, Citation, Day, Reviewer
from compliance.law.strict_yaml import MOST_BYTES, load_strict
from compliance.law.vocabulary import ARTIFACTS, Confidence, RecordClass, SourceKind
from compliance.log.entry import KINDS
from compliance.training_spec import Frozen
from compliance.validation import Mistake

_FOLDER: Final = Path(__file__).with_name("regimes")
ID = r"^[a-z][a-z0-9-]{1,19}$"
TableName = Literal[
    "study", "parties", "documents", "recipients", "flows", "counters", "epsilon", "mechanism", "conformance",
    "packs", "retention", "span", "logs", "entries",
]  # fmt: skip
# Which settings a kind of table takes; a setting elsewhere is a mistake, not a silent nothing.
_SETTINGS: Final[dict[TableName, frozenset[str]]] = {
    "study": frozenset({"fields"}),
    "flows": frozenset({"crossing", "denied", "places", "covered_persons", "artifacts"}),
    "counters": frozenset({"counter"}),
    "retention": frozenset({"pack", "classes"}),
    "entries": frozenset({"kinds", "fields"}),
}
_NEEDED: Final[dict[TableName, frozenset[str]]] = {
    "study": frozenset({"fields"}),
    "retention": frozenset({"pack", "classes"}),
    "entries": frozenset({"kinds", "fields"}),
}
_PATH = r"^[a-z0-9_]+(\.[a-z0-9_]+)*$"


class Shows(Frozen):
    """One table of an article: which derivation makes it, and what it is about.

    fields: name for people -> where it stands, parts separated by dots.
    crossing: only what leaves the exporter's country; denied: only denials; places, covered_persons: only what some
    recipient in one of these countries, or a covered person, would come to hold or reach.
    """

    table: TableName
    caption: str = Field(min_length=5, max_length=200)
    fields: dict[str, Annotated[str, Field(pattern=_PATH)]] = Field(default_factory=dict)
    kinds: tuple[str, ...] = ()
    crossing: bool = False
    denied: bool = False
    places: tuple[str, ...] = ()
    covered_persons: bool = False
    artifacts: tuple[str, ...] = ()
    counter: str = ""
    pack: str = ""
    classes: tuple[RecordClass, ...] = ()

    def mistakes(self) -> Iterator[str]:
        """What does not go with the kind of table."""
        given = self.model_fields_set - {"table", "caption"}
        yield from (
            f"a table of {self.table} takes no {name}" for name in given - _SETTINGS.get(self.table, frozenset())
        )
        yield from (f"a table of {self.table} needs {name}" for name in _NEEDED.get(self.table, frozenset()) - given)
        yield from (f"there is no kind {kind}" for kind in self.kinds if kind not in KINDS)
        yield from (f"there is no artifact {name}" for name in self.artifacts if name not in ARTIFACTS)


class Article(Frozen):
    """One article or control. `asks`: what it asks, in our words. `not_covered`: what no record here speaks to.

    Without `shows` the article is NOT COVERED as a whole. `source`: where the reading comes from.
    """

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,30}$")
    citation: Citation
    title: str = Field(min_length=3, max_length=120)
    asks: str = Field(pattern=r"^[A-Z][^\n]*\.$", max_length=600)
    confidence: Confidence
    source_kind: SourceKind
    source: str = Field(min_length=10)
    shows: tuple[Shows, ...] = ()
    not_covered: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _memory_is_low(self) -> Article:
        if self.source_kind == "memory" and self.confidence != "low":
            raise ValueError("what nobody has read, source_kind memory, has confidence low")
        return self


class Regime(Frozen):
    """The articles of one regime that the records of a study can speak to. `reviewer`: counsel by name, or `none`."""

    schema_: Literal["residency.regime/1"] = Field(alias="schema")
    id: str = Field(pattern=ID)
    title: str = Field(min_length=1, max_length=200)
    version: int = Field(ge=1)
    reviewer: Reviewer
    verified_on: Day
    not_covered: tuple[str, ...] = Field(min_length=1)
    articles: tuple[Article, ...] = Field(min_length=1)
    _digest: str = PrivateAttr(default="")

    @property
    def digest(self) -> str:
        """SHA-256 of the file that this regime was read from."""
        return self._digest

    @property
    def draft(self) -> bool:
        """True if no counsel has reviewed it."""
        return self.reviewer == NOBODY

    def kinds(self) -> frozenset[str]:
        """Kinds of entries that it asks for by name; those of no study are shown only then."""
        return frozenset(kind for article in self.articles for shown in article.shows for kind in shown.kinds)

    def packs(self) -> frozenset[str]:
        """Law packs whose retention it shows."""
        return frozenset(shown.pack for article in self.articles for shown in article.shows if shown.pack)


def load_regime(data: bytes, what: str) -> Regime:
    """A regime's file. Raises InputError RSD-3001, RSD-3002 with every mistake and its line."""
    regime = load_strict(Regime, data, what, _mistakes)
    regime._digest = sha256_hex(data)  # noqa: SLF001 - only the loader sets it
    return regime


def _mistakes(regime: Regime) -> Iterable[Mistake]:
    seen: set[str] = set()
    for i, article in enumerate(regime.articles):
        if article.id in seen:
            yield Mistake(f"articles[{i}].id", f"{article.id} is listed twice")
        seen.add(article.id)
        for j, shown in enumerate(article.shows):
            yield from (Mistake(f"articles[{i}].shows[{j}]", text) for text in shown.mistakes())


@lru_cache(maxsize=1)
def builtin_regimes() -> dict[str, Regime]:
    """The regimes that come with the package, by id."""
    files = sorted(_FOLDER.glob("*.yaml"))
    return {r.id: r for r in (load_regime(read_bytes(path, "regime", MOST_BYTES), path.name) for path in files)}


def regime_called(name: str) -> Regime:
    """The regime with this id. Raises InputError RSD-9110."""
    found = builtin_regimes().get(name)
    if found is None:
        raise InputError(
            "RSD-9110",
            f"there is no regime {name}",
            found=name,
            limit=", ".join(builtin_regimes()),
            next="residency audit evidence --list",
        )
    return found

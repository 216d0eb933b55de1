"""The dossier: what the logs of one study show for the articles of one regime, with the entries and their proofs."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from compliance.canonical import Json, canonical
from compliance.law.vocabulary import Confidence, SourceKind
from compliance.study import SHA256
from compliance.training_spec import Frozen
from compliance.trust.root import NAME

SCHEMA: Final = "residency.dossier/1"
Status = Literal["evidence shown", "nothing recorded", "NOT COVERED"]
Hex32 = Annotated[str, Field(pattern=SHA256)]
Index = Annotated[int, Field(ge=0, lt=1 << 53)]
Texts = tuple[str, ...]


class Ref(Frozen):
    """An entry that a fact rests on."""

    origin: str
    index: Index


class Row(Frozen):
    """One fact, a text for each column of its table, and the entries that show it."""

    cells: Texts
    rests_on: tuple[Ref, ...]


class Table(Frozen):
    """Facts of one kind. `note` says what the table leaves out, or why it has no row."""

    caption: str
    columns: Texts
    rows: tuple[Row, ...] = ()
    note: str = ""


class ArticleShown(Frozen):
    """One article with what is shown for it, and what no record here speaks to."""

    id: str
    citation: str
    title: str
    asks: str
    confidence: Confidence
    source_kind: SourceKind
    source: str
    status: Status
    tables: tuple[Table, ...]
    not_covered: Texts


class RegimeShown(Frozen):
    """Which reading of which regime, by the digest of its file."""

    id: str = Field(pattern=r"^[a-z][a-z0-9-]{1,19}$")
    title: str
    version: int
    sha256: Hex32
    reviewer: str
    draft: bool
    verified_on: str
    not_covered: Texts


class StudyShown(Frozen):
    """The study by its digest. `document`: base64 of its signed form, empty if it was not at hand."""

    digest: Hex32
    name: str
    document: str


class PackHeld(Frozen):
    """A law pack or the region sets (`id` regions) that a logged decision names: base64 of the file."""

    id: str
    sha256: Hex32
    data: str


class Source(Frozen):
    """One log up to one checkpoint. `cosigners`: those of the checkpoint that the trust file knows, lines of others
    were left out. `entries`: how many of the study are here; `after_close`: how many of them no close entry counts.

    complete: "counted": the last close entry counts exactly those before it that are here; "counted, some expired":
    those and entries of which a compaction says that they lost their text; else nothing shows that none lacks.
    """

    member: str = Field(pattern=NAME)
    jurisdiction: str
    origin: str
    size: Index
    root: Hex32
    checkpoint: str
    cosigners: Texts
    entries: int
    after_close: int
    expired: Texts
    complete: Literal["counted", "counted, some expired", "not counted"]


class Opened(Frozen):
    """One entry: base64 of its encoded bytes, and the proof that it stands at `index` under the log's checkpoint."""

    origin: str
    index: Index
    entry: str
    proof: tuple[Hex32, ...]


class Dossier(Frozen):
    """Everything in it but the entries, their proofs, the checkpoints and the study is derived from those.

    `until`: the time of the last entry here. `missing`: members of the study whose log is not here.
    """

    schema_: Literal["residency.dossier/1"] = Field(alias="schema")
    regime: RegimeShown
    consortium: str
    trust: Hex32
    study: StudyShown
    until: str
    sources: tuple[Source, ...]
    missing: Texts
    articles: tuple[ArticleShown, ...]
    packs: tuple[PackHeld, ...]
    entries: tuple[Opened, ...]

    def as_json(self) -> dict[str, Json]:
        """JSON form, with `schema` under its public name."""
        return self.model_dump(mode="json", by_alias=True)

    def encode(self) -> bytes:
        """The one form of its file: canonical JSON and a newline."""
        return canonical(self.as_json()) + b"\n"

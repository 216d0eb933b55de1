"""What tables are derived from: the opened entries of a study, its signed form, and the packs that decisions name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeVar

from compliance.dossier.model import Ref, Source
from compliance.law.model import Decision
from compliance.law.pack import Pack
from compliance.log.bodies import Body
from compliance.log.entry import Entry
from compliance.log.kinds import KIND_OF
from compliance.release import bodies
from compliance.study import Study
from compliance.trust.root import Trust
from compliance.validation import try_model

# Kinds of no study that may be shown with one: of the site, its law and its data, never of another study.
OF_NO_STUDY: Final = frozenset(
    {"policy", "law", "dataset", "withdrawal", "alarm", "compaction", "consortium", "export"}
)
B = TypeVar("B", bound=Body)


@dataclass(frozen=True)
class Held:
    """One opened entry, and whose log it stands in."""

    origin: str
    member: str
    entry: Entry

    @property
    def ref(self) -> Ref:
        """How rows name it."""
        return Ref(origin=self.origin, index=self.entry.index)

    @property
    def where(self) -> str:
        """How messages name it."""
        return f"entry {self.entry.index} of log {self.origin}"


Sent = tuple[Held, bodies.TransferBody]


@dataclass(frozen=True)
class Decided:
    """A logged decision with the entry that it stands in, and the transfers that name it, in its own log."""

    held: Held
    decision: Decision
    round: int
    sent: tuple[Sent, ...]

    @property
    def refs(self) -> tuple[Ref, ...]:
        """The decision and what was sent by it."""
        return (self.held.ref, *(held.ref for held, _ in self.sent))


@dataclass(frozen=True)
class Material:
    """Entries are in the order of the logs, and in each log by index. `packs` by id."""

    digest: str
    study: Study | None
    trust: Trust
    sources: tuple[Source, ...]
    held: tuple[Held, ...]
    packs: Mapping[str, Pack]

    def of(self, *kinds: str) -> list[Held]:
        """The entries of these kinds."""
        return [h for h in self.held if h.entry.kind in kinds]

    def bodies(self, kind: str, model: type[B]) -> list[tuple[Held, B]]:
        """Entries of one kind whose body has the shape `model`; a kind may have several.

        Raises InputError RSD-9041 for a body that has none of them: whoever left it out would count too little.
        """
        others = [shape for shape in KIND_OF[kind].bodies if shape is not model]
        own = [h for h in self.of(kind) if not any(try_model(shape, h.entry.body)[1] for shape in others)]
        return [(h, bodies.read_body(model, h.entry, h.where)) for h in own]

    @cached_property
    def decisions(self) -> tuple[Decided, ...]:
        """All decisions of the study. Raises InputError RSD-9041 for one that no engine makes."""
        sent, found = self._sent, []
        for held in self.of("decision"):
            logged = bodies.read_decision(held.entry, held.where)
            then = tuple(sent.get((held.origin, held.entry.index), ()))
            found.append(Decided(held, logged.decision, logged.round, then))
        return tuple(found)

    @property
    def undecided(self) -> tuple[Sent, ...]:
        """Transfers that name no decision that is here."""
        decided = {(d.held.origin, d.held.entry.index) for d in self.decisions}
        return tuple(row for named, rows in self._sent.items() if named not in decided for row in rows)

    @cached_property
    def _sent(self) -> dict[tuple[str, int], list[Sent]]:
        """Log and index of the decision that transfers name -> those transfers."""
        sent: dict[tuple[str, int], list[Sent]] = {}
        for held, body in self.bodies("transfer", bodies.TransferBody):
            sent.setdefault((held.origin, body.decision), []).append((held, body))
        return sent

    @property
    def proposed(self) -> tuple[Ref, ...]:
        """The entries by which the study came into the logs."""
        return refs(self.of("study"))


def refs(held: Iterable[Held]) -> tuple[Ref, ...]:
    """The entries as rows name them."""
    return tuple(h.ref for h in held)

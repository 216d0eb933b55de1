"""The bodies that travel between the server and a site, above the transport. Strict on both sides."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import Field

from compliance.canonical import Json, canonical, parse_canonical, sha256_hex
from compliance.errors import InputError
from compliance.law.model import Party
from compliance.roster import EntryRef
from compliance.study import SHA256
from compliance.training_spec import Frozen
from compliance.trust.root import NAME
from compliance.validation import load_model

M = TypeVar("M", bound=Frozen)


class LayoutEntry(Frozen):
    """Name and shape of one trained parameter; for a LoRA B, `a_width` is the width of its frozen A."""

    name: str = Field(min_length=1, max_length=300)
    shape: tuple[int, ...] = Field(min_length=1, max_length=4)
    a_width: int | None = Field(default=None, ge=1)


def layout_digest(layout: tuple[LayoutEntry, ...]) -> str:
    """SHA-256 of the canonical JSON list of the entries, as layout.json holds them."""
    return sha256_hex(canonical([e.model_dump(mode="json", exclude_none=True) for e in layout]))


class CheckpointOffer(Frozen):
    """A log's checkpoint with consistency proofs (hex) from the sizes that others may have cosigned before."""

    origin: str
    note: str = Field(max_length=20_000)
    proofs: dict[str, tuple[Annotated[str, Field(pattern=SHA256)], ...]] = Field(
        description="old size -> consistency proof to this checkpoint"
    )

    def proof(self, old_size: int) -> list[bytes]:
        """The consistency proof from `old_size`, empty if none was sent."""
        return [bytes.fromhex(h) for h in self.proofs.get(str(old_size), ())]


class CosignedLine(Frozen):
    """A cosignature by `witness` on the checkpoint of `size` of `origin`.

    `note`: that checkpoint as its log signed it, for the operator, whose log may since have been put back.
    """

    origin: str
    size: int = Field(ge=0)
    witness: str
    line: str = Field(max_length=1000)
    note: str = Field(default="", max_length=4000)


class JoinRequest(Frozen):
    """The signed study with every site's signed answers; nothing here is believed without its signatures."""

    schema_: Literal["residency.join/1"] = Field(alias="schema")
    run: str = Field(pattern=NAME)
    study: str
    answers: tuple[str, ...]
    known: str = Field(default="", max_length=20_000, description="the last checkpoint of this site's log seen so far")


class PeerDecision(Frozen):
    """A logged decision: may `artifact` of this site, or what is made of it, reach `recipient`, as it was then?"""

    recipient: Party
    artifact: str
    allow: bool
    rule: str
    plain: str
    entry: EntryRef


class JoinReply(Frozen):
    """The site takes part. `layout` must be the same at every site.

    `adoption` is the law set that its signatory adopted, signed, and `law_advice` the advice that the adoption names.
    """

    schema_: Literal["residency.joined/1"] = Field(alias="schema")
    site: str
    layout: tuple[LayoutEntry, ...]
    device: str
    decisions: tuple[PeerDecision, ...]
    adoption: str = Field(max_length=200_000)
    law_advice: str = Field(default="", max_length=50_000)
    offer: CheckpointOffer


class RoundRequest(Frozen):
    """One round: the array beside it is the flat global model whose digest is `base_sha256`."""

    schema_: Literal["residency.round/1"] = Field(alias="schema")
    run: str = Field(pattern=NAME)
    study: str = Field(pattern=SHA256)
    round: int = Field(ge=1, le=1000)
    recipients: tuple[str, ...]
    base_sha256: str = Field(pattern=SHA256)


class RoundReply(Frozen):
    """The update is in the array beside it; these entries of the site's log cover it."""

    schema_: Literal["residency.contribution/1"] = Field(alias="schema")
    site: str
    attempt: int = Field(ge=1)
    update_sha256: str = Field(pattern=SHA256)
    charge: EntryRef
    commit: EntryRef
    decision: EntryRef
    transfer: EntryRef
    offer: CheckpointOffer


class EvaluateRequest(Frozen):
    """Evaluate the flat model beside this, whose digest is `model_sha256`; how, the study says and nothing here."""

    schema_: Literal["residency.evaluate/1"] = Field(alias="schema")
    run: str = Field(pattern=NAME)
    study: str = Field(pattern=SHA256)
    recipients: tuple[str, ...]
    model_sha256: str = Field(pattern=SHA256)


class EvaluateReply(Frozen):
    """The site's signed histogram, and the entries of its log that cover it."""

    schema_: Literal["residency.evaluated/1"] = Field(alias="schema")
    site: str
    histogram: str
    charge: EntryRef
    evaluation: EntryRef
    decision: EntryRef
    transfer: EntryRef
    offer: CheckpointOffer


class WitnessRequest(Frozen):
    """A roster to countersign (or none), checkpoints to cosign, cosignatures on this site's own checkpoints."""

    schema_: Literal["residency.witness/1"] = Field(alias="schema")
    study: str = Field(pattern=SHA256)
    roster: str | None
    offers: tuple[CheckpointOffer, ...]
    cosigned: tuple[CosignedLine, ...]


class WitnessReply(Frozen):
    """The countersigned roster, the cosignatures given, and the offers that were refused, with the reason."""

    schema_: Literal["residency.witnessed/1"] = Field(alias="schema")
    site: str
    roster: str | None
    cosigned: tuple[CosignedLine, ...]
    refused: tuple[str, ...]
    offer: CheckpointOffer


class CloseRequest(Frozen):
    """The run has ended; `rosters` are the digests of its rosters in order."""

    schema_: Literal["residency.close/1"] = Field(alias="schema")
    study: str = Field(pattern=SHA256)
    rosters: tuple[str, ...]


class CloseReply(Frozen):
    """The site's evidence for this study: entries of its log, all leaf hashes, its checkpoint."""

    schema_: Literal["residency.closed/1"] = Field(alias="schema")
    site: str
    evidence: str
    offer: CheckpointOffer


def encode(message: Frozen) -> bytes:
    """Canonical bytes of a body."""
    value: Json = message.model_dump(mode="json", by_alias=True)
    return canonical(value)


def decode(model: type[M], body: bytes, what: str) -> M:
    """Parse strictly. Raises InputError RSD-1210."""
    return load_model(model, parse_canonical(body, what), "RSD-1210", what)


def refuse_unknown(kind: str) -> InputError:
    """The error for a message kind that a site does not know."""
    return InputError("RSD-1211", "unknown kind of message", found=kind, limit="join, round, evaluate, witness, close")

"""What law a site adopts: the packs and region sets by digest, and the regimes that do not bind it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from compliance.canonical import Json, canonical, sha256_hex
from compliance.clock import parse_time
from compliance.law.model import NAME, SHA256, Code
from compliance.training_spec import Frozen

SCHEMA = "residency.law-set/1"
ADOPTION = "residency.law-adoption/1"
PACK_ID = r"^[a-z][a-z0-9-]{1,19}$"


class AdoptedPack(Frozen):
    """A pack by exactly its bytes."""

    id: str = Field(pattern=PACK_ID)
    sha256: str = Field(pattern=SHA256)


class NotBinding(Frozen):
    """A regime that binds only some, and the signatory's reason why this site is not one of them."""

    id: str = Field(pattern=PACK_ID)
    reason: str = Field(min_length=10, max_length=300)


class LawSet(Frozen):
    """The law under which `site` decides. Whether a pack may be declared not binding is the engine's to say."""

    schema_: Literal["residency.law-set/1"] = Field(alias="schema")
    site: str = Field(pattern=NAME)
    jurisdiction: Code
    regions: str = Field(pattern=SHA256)
    packs: tuple[AdoptedPack, ...] = Field(min_length=1, max_length=100)
    not_binding: tuple[NotBinding, ...] = Field(default=(), max_length=100)

    @model_validator(mode="after")
    def _each_once(self) -> LawSet:
        ids = [pack.id for pack in self.packs] + [one.id for one in self.not_binding]
        if len(set(ids)) != len(ids):
            raise ValueError("each pack stands once, adopted or not binding")
        return self

    @property
    def adopted(self) -> dict[str, str]:
        """Pack id -> SHA-256 of the adopted file."""
        return {pack.id: pack.sha256 for pack in self.packs}

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON: what a policy names."""
        return sha256_hex(canonical(self.as_json()))

    def as_json(self) -> dict[str, Json]:
        """JSON form, with `schema` under its public name."""
        return self.model_dump(mode="json", by_alias=True)


class Adoption(Frozen):
    """A signatory's adoption of one law set, on which advice, or with which reason without or against it."""

    schema_: Literal["residency.law-adoption/1"] = Field(alias="schema")
    site: str = Field(pattern=NAME)
    digest: str = Field(pattern=SHA256)
    law_set: LawSet
    advice: str = Field(pattern=r"^([0-9a-f]{64})?$", description="digest of the advice, empty if there was none")
    reason: str = Field(max_length=4000)
    at: str

    @field_validator("at")
    @classmethod
    def _is_a_time(cls, value: str) -> str:
        parse_time(value, "the time of an adoption")
        return value

    @model_validator(mode="after")
    def _of_this_set(self) -> Adoption:
        if self.digest != self.law_set.digest:
            raise ValueError("digest is not that of law_set")
        if self.site != self.law_set.site:
            raise ValueError("law_set is another site's")
        if not self.advice and not self.reason:
            raise ValueError("an adoption without advice needs a reason")
        return self

    def as_json(self) -> dict[str, Json]:
        """JSON form, with `schema` under its public name."""
        return self.model_dump(mode="json", by_alias=True)

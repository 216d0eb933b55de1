"""What a consortium is to its operator: its name, its threshold, and where its three doors are."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from compliance.canonical import Json
from compliance.study import Organisation
from compliance.training_spec import Frozen
from compliance.trust.root import NAME


def _door(text: str) -> str:
    host, _, port = text.rpartition(":")
    named = re.fullmatch(r"[A-Za-z0-9.-]{1,253}", host) and re.fullmatch(r"[1-9][0-9]{0,4}", port)
    if not named or int(port) > 65535:
        raise ValueError("HOST:PORT is wanted, with a port from 1 to 65535")
    return text


Door = Annotated[str, AfterValidator(_door)]


class Consortium(Frozen):
    """The operator's consortium.json. The three doors are host:port, as the sites reach them.

    `server` is the fleet door (Flower, mutual TLS), `governance` the governance service (gRPC, mutual TLS), `enrolment`
    the door for sites without a certificate (gRPC, TLS).
    """

    schema_: Literal["residency.consortium/1"] = Field(alias="schema")
    name: str = Field(pattern=NAME)
    operator: Organisation
    threshold: int = Field(ge=1, le=1000)
    server: Door
    governance: Door
    enrolment: Door

    @model_validator(mode="after")
    def _doors_apart(self) -> Consortium:
        doors = (self.server, self.governance, self.enrolment)
        if len(set(doors)) < len(doors):
            raise ValueError(f"server, governance and enrolment need an address each: {', '.join(doors)}")
        return self

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names that the server's certificate must carry."""
        return tuple(dict.fromkeys(d.rpartition(":")[0] for d in (self.server, self.governance, self.enrolment)))

    def as_json(self) -> dict[str, Json]:
        """JSON form, with `schema` under its public name."""
        return self.model_dump(mode="json", by_alias=True)

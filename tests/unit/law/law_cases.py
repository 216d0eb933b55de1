"""The reference table, written by hand from the packs' plain sentences, and the helpers that the law tests share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from compliance.law.model import Document, Guarantees, Party, Transfer

AT = "2026-11-21T10:00:00Z"
GIVEN: dict[str, Any] = {
    "unit": "record",
    "epsilon_milli": 3000,
    "inverse_delta": 100_000,
    "min_sites": 4,
    "secure_aggregation": True,
}
BASE = "dpia art6_basis art9_basis ethics"
ASIA = "dpia ethics"


@dataclass(frozen=True)
class Case:
    """One leg and the rule that must decide it. `docs` are kinds, all covering the leg and unexpired."""

    artifact: str
    leg: str
    docs: str
    allow: bool
    rule: str
    purpose: str = "scientific_research"
    given: dict[str, Any] = field(default_factory=dict)
    at: str = AT

    def transfer(self) -> Transfer:
        origin, target = self.leg.split()
        documents = tuple(document(kind, origin, target) for kind in self.docs.split())
        return transfer(
            self.artifact, origin, target, documents, purpose=self.purpose, at=self.at, given=GIVEN | self.given
        )


def document(kind: str, origin: str = "*", target: str = "*", covers: str = "server", expires: str = "2027-12-31"):
    return Document(
        kind=kind, sha256="ab" * 32, expires=expires, from_jurisdiction=origin, to_jurisdiction=target, covers=covers
    )


def transfer(artifact, origin, target, documents, *, purpose="scientific_research", at=AT, given=None, onward=()):
    return Transfer(
        artifact=artifact,
        exporter=Party(name="clinic", jurisdiction=origin),
        recipient=Party(name="server", jurisdiction=target),
        onward=tuple(onward),
        purpose=purpose,
        study="cd" * 32,
        documents=tuple(documents),
        guarantees=Guarantees(**(GIVEN if given is None else given)),
        at=at,
    )


NO_SECAGG = {"secure_aggregation": False}
CASES = (
    # EEA -> EEA
    Case("dp_update", "DE IE", BASE, True, "eu.update.within"),
    Case("dp_update", "FR IE", BASE, True, "eu.update.within"),
    Case("dp_update", "IE IE", BASE, True, "eu.update.within"),
    Case("dp_update", "NO IE", BASE, True, "eu.update.within", given={"unit": "patient"}),
    Case("dp_update", "DE IE", BASE, True, "eu.update.within", given={"epsilon_milli": 8000}),
    Case("dp_update", "DE IE", BASE, False, "eu.default-deny", given={"epsilon_milli": 8001}),
    Case("dp_update", "DE IE", BASE, False, "eu.default-deny", given={"epsilon_milli": None}),
    Case("dp_update", "DE IE", BASE, False, "eu.default-deny", given={"unit": "none"}),
    Case("dp_update", "DE IE", "art6_basis art9_basis ethics", False, "eu.default-deny"),
    Case("dp_update", "DE IE", "dpia art9_basis ethics", False, "eu.default-deny"),
    Case("dp_update", "DE IE", "dpia art6_basis ethics", False, "eu.default-deny"),
    Case("dp_update", "DE IE", "dpia art6_basis art9_basis", False, "eu.default-deny"),
    Case("dp_update", "DE IE", BASE, False, "eu.default-deny", purpose="quality_improvement"),
    Case("metric", "DE IE", BASE, True, "eu.update.within"),
    Case("metric", "DE IE", BASE, False, "eu.default-deny", given={"epsilon_milli": None}),
    Case("masked_update", "DE IE", BASE, True, "eu.masked.within"),
    Case("masked_update", "DE IE", BASE, False, "eu.default-deny", given=NO_SECAGG),
    Case("masked_update", "DE IE", BASE, False, "eu.default-deny", given={"min_sites": 2}),
    Case("aggregate", "DE IE", BASE, True, "eu.aggregate.within", given=NO_SECAGG),
    Case("aggregate", "DE IE", BASE, False, "eu.default-deny", given={"min_sites": 1}),
    Case("released_model", "IE DE", BASE, True, "eu.aggregate.within"),
    # EEA -> adequate
    Case("dp_update", "DE GB", BASE + " adequacy_confirmation", True, "eu.update.adequate"),
    Case("dp_update", "DE JP", BASE + " adequacy_confirmation", True, "eu.update.adequate"),
    Case("masked_update", "DE KR", BASE + " adequacy_confirmation", True, "eu.masked.adequate"),
    Case("aggregate", "IE GB", BASE + " adequacy_confirmation", True, "eu.aggregate.adequate"),
    Case("dp_update", "DE GB", BASE, False, "eu.adequacy-unconfirmed"),
    Case("aggregate", "IE JP", BASE, False, "eu.adequacy-unconfirmed"),
    Case("aggregate", "IE US", BASE + " scc tia", True, "eu.aggregate.safeguards"),
    Case("aggregate", "IE BR", BASE + " adequacy_confirmation", True, "eu.aggregate.adequate"),
    Case("aggregate", "IE BR", BASE + " adequacy_confirmation", False, "eu.no-basis", at="2025-12-01T00:00:00Z"),
    # EEA -> elsewhere
    Case("aggregate", "DE CN", BASE, False, "eu.no-basis"),
    Case("aggregate", "IE CN", BASE + " scc", False, "eu.no-basis"),
    Case("aggregate", "IE CN", BASE + " tia", False, "eu.no-basis"),
    Case("aggregate", "DE CN", BASE + " adequacy_confirmation", False, "eu.no-basis"),
    Case("aggregate", "DE CN", BASE + " scc tia", True, "eu.aggregate.safeguards"),
    Case("aggregate", "DE CN", BASE + " bcr tia", True, "eu.aggregate.safeguards"),
    Case("dp_update", "DE CN", BASE + " scc tia", True, "eu.update.safeguards"),
    Case("masked_update", "DE IN", BASE + " scc tia", True, "eu.masked.safeguards"),
    Case("aggregate", "DE CN", "scc tia", False, "eu.default-deny"),
    Case("metric", "DE CN", BASE, False, "eu.no-basis"),
    Case("aggregate", "DE HK", BASE, False, "eu.no-basis"),
    # never, whatever is on file
    Case("raw_record", "DE DE", BASE + " scc tia", False, "eu.never-raw"),
    Case("gradient", "DE IE", BASE, False, "eu.never-raw"),
    Case("embedding", "DE IE", BASE, False, "eu.never-raw"),
    Case("plain_update", "DE IE", BASE, False, "eu.never-plain"),
    Case("raw_record", "GB GB", BASE, False, "uk.never-raw"),
    Case("plain_update", "GB IE", BASE, False, "uk.never-plain"),
    Case("gradient", "JP IE", BASE, False, "jp.never-raw"),
    Case("plain_update", "JP JP", BASE, False, "jp.never-plain"),
    Case("embedding", "CN CN", BASE + " pipl_contract", False, "cn.never-raw"),
    Case("plain_update", "CN IE", BASE + " pipl_contract", False, "cn.never-plain"),
    # administration
    Case("roster", "DE CN", "", True, "eu.administration", given={"unit": "none"}),
    Case("answer", "DE IE", "", True, "eu.administration", purpose="study_administration"),
    Case("log_checkpoint", "GB CN", "", True, "uk.administration", purpose="audit"),
    Case("roster", "JP IE", "", True, "jp.administration"),
    Case("answer", "CN IE", "", True, "cn.administration"),
    Case("answer", "CN IE", "", False, "cn.default-deny", purpose="publication"),
    # UK
    Case("dp_update", "GB GB", BASE, True, "uk.update.domestic"),
    Case("masked_update", "GB GB", BASE, True, "uk.masked.domestic"),
    Case("aggregate", "GB GB", BASE, True, "uk.aggregate.domestic"),
    Case("dp_update", "GB IE", BASE, True, "uk.update.approved"),
    Case("masked_update", "GB IE", BASE, True, "uk.masked.approved"),
    Case("aggregate", "GB DE", BASE, True, "uk.aggregate.approved"),
    Case("dp_update", "GB JP", BASE + " adequacy_confirmation", True, "uk.update.confirmed"),
    Case("masked_update", "GB JP", BASE + " adequacy_confirmation", True, "uk.masked.confirmed"),
    Case("aggregate", "GB KR", BASE + " adequacy_confirmation", True, "uk.aggregate.confirmed"),
    Case("dp_update", "GB JP", BASE, False, "uk.adequacy-unconfirmed"),
    Case("aggregate", "GB CN", BASE, False, "uk.no-basis"),
    Case("aggregate", "GB CN", BASE + " scc tia", False, "uk.no-basis"),
    Case("aggregate", "GB CN", BASE + " idta tia", True, "uk.aggregate.safeguards"),
    Case("dp_update", "GB CN", BASE + " scc uk_addendum tia", True, "uk.update.safeguards"),
    Case("masked_update", "GB IN", BASE + " idta tia", True, "uk.masked.safeguards"),
    # Japan
    Case("dp_update", "JP JP", ASIA, True, "jp.update.domestic"),
    Case("masked_update", "JP JP", ASIA, True, "jp.masked.domestic"),
    Case("aggregate", "JP JP", ASIA, True, "jp.aggregate.domestic"),
    Case("dp_update", "JP IE", ASIA, True, "jp.update.designated"),
    Case("masked_update", "JP GB", ASIA, True, "jp.masked.designated"),
    Case("aggregate", "JP IE", ASIA, True, "jp.aggregate.designated"),
    Case("dp_update", "JP IE", "ethics", False, "jp.default-deny"),
    Case("aggregate", "JP CN", ASIA + " scc tia", False, "jp.no-basis"),
    # China
    Case("dp_update", "CN CN", ASIA, True, "cn.update.domestic"),
    Case("masked_update", "CN CN", ASIA, True, "cn.masked.domestic"),
    Case("aggregate", "CN CN", ASIA, True, "cn.aggregate.domestic"),
    Case("dp_update", "CN IE", ASIA + " pipl_contract", True, "cn.update.export"),
    Case("masked_update", "CN IE", ASIA + " pipl_contract", True, "cn.masked.export"),
    Case("aggregate", "CN DE", ASIA + " cac_assessment", True, "cn.aggregate.export"),
    Case("dp_update", "CN IE", ASIA, False, "cn.no-basis"),
    Case("dp_update", "CN HK", ASIA, False, "cn.no-basis"),
    Case("dp_update", "CN IE", "ethics pipl_contract", False, "cn.default-deny"),
    # no pack, expired packs
    Case("dp_update", "US IE", BASE, False, "engine.no-pack"),
    Case("dp_update", "DE IE", BASE, False, "eu.expired", at="2027-06-30T00:00:00Z"),
    Case("dp_update", "DE IE", BASE, True, "eu.update.within", at="2027-06-29T23:59:59Z"),
    Case("roster", "GB IE", "", False, "uk.expired", at="2028-01-01T00:00:00Z"),
)

"""The agent's folder: what is where, and how it is opened. Private keys are made here and never leave."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field

from compliance.canonical import canonical, parse_canonical, parse_json
from compliance.clock import now
from compliance.errors import EnvironmentFault, InputError
from compliance.files import must_be_private, read_bytes, write_durably
from compliance.identity import Signer, load_signer
from compliance.law.decide import Engine, builtin_packs
from compliance.law.law_adoption import check_advised, check_jurisdiction, check_named, open_adoption
from compliance.law.law_set import LawSet
from compliance.law.pack import Pack
from compliance.law.regions import load_regions
from compliance.log.store import LogStore
from compliance.log.witness import WitnessStore
from compliance.policy import SitePolicy
from compliance.policy_file import open_policy
from compliance.privacy.ledger import Ledger
from compliance.study import DATE, SHA256, Purpose
from compliance.training_spec import Frozen
from compliance.trust.root import NAME, Anchor, load_anchor
from compliance.validation import load_model

LEGAL_BASIS = r"^[A-Za-z0-9][A-Za-z0-9 .,;:()/-]{0,119}$"  # such as 9(2)(j)


class AgentConfig(Frozen):
    """agent.json: who this agent is and where its server's three doors are (host:port)."""

    schema_: Literal["residency.agent/1"] = Field(alias="schema")
    site: str = Field(pattern=NAME)
    jurisdiction: str = Field(pattern=r"^[A-Z]{2}$")
    consortium: str = Field(pattern=NAME)
    operator: str = Field(pattern=NAME)
    server: str
    governance: str
    enrolment: str


class Column(Frozen):
    """A column of an extract: its name, and "integer", "number", "truth" or "text"."""

    name: str
    type: Literal["integer", "number", "truth", "text"]


class DatasetRecord(Frozen):
    """One registered extract. `source` names the patient population whose ledger it spends from.

    `id_columns` identify a row, `patient_columns` the person it is about. `declared` and `declared_patients` are the
    rounded numbers of rows and of people; the exact ones are nowhere. `several_rows`: somebody has more than one row.
    `commitment` is the root over the rows, salted with what `nonce` derives.
    """

    name: str = Field(pattern=NAME)
    path: str
    source: str = Field(pattern=NAME)
    id_columns: tuple[str, ...] = Field(min_length=1)
    patient_columns: tuple[str, ...] = Field(min_length=1)
    sha256: str = Field(pattern=SHA256, description="of the file when it was registered")
    added: str
    columns: tuple[Column, ...]
    declared: int = Field(ge=10)
    declared_patients: int = Field(ge=10)
    several_rows: bool
    commitment: str = Field(pattern=SHA256)
    nonce: str = Field(pattern=r"^[0-9a-f]{32}$")
    legal_basis: str = Field(pattern=LEGAL_BASIS)
    purposes: tuple[Purpose, ...] = Field(min_length=1)
    expires: str = Field(pattern=DATE)
    retired: str = Field(default="", description="when it was retired; empty while studies may use it")


class ModelRecord(Frozen):
    """One registered model folder."""

    name: str
    path: str
    sha256: str


class Registry(Frozen):
    """registry.json: datasets and models of this agent."""

    datasets: tuple[DatasetRecord, ...] = ()
    models: tuple[ModelRecord, ...] = ()


@dataclass(frozen=True)
class OpenPolicy:
    """A verified site policy and its digest."""

    policy: SitePolicy
    digest: str


@dataclass(frozen=True)
class OpenLaw:
    """A verified adoption of a law set: the set, and the signed files as they were installed; `advice` may be empty."""

    law_set: LawSet
    adoption: bytes
    advice: bytes


class AgentHome:
    """Paths and stores below one folder. Opening a store that is missing or malformed raises a ResidencyError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def config(self) -> AgentConfig:
        """Raises InputError RSD-1201 when `path` is no agent's home."""
        file = self.path / "agent.json"
        if not file.exists():
            raise InputError(
                "RSD-1201",
                f"{self.path} is no agent's home",
                found="no agent.json",
                limit="a folder made by agent enroll",
                next="residency agent enroll INVITATION --home FOLDER",
            )
        value = parse_json(read_bytes(file, "agent.json"), str(file))
        return load_model(AgentConfig, value, "RSD-1201", str(file))

    def anchor(self) -> Anchor:
        """The installed trust file, unexpired. Raises InputError RSD-1202 when none is installed."""
        file = self.path / "trust.json"
        if not file.exists():
            raise InputError(
                "RSD-1202",
                "no trust file is installed",
                found="no trust.json",
                limit="a trust file signed by the sites",
                next="residency agent enroll --home FOLDER --trust trust.json",
            )
        return load_anchor(file, now())

    def policy(self, anchor: Anchor) -> OpenPolicy:
        """The installed policy, signed by this site's signatory and unexpired.

        Raises InputError RSD-1203 (none installed), CheckFailed (signature) or Refused RSD-2103 (expired).
        """
        file = self.path / "policy.json"
        if not file.exists():
            raise InputError(
                "RSD-1203",
                "no site policy is installed",
                found="no policy.json",
                limit="a policy signed by the signatory",
                next="residency agent enroll --home FOLDER --policy policy.json",
            )
        return open_own_policy(anchor, read_bytes(file, "policy"), str(file), self.config.site)

    def law(self, anchor: Anchor, policy: SitePolicy | None = None) -> OpenLaw:
        """The installed law set: adopted by this site's signatory, for its jurisdiction, and named by its policy.

        `policy` None: the installed one.

        Raises InputError RSD-3034 (none installed), CheckFailed (signature), Refused RSD-3031 (another site or
        jurisdiction), RSD-3033 (the policy names another), RSD-2202 or RSD-2203 (advice), or as `policy` does.
        """
        named = (policy or self.policy(anchor).policy).law_set
        file, advice = self.path / "law.json", self.path / "law.advice.json"
        if not file.exists():
            raise InputError(
                "RSD-3034",
                "no law set is installed",
                rule="what leaves is decided by the law packs that the signatory adopted",
                found="no law.json",
                limit="a law set adopted by the signatory",
                next="residency agent enroll --home FOLDER --law law.json",
            )
        advised = read_bytes(advice, "the advice on the law set") if advice.exists() else b""
        found = open_own_law(anchor, read_bytes(file, "law set"), advised, str(file), self.config)
        check_named(found.law_set, named)
        return found

    def engine(self, law_set: LawSet) -> Engine:
        """The decision engine over the packs and region sets that the law set adopts, exactly those bytes."""
        return _engine(law_set)

    @property
    def counters(self) -> Path:
        """The file in which this site counts the persons whose data reached somebody, over all studies."""
        return self.path / "counters.db"

    def signer(self) -> Signer:
        """The agent's own key."""
        return load_signer(self.path / "keys" / "agent.key")

    @property
    def log_file(self) -> Path:
        """The file of this site's transparency log."""
        return self.path / "log.db"

    def log(self, anchor: Anchor, signer: Signer) -> LogStore:
        """This site's transparency log."""
        return LogStore.open(self.log_file, anchor.trust.log_origin(self.config.site), signer.private)

    def witness(self, anchor: Anchor, signer: Signer) -> WitnessStore:
        """What this site has cosigned of the others' logs."""
        return WitnessStore(self.path / "witness.db", anchor.trust.witness_name(self.config.site), signer.private)

    def ledger(self) -> Ledger:
        """The privacy ledger of all data sources of this site."""
        return Ledger.open(self.path / "ledger.db")

    def registry(self) -> Registry:
        """Registered datasets and models."""
        file = self.path / "registry.json"
        if not file.exists():
            return Registry()
        value = parse_canonical(read_bytes(file, "registry"), str(file))
        return load_model(Registry, value, "RSD-1204", str(file))

    def save_registry(self, registry: Registry) -> None:
        """Replace the registry durably."""
        write_durably(self.path / "registry.json", canonical(registry.model_dump(mode="json")))

    @contextmanager
    def changing_registry(self) -> Iterator[Registry]:
        """Nobody else changes the registry in this block; `save_registry` inside it."""
        with (self.path / "registry.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self.registry()

    def secret(self) -> bytes:
        """32 bytes that key the hashes of rows; made once, readable by the owner only.

        Raises EnvironmentFault RSD-2421 if it is lost while rows.db exists: a new one would match nobody who is known.
        """
        file = self.path / "keys" / "rows.secret"
        if not file.exists():
            if (self.path / "rows.db").exists():
                raise _secret_lost()
            write_durably(file, os.urandom(32), private=True)
        return read_bytes(file, "row secret")

    def need_private_keys(self) -> None:
        """The agent's keys are there, and nobody but their owner may read them or the secrets.

        Raises InputError RSD-1237, RSD-6022.
        """
        lacking = missing_keys(self.path)
        if lacking:
            raise _keys_lost(lacking)
        for path in sorted(p for p in (self.path / "keys").glob("*") if p.suffix in {".key", ".secret"}):
            must_be_private(path)

    def study_folder(self, study: str) -> Path:
        """Where the state of one study lives."""
        return self.path / "studies" / study


def missing_keys(home: Path) -> tuple[str, ...]:
    """Which of the two keys that an agent signs and connects with are not in its home, by their paths in it."""
    return tuple(name for name in ("keys/agent.key", "keys/node.key") if not (home / name).exists())


def _keys_lost(names: tuple[str, ...]) -> InputError:
    return InputError(
        "RSD-1237",
        f"this home lacks {' and '.join(names)}",
        rule="an agent signs with its agent key, and connects with its node key; nothing makes a second one",
        found=f"no {', no '.join(names)}",
        limit="both keys of this site",
        next="put back the keys from your copy of them, or restore a backup made with --keys: residency agent restore",
    )


def _secret_lost() -> EnvironmentFault:
    return EnvironmentFault(
        "RSD-2421",
        "the secret that keys this site's index of rows is lost: nobody in rows.db can be recognised without it",
        rule="who has withdrawn, and whose ledger pays, is known by keys/rows.secret",
        found="rows.db without keys/rows.secret",
        limit="both, from one backup",
        next="restore keys/rows.secret from the backup of this home; the agent works again as soon as it is there",
    )


@lru_cache(maxsize=1)
def packs() -> dict[str, Pack]:
    """The packs of this installation; they do not change while a process runs."""
    return builtin_packs()


@lru_cache(maxsize=4)
def _engine(law_set: LawSet) -> Engine:
    """Compiling the packs takes half a second; the law set is all that the engine depends on."""
    return Engine.of(law_set, packs(), load_regions())


@contextmanager
def only_agent(home: Path) -> Iterator[None]:
    """Hold the home for one agent process; the system frees it when the process ends, however it ends.

    Raises EnvironmentFault RSD-1227 when another agent runs on it: two would train the same round twice.
    """
    AgentHome(home).config  # noqa: B018 - refuses a folder that is no home
    with (home / "agent.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise EnvironmentFault(
                "RSD-1227",
                f"another agent runs on {home}",
                rule="one agent for one home",
                found="a running agent",
                limit="none",
                next="stop the other one first",
            ) from e
        yield


def open_own_policy(anchor: Anchor, data: bytes, what: str, site: str) -> OpenPolicy:
    """The signed policy of `site`, valid now. Raises what `compliance.policy_file.open_policy` raises."""
    return OpenPolicy(*open_policy(anchor, data, what, site, now()))


def open_own_law(anchor: Anchor, data: bytes, advice: bytes, what: str, config: AgentConfig) -> OpenLaw:
    """The adopted law set of this site, on that advice (empty: on none), valid now. Raises as `AgentHome.law` does."""
    at = now()
    opened = open_adoption(anchor, data, what, config.site, at)
    check_jurisdiction(opened.law_set, config.jurisdiction)
    check_advised(anchor, opened, advice, "the advice on the law set", at)
    return OpenLaw(opened.law_set, data, advice)


def new_node_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Make the P-384 key of the node's authentication and of its TLS certificate, and write it (mode 0600)."""
    key = ec.generate_private_key(ec.SECP384R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_durably(path, pem, private=True)
    return key

"""What the server's doctor looks at: keys, certificates, the trust file, its own doors, the machine.

`server.doctor_stores` looks at what the operator holds: log, runs, sites, invitations, studies.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from compliance import doctor, doctor_facts
from compliance.clock import now, parse_time
from compliance.doctor import Check, Fact, Limits, Unmet, examine
from compliance.doctor_facts import CertificateFacts, DoorFacts
from compliance.doctor_law import law_checks, pack_check
from compliance.errors import InputError
from compliance.files import read_bytes
from compliance.identity import Signer, read_signer
from compliance.law.decide import builtin_packs
from compliance.law.pack import Pack
from compliance.law.regions import load_regions
from compliance.pki import signed_by
from compliance.software import VERSION
from compliance.tls import tls_files
from compliance.trust.consortium import Consortium
from compliance.trust.home import OperatorHome
from compliance.trust.root import Anchor, Trust, load_anchor
from server.law import operator_law
from strategies.flwr_private import FLOWER_VERSION

KEYS = ("keys/operator.key", "tls/ca.key", "tls/server.key")
SECRETS = ("flower/control.token", "flower/superexec.secret")
RENEW = "residency consortium renew --home FOLDER: the running server takes the new certificate up"
NEXT_PACK = "install the version of this software that has the pack"
_LOOPBACK = "127.0.0.1"


@dataclass
class Doctor:
    """The checks of one operator's home. `online` asks the running server which sites are connected."""

    path: Path
    online: Callable[[Path], dict[str, bool]]
    limits: Limits = field(default_factory=Limits)
    at: datetime = field(default_factory=now)

    def __post_init__(self) -> None:
        self.home = OperatorHome(self.path)
        self.config: Fact[Consortium] = Fact("consortium.json", self.home.config)
        # Unexpired or not: an expired trust file still tells who is who, and has a check of its own.
        self.anchor: Fact[Anchor] = Fact("trust.json", self._load_anchor)
        self.signer: Fact[Signer] = Fact("keys/operator.key", lambda: read_signer(self.path / "keys" / "operator.key"))
        self.private: Fact[DoorFacts] = Fact("the private door", self._private_door)

    def _load_anchor(self) -> Anchor:
        if not self.home.trust_file.exists():
            raise Unmet("no trust file is installed: nobody is admitted yet")
        return load_anchor(self.home.trust_file)

    def standing(self) -> Iterator[Check]:
        """Keys, certificates, trust file, and the law packs that the operator applies."""
        yield from examine("home", self._consortium)
        secrets = tuple(name for name in SECRETS if (self.path / name).exists())
        yield from examine(
            "keys", lambda: doctor.private_modes("keys", doctor_facts.modes(self.path, (*KEYS, *secrets)))
        )
        yield from examine("operator key", self._operator_key)
        yield from examine("CA", self._authority)
        yield from self.certificate()
        yield from self.trust()
        yield from examine("law set", self._law)

    def _consortium(self) -> Check:
        found = self.config.get()
        return Check("home", "ok", f"operator {found.operator.name} of consortium {found.name}")

    def _operator_key(self) -> list[Check]:
        own = self.signer.get().identity
        start, end = parse_time(own.not_before), parse_time(own.not_after)
        advice = "have a new operator key admitted to the trust file before this one ends"
        return [
            doctor.key_period("operator key", start, end, self.at, self.limits.near_end, advice),
            *examine("key in the trust file", lambda: key_agrees(self.anchor.need().trust, own.keyid)),
        ]

    def _authority(self) -> Check:
        found = doctor_facts.certificate(tls_files(self.home.tls).ca)
        advice = "plan it with the sites: a new CA means that every site enrols again"
        return doctor.key_period("CA", found.not_before, found.not_after, self.at, self.limits.near_end, advice)

    def certificate(self) -> list[Check]:
        """Period and issuer of the server's certificate."""
        return examine("certificate", self._certificate)

    def _certificate(self) -> Check:
        files = tls_files(self.home.tls)
        found = doctor_facts.certificate(files.certificate)
        ours = signed_by(read_bytes(files.certificate, "the certificate"), read_bytes(files.ca, "the CA certificate"))
        return server_certificate(found, ours, self.at, self.limits)

    def trust(self) -> list[Check]:
        """Until when the installed trust file holds."""
        return examine("trust file", self._trust)

    def _trust(self) -> Check:
        try:
            until = parse_time(self.anchor.get().trust.expires)
        except Unmet as e:
            return Check(
                "trust file", "warn", str(e), "a trust file that the sites signed", "residency consortium admit"
            )
        advice = "draft the next version and have the sites sign it: residency consortium admit"
        return doctor.in_date("trust file", until, self.at, self.limits.near_end, advice)

    def _law(self) -> list[Check]:
        packs, here, opened = builtin_packs(), self.config.need().operator.jurisdiction, operator_law(self.home)
        if opened is not None:
            return law_checks(opened.law_set, packs, load_regions(), self.at, self.limits, "the operator")
        binding = [pack for pack in packs.values() if here in pack.jurisdictions]
        return [every_pack(here, binding), *(pack_check(p, self.at, self.limits, NEXT_PACK) for p in binding)]

    # --- the process and its doors ---

    def process(self, *, must: bool) -> list[Check]:
        """Whether the server runs. `must`: that it does not is a failure and no warning."""
        return examine("server", lambda: running(self.private.get(), must=must))

    def runs(self) -> bool:
        """Whether the private door answers. Raises Unmet if its port cannot be told."""
        return bool(self.private.need().answer)

    def _private_door(self) -> DoorFacts:
        ready = self.path / "flower" / "ready.json"
        if not ready.exists():
            return DoorFacts("", reached=False, error="never started")
        try:
            port = int(json.loads(read_bytes(ready, "the server's ports"))["private_port"])
        except (ValueError, KeyError, TypeError) as e:
            raise InputError(
                "RSD-7203", "flower/ready.json does not tell the private port", rule="the server writes it when it is"
                " ready", found=type(e).__name__, limit="private_port", next="start the server again",
            ) from e  # fmt: skip
        return doctor_facts.door(f"{_LOOPBACK}:{port}", tls_files(self.home.tls).ca)

    def doors(self) -> Iterator[Check]:
        """The three public doors, tried from this machine: they listen, or their ports are free."""
        yield from examine("fleet door", lambda: self._door("fleet door", self.config.need().server))
        yield from examine("governance door", lambda: self._door("governance door", self.config.need().governance))
        yield from examine("enrolment door", lambda: self._door("enrolment door", self.config.need().enrolment))

    def _door(self, name: str, address: str) -> Check:
        here = f"{_LOOPBACK}:{address.rpartition(':')[2]}"
        return door(name, doctor_facts.door(here, tls_files(self.home.tls).ca), runs=self.runs())

    # --- the machine ---

    def machine(self) -> Iterator[Check]:
        """Disk, memory, and the software beside this one."""
        yield from self.disk()
        yield from examine("memory", lambda: doctor.memory("memory", doctor_facts.available_memory(), self.limits))
        yield from examine("versions", lambda: flower(_flower_version()))
        yield from examine("superexec", _superexec)

    def disk(self) -> list[Check]:
        """Room for snapshots, rosters and the log."""
        return examine("disk", lambda: doctor.disk("disk", doctor_facts.free_bytes(self.path), self.limits))


def _flower_version() -> str:
    try:
        return importlib.metadata.version("flwr")
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _superexec() -> Check:
    from server.superexec import scripts_folder  # noqa: PLC0415

    program = scripts_folder() / "flower-superexec"
    if program.is_file():
        return Check("superexec", "ok", "flower-superexec is installed")
    return Check(
        "superexec", "fail", "no flower-superexec", str(program), "install the server's extra: residency[server]"
    )


# --- decisions ------------------------------------------------------------------------------------------------------


def key_agrees(trust: Trust, keyid: str) -> Check:
    """The trust file names this operator's key."""
    held = [k.keyid for k in trust.keys_of("operator", trust.operator.name) if k.revoked_at is None]
    if keyid in held:
        return Check("key in the trust file", "ok", keyid[:12])
    return Check(
        "key in the trust file", "fail", keyid[:12], ", ".join(k[:12] for k in held) or "no operator key",
        "restore the key that the trust file names; what another one signs, no site accepts",
    )  # fmt: skip


def every_pack(jurisdiction: str, binding: list[Pack]) -> Check:
    """What an operator without a law set of its own applies: every pack that binds its jurisdiction."""
    limit = f"a law pack that binds {jurisdiction}"
    if not binding:
        return Check("law set", "fail", "no pack binds this operator: everything is denied", limit, NEXT_PACK)
    return Check("law set", "ok", f"none adopted, so every pack applies: {', '.join(p.id for p in binding)}", limit)


def server_certificate(found: CertificateFacts, issued: bool, at: datetime, limits: Limits) -> Check:
    """The server's certificate: by the CA that the sites pin, and in date."""
    if not issued:
        return Check(
            "certificate", "fail", "not signed by tls/ca.crt", "the CA that the sites pin",
            "restore tls/ca.crt and tls/ca.key from the newest backup, then: residency consortium renew",
        )  # fmt: skip
    return doctor.key_period("certificate", found.not_before, found.not_after, at, limits.near_end, RENEW)


def running(private: DoorFacts, *, must: bool) -> Check:
    """Whether the private door answers on loopback, as it does from when the server is ready until it ends."""
    if private.answer:
        return Check("server", "ok", f"runs, its private door answers at {private.address}")
    state: doctor.State = "fail" if must or private.reached else "warn"
    return Check("server", state, f"no answer: {private.error}", "a running server", "residency server start")


def door(name: str, found: DoorFacts, *, runs: bool) -> Check:
    """A public door: of a running server it takes TLS (and wants a certificate), of a stopped one its port is free."""
    if found.untrusted:
        return Check(name, "fail", f"not trusted: {found.error}", "this home's CA, in date", RENEW)
    if runs and not found.reached:
        advice = "read the server's messages; it may listen on another address: --host"
        return Check(name, "fail", found.error, f"{found.address} answers", advice)
    if not runs and found.reached:
        advice = "stop the other program, or found the consortium with other ports"
        return Check(name, "fail", f"another program listens at {found.address}", "a free port", advice)
    return Check(name, "ok", f"{'listens' if runs else 'free'}: {found.address}")


def flower(installed: str) -> Check:
    """Flower in the one minor version whose private names are known."""
    found = f"residency {VERSION}, flwr {installed}"
    if installed.split(".")[:2] == FLOWER_VERSION.split("."):
        return Check("versions", "ok", found, f"flwr {FLOWER_VERSION}")
    return Check("versions", "fail", found, f"flwr {FLOWER_VERSION}", "install residency[server] with constraints.txt")

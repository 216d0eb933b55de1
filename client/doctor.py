"""What the agent's doctor looks at: keys, dates, the server, the machine, and whether an agent serves.

`client.doctor_stores` looks at what the site holds: data, studies, log and ledger.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from client import doctor_machine
from client.denial import denied
from client.home import AgentConfig, AgentHome, OpenLaw, OpenPolicy, missing_keys, packs
from client.standing import decided
from compliance import doctor, doctor_facts
from compliance.clock import now, parse_time
from compliance.doctor import Check, Fact, Limits, Unmet, examine
from compliance.doctor_law import law_checks
from compliance.errors import InputError
from compliance.files import read_bytes
from compliance.identity import PublicIdentity, Signer, load_public, read_signer
from compliance.law.regions import load_regions
from compliance.software import VERSION
from compliance.trust.root import Anchor, Trust, load_anchor

RENEW = "start the agent: it renews its certificate while the server answers; or: residency agent enroll --certificate"
NEXT_TRUST = "have the operator draft the next trust file and the sites sign it: residency consortium admit"


@dataclass(frozen=True)
class ServerFacts:
    """What the server said in one call: how far our clock is ahead of its, its version and its trust file."""

    skew_s: float
    version: str
    trust: str
    trust_version: int


@dataclass
class Doctor:
    """The checks of one agent's home. `ask` calls the server; tests pass another clock and other limits."""

    path: Path
    ask: Callable[[Path], ServerFacts]
    limits: Limits = field(default_factory=Limits)
    at: datetime = field(default_factory=now)

    def __post_init__(self) -> None:
        self.home = AgentHome(self.path)
        self.config: Fact[AgentConfig] = Fact("agent.json", lambda: self.home.config)
        # Unexpired or not: an expired trust file still tells who is who, and has a check of its own.
        self.anchor: Fact[Anchor] = Fact("trust.json", lambda: load_anchor(self.path / "trust.json"))
        self.signer: Fact[Signer] = Fact("keys/agent.key", lambda: read_signer(self.path / "keys" / "agent.key"))
        self.policy: Fact[OpenPolicy] = Fact("policy.json", self._open_policy)
        self.law: Fact[OpenLaw] = Fact("law.json", lambda: self.home.law(self.anchor.need(), self.policy.need().policy))
        self.server: Fact[ServerFacts] = Fact("the server", self._ask)

    def _open_policy(self) -> OpenPolicy:
        self.config.need()  # whose policy it must be
        return self.home.policy(self.anchor.need())

    def _ask(self) -> ServerFacts:
        self._need_keys("keys/node.key")
        return self.ask(self.path)

    def _need_keys(self, *names: str) -> None:
        """Raises Unmet for a key that is not there: the check of the keys says what to do."""
        lacking = [name for name in missing_keys(self.path) if name in names]
        if lacking:
            raise Unmet(f"needs {', '.join(lacking)}, which is missing: see keys")

    def standing(self) -> Iterator[Check]:
        """Keys, certificate, trust file, policy, and the law set that it names."""
        yield from examine("home", lambda: Check("home", "ok", f"{self.config.get().site}, {self.path.name}"))
        yield from self.keys()
        yield from examine("keys in the trust file", self._agreement)
        yield from examine("signing keys", self._periods)
        yield from self.certificate()
        yield from examine("CA", self._authority)
        yield from self.trust()
        yield from examine("policy", self._policy)
        yield from examine("law set", self._law)

    def keys(self) -> list[Check]:
        """That the private keys and secrets are there, and their owner's alone."""
        secret = ("keys/rows.secret",) if (self.path / "keys" / "rows.secret").exists() else ()
        names = ("keys/agent.key", "keys/node.key", *secret)
        return examine("keys", lambda: doctor.private_modes("keys", doctor_facts.modes(self.path, names)))

    def trust(self) -> list[Check]:
        """Until when the installed trust file holds."""
        return examine("trust file", self._trust)

    def _trust(self) -> Check:
        until = parse_time(self.anchor.get().trust.expires)
        return doctor.in_date("trust file", until, self.at, self.limits.near_end, NEXT_TRUST)

    def certificate(self) -> list[Check]:
        """Period and key of the certificate that the site shows at the server's doors."""
        return examine("certificate", self._certificate)

    def _certificate(self) -> Check:
        self._need_keys("keys/node.key")
        found = doctor_facts.certificate(self.path / "certs" / "site.crt")
        if found.public_key != _public_pem(self.path / "keys" / "node.key"):
            return Check(
                "certificate", "fail", "made for another key", "the key in keys/node.key",
                "restore the pair from one backup, or enrol again",
            )  # fmt: skip
        return doctor.key_period("certificate", found.not_before, found.not_after, self.at, self.limits.near_end, RENEW)

    def _authority(self) -> Check:
        found = doctor_facts.certificate(self.path / "ca.crt")
        advice = "ask the operator when the consortium's CA is renewed: every site then enrols again"
        return doctor.key_period("CA", found.not_before, found.not_after, self.at, self.limits.near_end, advice)

    def _agreement(self) -> Check:
        self._need_keys("keys/agent.key", "keys/node.key")
        own, trust = self.signer.get().identity, self.anchor.need().trust
        node = _public_pem(self.path / "keys" / "node.key").decode("ascii")
        people = tuple(load_public(self.path / "people" / f"{r}.pub.json") for r in ("signatory", "dpo"))
        return keys_agree(trust, self.config.need().site, own, node, people)

    def _periods(self) -> list[Check]:
        site, trust = self.config.need().site, self.anchor.need().trust
        keys = [k for k in trust.keys if k.holder == site and k.revoked_at is None]
        return [key_check(k, self.at, self.limits) for k in keys]

    def _policy(self) -> Check:
        until = parse_time(self.policy.get().policy.expires)
        advice = "have the signatory sign a new policy, then: residency agent enroll --policy FILE"
        return doctor.in_date("policy", until, self.at, self.limits.near_end, advice)

    def _law(self) -> list[Check]:
        return law_checks(self.law.get().law_set, packs(), load_regions(), self.at, self.limits, "the signatory")

    def connection(self) -> Iterator[Check]:
        """The server's doors, and what it says: time, version, trust file."""
        yield from self.doors()
        yield from self.clock()
        yield from examine("versions", lambda: doctor.versions("versions", VERSION, self.server.need().version))
        yield from examine("trust at the server", self._trust_there)

    def doors(self) -> list[Check]:
        """Whether both doors take this site's certificate."""
        return [*examine("server", self._door), *examine("governance", self._governance)]

    def clock(self) -> list[Check]:
        """This clock against the server's."""
        return examine("clock", lambda: doctor.clock("clock", self.server.need().skew_s, self.limits))

    def _door(self) -> Check:
        self._need_keys("keys/node.key")
        identity = (self.path / "certs" / "site.crt", self.path / "keys" / "node.key")
        return door("server", doctor_facts.door(self.config.need().server, self.path / "ca.crt", identity))

    def _governance(self) -> Check:
        found = self.server.get()
        return Check("governance", "ok", f"answers; trust file version {found.trust_version}")

    def _trust_there(self) -> Check:
        here, there = self.anchor.need(), self.server.need()
        return trust_agrees(here.trust.version, here.digest, there.trust_version, there.trust)

    def answers(self) -> list[Check]:
        """Signed answers that wait for the server."""
        return examine("answers", lambda: delivery(len(list((self.path / "outbox").glob("*.json")))))

    def machine(self) -> Iterator[Check]:
        """Disk, memory, accelerator, isolation."""
        yield from self.disk()
        yield from examine("memory", lambda: doctor.memory("memory", doctor_facts.available_memory(), self.limits))
        yield from examine("accelerator", lambda: doctor_machine.accelerator(doctor_machine.accelerator_facts()))
        yield from examine("isolation", doctor_machine.isolation_check)

    def disk(self) -> list[Check]:
        """Room for the next round."""
        return examine("disk", lambda: doctor.disk("disk", doctor_facts.free_bytes(self.path), self.limits))

    def process(self, *, must: bool) -> list[Check]:
        """Whether an agent runs on this home. `must`: that none does is a failure and no warning."""
        return examine("agent", lambda: running(doctor_facts.lock_holder(self.path / "agent.lock"), must=must))


# --- decisions ------------------------------------------------------------------------------------------------------


def keys_agree(
    trust: Trust, site: str, own: PublicIdentity, node_pem: str, people: tuple[PublicIdentity, ...]
) -> Check:
    """The trust file names this agent's key, its node key, and the signatory and DPO that it was enrolled with."""
    name, members = "keys in the trust file", {s.name: s for s in trust.sites}
    if site not in members:
        return Check(name, "fail", f"{site} is no member", ", ".join(sorted(members)), "ask the operator to admit it")
    held = {k.keyid for k in trust.keys if k.holder == site and k.revoked_at is None}
    wrong = [f"{k.role} {k.keyid[:12]}" for k in (own, *people) if k.keyid not in held]
    if members[site].node_key.strip() != node_pem.strip():
        wrong.append("node key")
    if wrong:
        return Check(
            name, "fail", f"not named: {', '.join(wrong)}", f"the keys of {site} in version {trust.version}",
            "install the trust file that names them, or restore the keys that it names",
        )  # fmt: skip
    return Check(name, "ok", f"agent {own.keyid[:12]}, node key and {len(people)} people agree")


def key_check(key: PublicIdentity, at: datetime, limits: Limits) -> Check:
    """The period of one signing key of this site."""
    advice = f"have a new {key.role} key admitted to the trust file before this one ends"
    start, end = parse_time(key.not_before), parse_time(key.not_after)
    return doctor.key_period(f"{key.role} key", start, end, at, limits.near_end, advice)


def door(name: str, found: doctor_facts.DoorFacts) -> Check:
    """The training door of the server, tried with this site's certificate."""
    limit = f"{found.address} answers over TLS"
    if found.answer:
        return Check(name, "ok", f"{found.address} answers", limit)
    if found.untrusted:
        advice = "ask the operator whether the server's certificate ended or the CA changed; check this clock"
        return Check(name, "fail", f"not trusted: {found.error}", "a certificate of the pinned CA, in date", advice)
    if found.reached:
        advice = "see the check of the certificate; ask the operator whether this site is suspended"
        return Check(name, "fail", f"refused this site: {found.error}", limit, advice)
    return Check(name, "fail", found.error, limit, "check address, route and firewall; ask whether the server runs")


def trust_agrees(own: int, own_digest: str, server: int, server_digest: str) -> Check:
    """The trust file here and at the server: a kit that fell behind looks healthy from inside for weeks."""
    name, limit = "trust at the server", f"version {server}"
    if own_digest == server_digest:
        return Check(name, "ok", f"version {own}", limit)
    if own < server:
        return Check(
            name, "warn", f"version {own} here", limit,
            "have this site's signatory sign version by version; the agent installs what its signatory signed",
        )  # fmt: skip
    return Check(
        name, "fail", f"version {own}, {own_digest[:12]}", f"version {server}, {server_digest[:12]}",
        "ask the other sites, outside this channel, which trust file is right",
    )  # fmt: skip


def delivery(waiting: int) -> Check:
    """Signed answers on their way to the operator."""
    if not waiting:
        return Check("answers", "ok", "none waits")
    advice = "let the agent run while the server answers: it delivers them"
    return Check("answers", "warn", f"{waiting} wait for the server", "every answer delivered", advice)


def running(process: int | None, *, must: bool) -> Check:
    """Whether an agent holds the home. A lock file that nobody holds is no trouble: the system frees locks."""
    if process is not None:
        return Check("agent", "ok", f"runs as process {process}", "one agent")
    return Check(
        "agent", "fail" if must else "warn", "no agent runs on this home", "one agent", "residency agent start"
    )


def _public_pem(path: Path) -> bytes:
    try:
        key = load_pem_private_key(read_bytes(path, "the node key"), None)
    except (ValueError, TypeError) as e:
        raise InputError(
            "RSD-7201", f"{path.name} is no private key", rule="PEM, PKCS 8", found=type(e).__name__,
            limit="the key made at enrolment", next="restore the key from the newest backup of this home",
        ) from e  # fmt: skip
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def ask_server(path: Path) -> ServerFacts:
    """One Status call, as this site, if its rules let its version out; not logged, for a doctor changes nothing.

    Raises Refused RSD-3100, and PeerUnreachable, Refused or InputError as reading the rules and the call do.
    """
    from client.governance import GovernanceClient  # noqa: PLC0415 - loads gRPC

    home = AgentHome(path)
    decision = decided(home, home.anchor(), "conformance_report")
    if not decision.allow:
        raise denied(decision)
    with GovernanceClient.of(home) as client:
        before = time.time()
        reply = client.status()
        middle = (before + time.time()) / 2
    there = parse_time(reply.at).timestamp() + 0.5  # whole seconds: half of one is lost on the average
    return ServerFacts(middle - there, reply.version, reply.trust, reply.trust_version)

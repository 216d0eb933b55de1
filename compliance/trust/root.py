"""trust.json: who may sign what, and when, in the manner of a TUF root (TUF specification 1.0, section 5.3).

The file is a statement signed by at least `threshold` different sites (their signatory keys). A successor must carry
the threshold of its predecessor as well. The operator alone admits, replaces or revokes nobody.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, model_validator

from compliance.canonical import Json, parse_canonical
from compliance.clock import now, parse_time, rfc3339, time_or_none
from compliance.errors import CheckFailed, InputError, Refused
from compliance.files import read_bytes
from compliance.identity import Envelope, PublicIdentity, Role, media_type, parse_envelope
from compliance.law.model import Party
from compliance.training_spec import Frozen
from compliance.validation import load_model

NAME = r"^[a-z0-9][a-z0-9-]{0,62}$"
SCHEMA = "residency.trust/1"
_SITE_ROLES: Final = ("agent", "signatory", "dpo")
CLOCK_SLACK: Final = timedelta(minutes=5)  # how far ahead of ours the clock of a signer may be


class Member(Frozen):
    """A site, or the operator. `node_key` is the site's P-384 public key for Flower's node authentication (PEM)."""

    name: str = Field(pattern=NAME)
    jurisdiction: str = Field(pattern=r"^[A-Z]{2}$")
    node_key: str = ""


class Trust(Frozen):
    """The verified content of trust.json.

    `witnesses`: the outside witnesses as recipients of checkpoints; one that was admitted before this was asked for has
    a key and no place here, and nothing is shown to it.
    """

    schema_: Literal["residency.trust/1"] = Field(alias="schema")
    consortium: str = Field(pattern=NAME)
    version: int = Field(ge=1)
    previous: str = Field(default="", description="digest of the version before, empty for the first")
    issued: str
    expires: str
    threshold: int = Field(ge=1)
    operator: Member
    sites: tuple[Member, ...] = Field(min_length=1)
    keys: tuple[PublicIdentity, ...]
    witnesses: tuple[Party, ...] = Field(default=(), max_length=1000)

    @model_validator(mode="after")
    def _coherent(self) -> Trust:
        names = [s.name for s in self.sites]
        if len(set(names)) != len(names) or self.operator.name in names:
            raise ValueError("a member is listed twice")
        if self.threshold > len(names):
            raise ValueError(f"threshold {self.threshold} is above the {len(names)} sites")
        keyids = [k.keyid for k in self.keys]
        if len(set(keyids)) != len(keyids):
            raise ValueError("one key is listed twice: each role needs a key of its own")
        issued, expires = time_or_none(self.issued), time_or_none(self.expires)
        if issued is None or expires is None or expires <= issued:
            raise ValueError(f"expires {self.expires} is not after issued {self.issued}")
        for key in self.keys:
            listed = key.role == "witness" or key.holder in self._may_hold(key.role, names)
            if not listed and not self._of_a_former_site(key, issued):
                raise ValueError(f"the {key.role} key {key.keyid[:12]} belongs to {key.holder}, who may not hold one")
        self._check_witnesses()
        return self

    def _check_witnesses(self) -> None:
        names = [w.name for w in self.witnesses]
        if len(set(names)) != len(names):
            raise ValueError("a witness is listed twice")
        for name in set(names) - {k.holder for k in self.keys_of("witness")}:
            raise ValueError(f"{name} is listed as a witness and holds no witness key")
        places = {m.name: m.jurisdiction for m in (self.operator, *self.sites)}
        for witness in self.witnesses:
            if witness.jurisdiction != places.get(witness.name, witness.jurisdiction):
                raise ValueError(f"{witness.name} is in two jurisdictions, as a member and as a witness")
            if witness.name in places and (witness.access or witness.covered_person):
                raise ValueError(f"{witness.name} is a member: who reaches it stands in the study, not here")

    def _of_a_former_site(self, key: PublicIdentity, issued: datetime) -> bool:
        """A site that left keeps its keys here, ended: they still hold for what they signed, and count for nothing."""
        ended = time_or_none(key.revoked_at)
        return key.holder != self.operator.name and key.role in _SITE_ROLES and ended is not None and ended <= issued

    def _may_hold(self, role: Role, sites: list[str]) -> list[str]:
        """Signatories and DPOs belong to sites alone: an operator's key must never count towards the threshold."""
        if role == "operator":
            return [self.operator.name]
        return sites if role in ("signatory", "dpo") else [*sites, self.operator.name]

    def as_json(self) -> dict[str, Json]:
        """JSON form, with `schema` under its public name; without `witnesses` where there are none, as it once was."""
        return self.model_dump(mode="json", by_alias=True, exclude=None if self.witnesses else {"witnesses"})

    def site(self, name: str) -> Member:
        """The site called `name`. Raises InputError RSD-6010."""
        for s in self.sites:
            if s.name == name:
                return s
        raise InputError(
            "RSD-6010",
            f"{name} is no site of consortium {self.consortium}",
            found=name,
            limit=", ".join(s.name for s in self.sites),
            next="admit the site first: residency consortium admit",
        )

    def member(self, name: str) -> Member:
        """The operator, if it is called `name`, or that site. Raises InputError RSD-6010."""
        return self.operator if name == self.operator.name else self.site(name)

    def keys_of(self, role: Role, holder: str | None = None) -> list[PublicIdentity]:
        """Keys in this role, of this holder if given."""
        return [k for k in self.keys if k.role == role and (holder is None or k.holder == holder)]

    def log_origin(self, name: str) -> str:
        """C2SP origin of the log of a member."""
        return log_origin(self.consortium, name)

    def witness_name(self, name: str) -> str:
        """Name under which a member cosigns the others' checkpoints, with its agent (or operator) key."""
        return f"residency/{self.consortium}/{name}/witness"

    def log_key(self, name: str, at: datetime | None = None) -> PublicIdentity:
        """The key that signs and cosigns for a member's log `at` that time (default: now): agent or operator key.

        Of several that are unrevoked and in their period then, the one that came last. Raises InputError RSD-6010.
        """
        role: Role = "operator" if name == self.operator.name else "agent"
        when = at or now()
        valid = [k for k in self.keys_of(role, name) if k.may_sign_at(when)]
        if not valid:
            raise InputError(
                "RSD-6010",
                f"{name} has no valid {role} key in the trust file",
                rule=f"trust version {self.version}",
                found=f"{len(self.keys_of(role, name))} {role} keys of {name}, none valid {rfc3339(when)}",
                limit=f"an unrevoked {role} key in its period",
                next="enrol the member again, and install the next trust file",
            )
        return max(valid, key=lambda k: (parse_time(k.not_before), k.keyid))


def log_origin(consortium: str, name: str) -> str:
    """C2SP origin of the log of a member, also before there is a trust file."""
    return f"residency/{consortium}/{name}"


@dataclass(frozen=True)
class Statement:
    """A statement whose signatures were verified: the payload and who signed it."""

    payload: Json
    digest: str
    signers: tuple[PublicIdentity, ...]


@dataclass(frozen=True)
class Anchor:
    """A trust file that carries its threshold of signatures, with its digest."""

    trust: Trust
    digest: str
    envelope: Envelope

    def statement(
        self,
        data: bytes,
        schema: str,
        what: str,
        *,
        role: Role,
        holder: str | None,
        at: datetime,
        seen_at: datetime | None = None,
    ) -> Statement:
        """Open a statement of this `schema` that a `role` key (of `holder`, if given), valid at `at`, signed.

        `at` is what the signer claims. Whoever sees the statement for the first time gives `seen_at`: then the key must
        be valid at that time too, or a key revoked since could backdate, and `at` must not lie ahead of it. Raises
        CheckFailed RSD-6006 (bad signature), RSD-6011 (nobody entitled signed), Refused RSD-2211 (dated in the future)
        or InputError (malformed).
        """
        envelope = parse_envelope(data, what)
        if envelope.payload_type != media_type(schema):
            raise CheckFailed(
                "RSD-6012",
                f"{what} is another kind of statement",
                found=envelope.payload_type,
                limit=media_type(schema),
            )
        if seen_at is not None and at > seen_at + CLOCK_SLACK:
            raise Refused(
                "RSD-2211",
                f"{what} is dated in the future",
                rule=f"a statement is at most {CLOCK_SLACK.seconds // 60} minutes ahead of whoever sees it",
                found=rfc3339(at),
                limit=rfc3339(seen_at),
                next="have it signed again; if a clock is wrong, set it",
            )
        good = [k for k in self.signers(envelope, role, holder, at) if seen_at is None or k.may_sign_at(seen_at)]
        if not good:
            when = rfc3339(at) if seen_at is None else f"{rfc3339(at)} and {rfc3339(seen_at)}"
            raise CheckFailed(
                "RSD-6011",
                f"nobody entitled signed {what}",
                rule=f"trust version {self.trust.version}: a {role} key of {holder or 'a member'}, valid {when}",
                found=", ".join(k[:12] for k, _ in envelope.signatures) or "no signature",
                limit=", ".join(k.keyid[:12] for k in self.trust.keys_of(role, holder)) or "no such key",
                next="have the right person sign it, with the key that stands in trust.json",
            )
        return Statement(parse_canonical(envelope.payload, what), envelope.digest, tuple(good))

    def signers(self, envelope: Envelope, role: Role, holder: str | None, at: datetime) -> list[PublicIdentity]:
        """Identities in this role whose signature on `envelope` verifies and whose period covers `at`."""
        candidates = [k for k in self.trust.keys_of(role, holder) if k.may_sign_at(at)]
        good = envelope.valid_keyids({k.keyid: k.key() for k in candidates})
        return [k for k in candidates if k.keyid in good]


def signing_sites(trust: Trust, envelope: Envelope, judges: Trust) -> set[str]:
    """Sites of `judges` whose signatory key signed `envelope`, judged at the time it was issued."""
    at = parse_time(trust.issued)
    keys = {k.keyid: k for k in judges.keys_of("signatory") if k.may_sign_at(at)}
    return {keys[i].holder for i in envelope.valid_keyids({i: k.key() for i, k in keys.items()})}


def parse_trust(data: bytes, what: str) -> tuple[Trust, Envelope]:
    """Parse without judging signatures. Raises InputError RSD-6001."""
    envelope = parse_envelope(data, what)
    if envelope.payload_type != media_type(SCHEMA):
        raise InputError("RSD-6001", f"{what} is no trust file", found=envelope.payload_type, limit=media_type(SCHEMA))
    return load_model(Trust, parse_canonical(envelope.payload, what), "RSD-6001", what), envelope


def open_trust(data: bytes, what: str, at: datetime | None = None) -> Anchor:
    """Parse and insist on the threshold; with `at`, also on not being expired then.

    Raises CheckFailed RSD-6002 (too few signatures) or Refused RSD-6013 (expired).
    """
    trust, envelope = parse_trust(data, what)
    signed = signing_sites(trust, envelope, trust)
    if len(signed) < trust.threshold:
        raise CheckFailed(
            "RSD-6002",
            f"{what} is not signed by enough sites",
            rule=f"{trust.threshold} of {len(trust.sites)} sites",
            found=f"{len(signed)} ({', '.join(sorted(signed)) or 'none'})",
            limit=trust.threshold,
            next="have more signatories run: residency consortium sign",
        )
    if at is not None and at > parse_time(trust.expires):
        raise Refused(
            "RSD-6013", f"{what} has expired", rule="trust expiry", found=rfc3339(at), limit=trust.expires,
            next="issue the next version of the trust file",
        )  # fmt: skip
    return Anchor(trust, envelope.digest, envelope)


def load_anchor(path: Path, at: datetime | None = None) -> Anchor:
    """Read and open a trust file."""
    return open_trust(read_bytes(path, "trust file"), str(path), at)


def check_successor(old: Anchor, new: Anchor) -> None:
    """A new version follows the old one and carries the old threshold too. Raises Refused RSD-6014."""
    signed = signing_sites(new.trust, new.envelope, old.trust)
    # Keys are judged at `issued`: a new version dated before the old one would bring back keys that have ended.
    backdated = parse_time(new.trust.issued) < parse_time(old.trust.issued)
    problems: Iterable[tuple[bool, str, object, object]] = (
        (new.trust.consortium != old.trust.consortium, "consortium", new.trust.consortium, old.trust.consortium),
        (new.trust.version != old.trust.version + 1, "version", new.trust.version, old.trust.version + 1),
        (backdated, "issued", new.trust.issued, old.trust.issued),
        (new.trust.previous != old.digest, "previous", new.trust.previous[:12], old.digest[:12]),
        (len(signed) < old.trust.threshold, "sites of the old version that signed", len(signed), old.trust.threshold),
    )
    for wrong, what, found, limit in problems:
        if wrong:
            raise Refused(
                "RSD-6014",
                f"this trust file does not follow version {old.trust.version}: {what}",
                rule="TUF 5.3: a root is replaced only by its own threshold",
                found=found,
                limit=limit,
                next="ask the other sites, outside this channel, which trust file is right",
            )

"""Who may cosign a member's log, by which name and key, which of them are neutral, and where the outside ones are."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from compliance.clock import parse_time, rfc3339
from compliance.errors import Refused
from compliance.identity import PublicIdentity, Role
from compliance.law.model import Party, Transfer
from compliance.log.cosign import WitnessKey
from compliance.trust.root import Trust

NOWHERE: Final = "ZZ"  # assigned to no country: the engine denies what would go there


def witness_keys(trust: Trust, logging: str, at: datetime) -> dict[str, tuple[WitnessKey, ...]]:
    """Who may cosign the log of `logging`: every other member under its witness name, with the keys of its own log, and
    witnesses (role `witness`) under their holder's name. Never the log's owner, in whatever role. All keys valid `at`.
    """
    return _by_name((name, k) for name, k in _named(trust, logging) if k.may_sign_at(at))


def keys_until(trust: Trust, logging: str, at: datetime) -> dict[str, tuple[WitnessKey, ...]]:
    """As `witness_keys`, with the keys that had ended by `at`: what they cosigned in their period still counts."""
    return _by_name((name, k) for name, k in _named(trust, logging) if parse_time(k.not_before) <= at)


def keys_ever(trust: Trust, logging: str) -> dict[str, tuple[Ed25519PublicKey, ...]]:
    """Who may at some time have cosigned the log of `logging`: name -> its keys, those that ended too."""
    return {name: tuple(k.key for k in keys) for name, keys in _by_name(_named(trust, logging)).items()}


def outside_keys(trust: Trust, at: datetime) -> dict[str, tuple[WitnessKey, ...]]:
    """The witnesses of the trust file that are no members as such: holder -> its keys, all those valid `at`."""
    return _by_name((k.holder, k) for k in trust.keys_of("witness") if k.may_sign_at(at))


def outside_party(trust: Trust, holder: str) -> Party:
    """The holder of a witness's key as a recipient: where the trust file says that it is, else in NOWHERE."""
    known = {m.name: Party(name=m.name, jurisdiction=m.jurisdiction) for m in (trust.operator, *trust.sites)}
    known |= {w.name: w for w in trust.witnesses}
    return known.get(holder) or Party(name=holder, jurisdiction=NOWHERE)


def check_outside(trust: Trust, holder: str, at: datetime) -> None:
    """Returns if `holder` is a witness of the trust file, with a key valid `at`. Raises Refused RSD-5110."""
    known = outside_keys(trust, at)
    if holder not in known:
        raise Refused(
            "RSD-5110",
            f"{holder} is no witness of the consortium",
            rule="a witness is who stands in the trust file, with a key that is valid now",
            found=holder,
            limit=", ".join(sorted(known)) or "no witness in the trust file",
            next="have it admitted, or leave it out: residency consortium admit --witness FILE --jurisdiction CODE",
        )


def shown_to(trust: Trust, member: str, holder: str, at: datetime) -> Transfer:
    """What would leave outside of a run: a checkpoint of `member`, to an outside witness. Raises Refused RSD-5110."""
    check_outside(trust, holder, at)
    where = trust.member(member).jurisdiction
    return Transfer(
        artifact="log_checkpoint",
        exporter=Party(name=member, jurisdiction=where),
        recipient=outside_party(trust, holder),
        purpose="audit",
        study="",
        at=rfc3339(at),
    )


def placed(denial: Refused, recipient: Party) -> Refused:
    """A denial about a witness; where nobody signed which country that is in, with the way to have it signed."""
    if recipient.jurisdiction != NOWHERE:
        return denial
    changed = {
        "found": f"no jurisdiction of {recipient.name} in the trust file",
        "next": "admit it again: residency consortium admit --witness FILE --jurisdiction CODE; then the sites sign",
    }
    return Refused(**(denial.as_json() | changed))


def members(trust: Trust) -> list[str]:
    """The operator and every site."""
    return [trust.operator.name, *(s.name for s in trust.sites)]


def owners(trust: Trust) -> dict[str, str]:
    """Origin of each member's log -> the member."""
    return {trust.log_origin(m): m for m in members(trust)}


def log_role(trust: Trust, member: str) -> Role:
    """The role of the key that signs a member's log."""
    return "operator" if member == trust.operator.name else "agent"


def holders(trust: Trust, names: Iterable[str]) -> set[str]:
    """The holders of the keys that cosign under `names`; somebody with two names is one."""
    by_name = {trust.witness_name(m): m for m in _members_ever(trust)}
    return {by_name.get(name, name) for name in names}


def neutral(trust: Trust, member: str, names: Iterable[str]) -> set[str]:
    """Of those who cosign under `names`: who is neither the owner of the log of `member` nor the operator."""
    return holders(trust, names) - {member, trust.operator.name}


def _named(trust: Trust, logging: str) -> list[tuple[str, PublicIdentity]]:
    named = [(k.holder, k) for k in trust.keys_of("witness") if k.holder != logging]
    for member in (m for m in _members_ever(trust) if m != logging):
        named += [(trust.witness_name(member), k) for k in trust.keys_of(log_role(trust, member), member)]
    return named


def _members_ever(trust: Trust) -> list[str]:
    """The members, and the sites that left: their keys have ended, and what they cosigned before stays cosigned."""
    return list(dict.fromkeys((*members(trust), *(k.holder for k in trust.keys if k.role == "agent"))))


def _by_name(named: Iterable[tuple[str, PublicIdentity]]) -> dict[str, tuple[WitnessKey, ...]]:
    keys: dict[str, tuple[WitnessKey, ...]] = {}
    for name, identity in named:
        keys[name] = (*keys.get(name, ()), _with_period(identity))
    return keys


def _with_period(identity: PublicIdentity) -> WitnessKey:
    """The seconds at which the key `may_sign_at`: its last one counts, that of its revocation does not."""
    start, last = (int(parse_time(t).timestamp()) for t in (identity.not_before, identity.not_after))
    revoked = identity.revoked_at
    end = min(last + 1, int(parse_time(revoked).timestamp())) if revoked is not None else last + 1
    return WitnessKey(identity.key(), start, end)

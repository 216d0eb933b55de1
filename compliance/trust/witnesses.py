"""Who may cosign a member's log, by which name and key, and which of them are neutral."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from compliance.identity import Role
from compliance.trust.root import Trust


def witness_keys(trust: Trust, logging: str, at: datetime) -> dict[str, Ed25519PublicKey]:
    """Who may cosign the log of `logging`: every other member under its witness name, with the key of its own log, and
    witnesses (role `witness`) under their holder's name. Never the log's owner, in whatever role. Keys valid `at`.
    """
    others = [m for m in members(trust) if m != logging]
    with_key = [m for m in others if any(k.may_sign_at(at) for k in trust.keys_of(log_role(trust, m), m))]
    outside = {name: key for name, key in outside_keys(trust, at).items() if name != logging}
    return outside | {trust.witness_name(m): trust.log_key(m, at).key() for m in with_key}


def keys_ever(trust: Trust, logging: str) -> dict[str, tuple[Ed25519PublicKey, ...]]:
    """Who may at some time have cosigned the log of `logging`: name -> its keys, those that ended too."""
    named = [(k.holder, k) for k in trust.keys_of("witness") if k.holder != logging]
    for member in (m for m in members(trust) if m != logging):
        named += [(trust.witness_name(member), k) for k in trust.keys_of(log_role(trust, member), member)]
    return {name: tuple(k.key() for other, k in named if other == name) for name, _ in named}


def outside_keys(trust: Trust, at: datetime) -> dict[str, Ed25519PublicKey]:
    """The witnesses of the trust file that are no members as such: holder -> key, those valid `at`."""
    return {k.holder: k.key() for k in trust.keys_of("witness") if k.may_sign_at(at)}


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
    by_name = {trust.witness_name(m): m for m in members(trust)}
    return {by_name.get(name, name) for name in names}


def neutral(trust: Trust, member: str, names: Iterable[str]) -> set[str]:
    """Of those who cosign under `names`: who is neither the owner of the log of `member` nor the operator."""
    return holders(trust, names) - {member, trust.operator.name}

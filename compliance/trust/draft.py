"""The next version of the trust file, drafted from the one before and from who asks. Decisions only, no files."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from compliance.canonical import Json
from compliance.clock import now, rfc3339
from compliance.errors import Refused
from compliance.identity import Envelope, PublicIdentity, seal
from compliance.law.model import Party
from compliance.trust.consortium import Consortium
from compliance.trust.enrol import EnrolmentRequest
from compliance.trust.root import SCHEMA, Anchor, Member, Trust
from compliance.validation import load_model


class NewWitness(NamedTuple):
    """An outside witness that is to be named: its key, and where it is and can be reached as a recipient."""

    key: PublicIdentity
    party: Party


def draft_trust(
    config: Consortium,
    operator: PublicIdentity,
    requests: Sequence[EnrolmentRequest],
    previous: Anchor | None,
    expires: str,
    leaving: str = "",
    witnesses: Sequence[NewWitness] = (),
) -> Envelope:
    """The unsigned next version of the trust file: members before plus those who ask, in order of their names.

    Another key of one of `witnesses` ends now. A site that is enrolled again gets its new keys; its old ones end now,
    and still hold for what they signed. The site called `leaving` is left out; all its keys end now, and stay in the
    file for what they signed. Raises Refused RSD-6017 (fewer sites than the threshold), RSD-5110 (a witness's key that
    was revoked), InputError RSD-6001.
    """
    issued = now()
    _check_not_revived(witnesses, previous)
    joining = {r.site: Member(name=r.site, jurisdiction=r.jurisdiction, node_key=r.node_key) for r in requests}
    sites = {**({s.name: s for s in previous.trust.sites} if previous else {}), **joining}
    sites.pop(leaving, None)
    if len(sites) < config.threshold:
        raise Refused(
            "RSD-6017",
            "fewer sites than signatures needed",
            rule=f"threshold {config.threshold} of consortium {config.name}",
            found=f"{len(sites)} sites",
            limit=f"{config.threshold} sites",
            next="collect the requests of more sites and admit them together",
        )
    named = (operator, *(w.key for w in witnesses))
    record = {
        "schema": SCHEMA,
        "consortium": config.name,
        "version": previous.trust.version + 1 if previous else 1,
        "previous": previous.digest if previous else "",
        "issued": rfc3339(issued),
        "expires": expires,
        "threshold": config.threshold,
        "operator": {**config.operator.model_dump(mode="json"), "node_key": ""},
        "sites": [sites[name].model_dump(mode="json") for name in sorted(sites)],
        "keys": [k.as_json() for k in _keys(named, requests, previous, issued, leaving)],
        "witnesses": _parties(witnesses, previous),
    }
    return seal(load_model(Trust, record, "RSD-6001", "draft").as_json())


def _check_not_revived(witnesses: Sequence[NewWitness], previous: Anchor | None) -> None:
    ended = {k.keyid: k.revoked_at for k in (previous.trust.keys if previous else ()) if k.revoked_at is not None}
    for key in (w.key for w in witnesses if w.key.keyid in ended):
        raise Refused(
            "RSD-5110",
            f"this key of {key.holder} was revoked",
            rule="a key that ended does not come back",
            found=f"key {key.keyid[:12]}, revoked {ended[key.keyid]}",
            limit="a key that the trust file does not list as revoked",
            next="have a new one made: residency log witness init",
        )


def _parties(named: Sequence[NewWitness], previous: Anchor | None) -> list[Json]:
    """Where the witnesses are, those that left too: what was decided about them is read later."""
    parties = {w.name: w for w in (*(previous.trust.witnesses if previous else ()), *(w.party for w in named))}
    return [parties[name].model_dump(mode="json") for name in sorted(parties)]


def _keys(
    named: Sequence[PublicIdentity],
    requests: Sequence[EnrolmentRequest],
    previous: Anchor | None,
    issued: datetime,
    leaving: str,
) -> list[PublicIdentity]:
    fresh = {k.keyid: k for k in (*named, *(k for r in requests for k in r.keys))}
    replaced = {(k.holder, k.role == "witness") for k in fresh.values()}
    kept = []
    for key in previous.trust.keys if previous else ():
        if key.keyid in fresh:
            continue
        ends = (key.holder, key.role == "witness") in replaced or key.holder == leaving
        over = ends and key.revoked_at is None
        kept.append(key.model_copy(update={"revoked_at": rfc3339(issued)}) if over else key)
    return sorted((*fresh.values(), *kept), key=lambda k: (k.holder, k.role, k.keyid))

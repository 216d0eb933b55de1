"""A site's law set: drafted from the packs that bind its jurisdiction, advised on by the DPO, adopted by the signatory.

An adoption counts if a signatory of the site itself signed it, with a key that was valid when it says so and is valid
when it is acted on, with the DPO's advice on just this set or with a reason. The operator adopts its own with its own
key; it has no DPO, so always with a reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from compliance.answers import OpenedAdvice, open_advice
from compliance.canonical import Json, parse_canonical, parse_json
from compliance.clock import parse_time, rfc3339
from compliance.errors import InputError, Refused
from compliance.identity import Role, media_type, parse_envelope
from compliance.law.law_set import ADOPTION, SCHEMA, AdoptedPack, Adoption, LawSet
from compliance.law.pack import Pack
from compliance.law.regions import Regions
from compliance.trust.root import Anchor, Member
from compliance.validation import load_model


@dataclass(frozen=True)
class OpenAdoption:
    """A verified adoption; `digest` is that of the signed statement, `law_set.digest` that of the set."""

    adoption: Adoption
    digest: str

    @property
    def law_set(self) -> LawSet:
        """What was adopted."""
        return self.adoption.law_set


def draft_law_set(
    site: str, jurisdiction: str, packs: Mapping[str, Pack], regions: Regions, not_binding: Mapping[str, str]
) -> LawSet:
    """All packs that bind `jurisdiction`, but those in `not_binding` (id -> reason), which name whom they bind.

    Raises InputError RSD-2105 (no pack binds), RSD-3030 (malformed), Refused RSD-3035 (an id that may not be left out).
    """
    binding = {name: pack for name, pack in packs.items() if jurisdiction in pack.jurisdictions}
    load_model(Member, {"name": site, "jurisdiction": jurisdiction}, "RSD-3030", "the law set's site")
    if not binding:
        raise InputError(
            "RSD-2105",
            f"no built-in law pack binds {jurisdiction}",
            rule="a law set adopts at least one law pack",
            found=jurisdiction,
            limit=", ".join(sorted({j for pack in packs.values() for j in pack.jurisdictions})),
            next="write a pack for this jurisdiction with counsel; without one every transfer is denied",
        )
    for name in not_binding:
        _may_be_left_out(name, binding)
    adopted = [AdoptedPack(id=n, sha256=p.digest) for n, p in sorted(binding.items()) if n not in not_binding]
    record = {
        "schema": SCHEMA,
        "site": site,
        "jurisdiction": jurisdiction,
        "regions": regions.digest,
        "packs": [p.model_dump() for p in adopted],
        "not_binding": [{"id": n, "reason": r} for n, r in sorted(not_binding.items())],
    }
    return load_model(LawSet, record, "RSD-3030", "the law set")


def _may_be_left_out(name: str, binding: Mapping[str, Pack]) -> None:
    pack = binding.get(name)
    if pack is None or pack.binds != "declared":
        found = "it binds nobody in this jurisdiction" if pack is None else "it binds everybody in this jurisdiction"
        raise Refused(
            "RSD-3035",
            f"pack {name} cannot be declared as not binding",
            rule="only a pack that binds certain bodies, and says which, may be declared as not binding",
            found=found,
            limit=", ".join(sorted(n for n, p in binding.items() if p.binds == "declared")) or "no pack",
            next=f"leave --not-binding {name} out",
        )


def read_law_set(data: bytes, what: str) -> LawSet:
    """The set that `law init` wrote. Raises InputError RSD-2002 or RSD-3030."""
    return load_model(LawSet, parse_json(data, what), "RSD-3030", what)


def read_adoption(data: bytes, what: str) -> Adoption:
    """A signed adoption whose signature is not judged. Raises InputError RSD-2002 or RSD-3030."""
    envelope = parse_envelope(data, what)
    if envelope.payload_type != media_type(ADOPTION):
        raise _malformed(f"{what} is no adoption of a law set", envelope.payload_type, media_type(ADOPTION))
    return load_model(Adoption, parse_canonical(envelope.payload, what), "RSD-3030", what)


def open_adoption(anchor: Anchor, data: bytes, what: str, site: str, seen_at: datetime | None = None) -> OpenAdoption:
    """The adoption that a signatory of `site` (or the operator, if it is that) signed, judged at its own time.

    If given, it is judged at `seen_at` too.

    Raises CheckFailed RSD-6011 (nobody entitled signed), InputError RSD-3030, Refused RSD-3031 (of another site) or
    RSD-2211 (dated in the future).
    """
    adoption = read_adoption(data, what)
    at = parse_time(adoption.at)
    role: Role = "operator" if site == anchor.trust.operator.name else "signatory"
    found = anchor.statement(data, ADOPTION, what, role=role, holder=site, at=at, seen_at=seen_at)
    if adoption.site != site:
        raise _another("site", adoption.site, site)
    return OpenAdoption(adoption, found.digest)


def check_jurisdiction(law_set: LawSet, jurisdiction: str) -> None:
    """The set is for the jurisdiction in which the site is. Raises Refused RSD-3031."""
    if law_set.jurisdiction != jurisdiction:
        raise _another("jurisdiction", law_set.jurisdiction, jurisdiction)


def check_named(law_set: LawSet, named: str) -> None:
    """The policy names this set. Raises Refused RSD-3033."""
    if law_set.digest != named:
        raise Refused(
            "RSD-3033",
            "the site policy names another law set than the one that was adopted",
            rule="an approval binds the policy, and the policy its law set",
            found=law_set.digest[:12],
            limit=named[:12],
            next="install the law set that the policy names, or have a policy signed for this one: policy init --law",
        )


def check_advised(
    anchor: Anchor, opened: OpenAdoption, advice: bytes, what: str, seen_at: datetime | None = None
) -> OpenedAdvice | None:
    """The advice that the adoption names was before the signatory; None if it was adopted without, with a reason.

    Raises Refused RSD-2202 (not that advice), RSD-2203 (against it without a reason) or what `open_advice` raises.
    """
    adoption = opened.adoption
    if not adoption.advice:
        if advice:
            raise _no_advice(adoption, f"{what}: advice that the adoption does not name")
        return None
    if not advice:
        raise _no_advice(adoption, "no advice")
    found = open_advice(anchor, advice, what, "law_set", seen_at)
    given = (found.digest, found.advice.digest, found.advice.site)
    in_time = parse_time(found.advice.at) <= parse_time(adoption.at)
    if given != (adoption.advice, adoption.law_set.digest, adoption.site) or not in_time:
        raise _no_advice(adoption, found.digest[:12] if in_time else f"advice of {found.advice.at}")
    if not found.advice.favourable and not adoption.reason:
        raise Refused(
            "RSD-2203",
            f"the law set of {adoption.site} was adopted against the DPO's advice without a reason",
            rule="a decision against advice needs a logged reason",
            found="no reason",
            limit="a reason",
            next="adopt it again with --against-advice REASON, or change the set",
        )
    return found


def _no_advice(adoption: Adoption, found: str) -> Refused:
    return Refused(
        "RSD-2202",
        f"the adoption by {adoption.site} comes without the DPO's advice on this law set",
        rule="GDPR Art 38(1): the DPO is involved in time",
        found=found,
        limit=adoption.advice[:12] or "no advice, with a reason",
        next="give the advice that the signatory adopted on: residency agent enroll --law-advice FILE",
    )


def check_in_force(law_set: LawSet, packs: Mapping[str, Pack], regions: Regions, at: datetime) -> None:
    """Packs and region sets are the installed ones, the packs unexpired, and none that binds is left out.

    Raises Refused RSD-3036 naming the first thing that is not so, and all others: the set would deny everything.
    """
    wrong = [*_changed(law_set, packs, regions), *_left_out(law_set, packs), *_over(law_set, packs, at)]
    if wrong:
        raise Refused(
            "RSD-3036",
            f"the law set of {law_set.site} is not in force with this installation: {'; '.join(wrong)}",
            rule="what an expired, changed or missing pack would have to decide is denied",
            found=wrong[0],
            limit="installed packs and region sets, unexpired",
            next="make the set again with this installation: residency law init",
        )


def _changed(law_set: LawSet, packs: Mapping[str, Pack], regions: Regions) -> list[str]:
    held = {name: pack.digest for name, pack in packs.items()}
    wrong = [] if law_set.regions == regions.digest else ["other region sets are installed"]
    differ = [pack.id for pack in law_set.packs if held.get(pack.id) != pack.sha256]
    return wrong + [f"pack {n} is {'installed in other bytes' if n in held else 'not installed'}" for n in differ]


def _left_out(law_set: LawSet, packs: Mapping[str, Pack]) -> list[str]:
    return [f"pack {name} binds {law_set.jurisdiction} and is not adopted" for name in unadopted(law_set, packs)]


def unadopted(law_set: LawSet, packs: Mapping[str, Pack]) -> list[str]:
    """Ids of the packs that bind the set's jurisdiction and are neither adopted nor rightly declared as not binding."""
    declared = {n.id for n in law_set.not_binding if n.id in packs and packs[n.id].binds == "declared"}
    known = declared | {p.id for p in law_set.packs}
    return sorted(n for n, p in packs.items() if law_set.jurisdiction in p.jurisdictions and n not in known)


def _over(law_set: LawSet, packs: Mapping[str, Pack], at: datetime) -> list[str]:
    held = [packs[p.id] for p in law_set.packs if p.id in packs]
    return [f"pack {p.id} expired on {p.expires_on}" for p in held if at >= parse_time(p.expires_on)]


def _another(what: str, found: str, limit: str) -> Refused:
    return Refused(
        "RSD-3031",
        f"this law set belongs to another {what}",
        rule="a site adopts for itself and for where it is",
        found=found,
        limit=limit,
        next="give the law set that this site's own signatory adopted for where it is; or make one: residency law init",
    )


def _malformed(message: str, found: str, limit: str) -> InputError:
    return InputError("RSD-3030", message, rule=SCHEMA, found=found, limit=limit, next="make it with residency law")


def adoption_record(law_set: LawSet, at: datetime, advice: str, reason: str) -> Json:
    """The statement that a signatory signs; `advice` is the digest of the DPO's, empty if there is none."""
    record = {
        "schema": ADOPTION,
        "site": law_set.site,
        "digest": law_set.digest,
        "law_set": law_set.as_json(),
        "advice": advice,
        "reason": reason,
        "at": rfc3339(at),
    }
    return load_model(Adoption, record, "RSD-3030", "the adoption").as_json()

"""Step 6: the law sets that sites and operator adopted, and the packs and region sets by which all was decided."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime

from compliance.clock import parse_time
from compliance.errors import CheckFailed
from compliance.law.law_adoption import OpenAdoption, check_advised, check_jurisdiction, open_adoption, unadopted
from compliance.law.law_set import LawSet
from compliance.law.model import Decision
from compliance.law.pack import builtin_packs
from compliance.law.regions import load_regions
from compliance.log.entry import Entry
from compliance.release import bodies
from compliance.release.case import Contents, Context
from compliance.release.report import Found
from compliance.software import VERSION

# The engine denied before it asked any pack, or because an evaluator is defective: there is nothing to decide again.
NOT_DECIDED = frozenset(
    f"engine.{name}"
    for name in ("disagreement", "no-pack", "pack-changed", "pack-missing", "pack-not-adopted", "regions-changed")
)
Decided = list[tuple[Entry, bodies.LoggedDecision]]


def packs(contents: Contents, context: Context) -> Found:
    """Each site whose log is shown adopted just the packs and region sets that its decisions used.

    So did the operator, if it adopted a law set; else its decisions leave out no shown pack that binds it.
    Each pack that a decision names, or a set, is shown by its digest; none had expired when it allowed something.
    """
    operator = context.anchor.trust.operator.name
    proved, asserted, adopted = [], [], set()
    members = sorted({*contents.logs, *contents.contributing} - {operator})
    if _has_own(contents, operator):
        members.append(operator)
    else:
        asserted += [(operator, text) for text in _every_pack(contents, operator)]
    for site in members:
        opened = _adopted(contents, context, site)
        adopted |= {pack.sha256 for pack in opened.law_set.packs}
        proved.append(_words(contents, opened))
        asserted += [(site, text) for text in _only_said(contents, opened)]
        left_out = [one.id for one in opened.law_set.not_binding]
        of, here = f"law/{site}.adoption.json", opened.law_set.jurisdiction
        asserted += [(site, text) for text in _as_installed(contents, of, here, opened.law_set.adopted, left_out)]
    strange = sorted(name for name in contents.under("law") if name.split(".")[0] not in members)
    if strange:
        raise _false(f"law/{strange[0]} is of no site whose log is shown", strange[0], "adoptions of shown members")
    named = {digest for member in contents.logs for digest in _named(contents, member)}
    extra = sorted(contents.packs[d].id for d in contents.packs.keys() - named - adopted)
    if extra:
        raise _false("a pack is shown that no decision names and nobody adopted", extra, "only named packs")
    reviewed = sorted({f"{p.id} version {p.version}: {'DRAFT, no counsel' if p.draft else p.reviewer}"
                       for p in contents.packs.values()})  # fmt: skip
    used = f"law packs are those that sites and operator adopted and the decisions name ({'; '.join(reviewed)})"
    return Found((*proved, used), tuple(asserted))


def undecided(decision: Decision) -> bool:
    """A denial by the engine itself. Whatever allows is decided again, whichever rule it names."""
    return not decision.allow and decision.rule in NOT_DECIDED


def replayed(contents: Contents, member: str) -> Decided:
    """The member's decisions that are decided again: if it shows a law set, those under that."""
    shown = contents.adoptions.get(member)
    decided = [(e, x) for e, x in contents.decisions(member) if not undecided(x.decision)]
    return [(e, x) for e, x in decided if shown is None or x.decision.law_set == shown.digest]


def _has_own(contents: Contents, operator: str) -> bool:
    """Whether the operator decided under a law set of its own, by what is shown or by what its log says."""
    decided = (x.decision for _, x in contents.decisions(operator))
    return (
        bool(_noted(contents, operator, operator))
        or f"law/{operator}.adoption.json" in contents.files
        or any(decision.law_set or decision.not_binding for decision in decided)
    )


def _every_pack(contents: Contents, operator: str) -> list[str]:
    """Whoever declares nothing is bound by all packs of its jurisdiction. Returns what only the operator says."""
    log, here, said = contents.log(operator), contents.study.operator.jurisdiction, dict[str, None]()
    binding = {pack.id for pack in contents.packs.values() if here in pack.jurisdictions}
    for entry, logged in replayed(contents, operator):
        left_out = sorted(binding - logged.decision.packs.keys())
        if left_out:
            message = f"{log.where(entry)} leaves out a pack that binds {here}, and the operator adopted no law set"
            raise _false(message, left_out, "every pack that binds the operator, or its declaration that one does not")
        said |= dict.fromkeys(_as_installed(contents, log.where(entry), here, logged.decision.packs, ()))
    return list(said)


def _as_installed(
    contents: Contents, where: str, jurisdiction: str, used: Mapping[str, str], left_out: Collection[str]
) -> list[str]:
    """A study of this version was decided by the packs and region sets that this version installs.

    An id tells nothing: anybody can write a pack. Those of another version are not at hand, so that they were these is
    the member's word.
    """
    binding = [pack for pack in builtin_packs().values() if jurisdiction in pack.jurisdictions]
    declared = {pack.id for pack in binding if pack.binds == "declared"} & set(left_out)
    other = sorted(p.id for p in binding if used.get(p.id) != p.digest and p.id not in declared)
    shown, ours, version = contents.regions.digest, load_regions().digest, contents.study.software.version
    if version != VERSION and (other or shown != ours):
        return [f"that no other pack binds {jurisdiction}, and that these are the packs and region sets of {version}"]
    if other:
        message = f"{where} is without a pack that binds {jurisdiction} in version {version}, or has other bytes of it"
        raise _false(message, other, "all such packs as installed, or a declaration that one does not bind")
    if shown != ours:
        raise _false(f"{where} uses other region sets than those of version {version}", shown[:16], ours[:16])
    return []


def _adopted(contents: Contents, context: Context, site: str) -> OpenAdoption:
    """The member's adoption: whose it is, what for, on which advice; recorded by a site itself and by the operator."""
    operator = context.anchor.trust.operator.name
    path, advice = f"law/{site}.adoption.json", f"law/{site}.advice.json"
    data, joined = contents.file(path), _joined(contents, site) if site != operator else None
    begun = joined or (_noted(contents, operator, site) if site == operator else None)
    at = parse_time(begun[0].at) if begun else None
    opened = open_adoption(context.anchor, data, path, site, at)
    terms = contents.study.operator if site == operator else contents.study.site(site)
    check_jurisdiction(opened.law_set, terms.jurisdiction if terms else "")
    check_advised(context.anchor, opened, contents.files.get(advice, b""), advice, at)
    if joined and joined[1].law_set != opened.law_set.digest:
        message = f"{contents.log(site).where(joined[0])} joins under another law set than the one that is shown"
        raise _false(message, joined[1].law_set[:16], opened.law_set.digest[:16])
    _seen_by_the_operator(contents, context, path, opened)
    _whole(contents, path, opened.law_set)
    _used(contents, site, opened.law_set)
    return opened


def _joined(contents: Contents, site: str) -> tuple[Entry, bodies.JoinBody] | None:
    joins = [x for x in contents.bodies(site, "join", bodies.JoinBody) if x[1].run == contents.manifest.run]
    return joins[-1] if joins else None


def _noted(contents: Contents, operator: str, member: str) -> tuple[Entry, bodies.AdoptionBody] | None:
    """The operator's last entry about an adoption by `member`."""
    found = [x for x in contents.bodies(operator, "law", bodies.AdoptionBody) if x[1].site == member]
    return found[-1] if found else None


def _seen_by_the_operator(contents: Contents, context: Context, path: str, opened: OpenAdoption) -> None:
    """Nobody can show another adoption afterwards than the one under which the run began for it."""
    noted = _noted(contents, context.anchor.trust.operator.name, opened.adoption.site)
    last = noted[1].digest if noted else "no entry"
    if last != opened.digest:
        message = f"{path} is not the adoption that the operator saw when the run began"
        raise _false(message, opened.digest[:16], last[:16])


def _whole(contents: Contents, path: str, law_set: LawSet) -> None:
    """The region sets and all packs of the set are shown, and no shown pack that binds the site is left out."""
    if law_set.regions != contents.regions.digest:
        message = f"{path} adopts other region sets than those shown"
        raise _false(message, contents.regions.digest[:16], law_set.regions[:16])
    for adopted in law_set.packs:
        pack = contents.packs.get(adopted.sha256)
        if pack is None or pack.id != adopted.id:
            held = [d[:16] for d, p in contents.packs.items() if p.id == adopted.id]
            raise _false(f"{path} adopts a pack {adopted.id} that is not in the bundle", held or "no such pack",
                         adopted.sha256[:16])  # fmt: skip
    left_out = unadopted(law_set, {pack.id: pack for pack in contents.packs.values()})
    if left_out:
        message = f"{path} leaves out a pack that binds {law_set.jurisdiction}"
        raise _false(message, left_out, "every pack that binds the site, or its declaration that one does not")


def _used(contents: Contents, site: str, law_set: LawSet) -> None:
    """From the first decision under the set on, every decision was under it, by exactly its packs and region sets."""
    log, under = contents.log(site), [e for e, _ in replayed(contents, site)]
    binding = {a.id: a.sha256 for a in law_set.packs if law_set.jurisdiction in contents.packs[a.sha256].jurisdictions}
    wanted = (binding, {n.id for n in law_set.not_binding}, law_set.regions)
    start = min((e.index for e in under), default=0)
    for entry, logged in contents.decisions(site):
        decision = logged.decision
        if decision.law_set != law_set.digest and entry.index > start:
            message = f"{log.where(entry)} was decided under another law set than was adopted"
            raise _false(message, decision.law_set[:16] or "none", law_set.digest[:16])
        found = (decision.packs, set(decision.not_binding), decision.regions)
        if decision.law_set == law_set.digest and not undecided(decision) and found != wanted:
            message = f"{log.where(entry)} was decided by other packs or region sets than were adopted"
            raise _false(message, sorted(decision.packs), sorted(binding))
    elsewhere = {e.index for e, x in contents.decisions(site) if x.decision.law_set != law_set.digest}
    for entry, sent in contents.bodies(site, "transfer", bodies.TransferBody):
        if sent.decision in elsewhere:
            message = f"{log.where(entry)} rests on a decision under another law set than was adopted"
            raise _false(message, f"entry {sent.decision}", f"a decision under {law_set.digest[:16]}")


def _named(contents: Contents, member: str) -> Iterable[str]:
    """Digests of the packs that the member's decisions name, each shown and, where it allowed, unexpired."""
    log, again = contents.log(member), {e.index for e, _ in replayed(contents, member)}
    for entry, logged in contents.decisions(member):
        yield from logged.decision.packs.values()
        if entry.index in again:
            _shown(contents, log.where(entry), logged.decision, parse_time(entry.at))


def _shown(contents: Contents, where: str, decision: Decision, at: datetime) -> None:
    if decision.regions != contents.regions.digest:
        message = f"{where} was decided by other region sets than those in the bundle"
        raise _false(message, contents.regions.digest[:16], decision.regions[:16])
    for name, digest in decision.packs.items():
        pack = contents.packs.get(digest)
        if pack is None or pack.id != name:
            held = [d[:16] for d, p in contents.packs.items() if p.id == name]
            raise _false(f"{where} was decided by a pack {name} that is not in the bundle", held or "no such pack",
                         digest[:16])  # fmt: skip
        if decision.allow and at >= parse_time(pack.expires_on):
            raise _false(f"{where} allows under pack {name}, which had expired", at, pack.expires_on)


def _words(contents: Contents, opened: OpenAdoption) -> str:
    adoption, law_set = opened.adoption, opened.law_set
    own = adoption.site == contents.study.operator.name
    who = f"the operator {adoption.site}" if own else f"the signatory of {adoption.site}"
    advice = "on its DPO's advice" if adoption.advice else "without a DPO's advice"
    reason = ", with a reason" if adoption.reason else ""
    packs_of = ", ".join(pack.id for pack in law_set.packs)
    return f"{who} adopted law set {law_set.digest[:16]} ({packs_of}) {advice}{reason}"


def _only_said(contents: Contents, opened: OpenAdoption) -> list[str]:
    """What the adoption leaves to the site's word. A reason is free text: whoever wants it reads the signed file."""
    site, law_set = opened.adoption.site, opened.law_set
    policy = "that the policy which its approval names is one that names its law set: the policy stays at the site"
    said = [] if site == contents.study.operator.name else [policy]
    if law_set.not_binding:
        names = ", ".join(one.id for one in law_set.not_binding)
        said.append(f"that these packs do not bind it, for the reasons in law/{site}.adoption.json: {names}")
    earlier = sum(x.decision.law_set != law_set.digest for _, x in contents.decisions(site))
    if earlier:
        said.append(f"that {earlier} decisions before those of this run were made under another law set, not shown")
    return said


def _false(message: str, found: object, limit: object) -> CheckFailed:
    return CheckFailed("RSD-9006", message, rule="decided under what was adopted", found=found, limit=limit)

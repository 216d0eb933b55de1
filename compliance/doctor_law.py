"""What both doctors ask about an adopted law set: that it decides with what is installed, and until when."""

from __future__ import annotations

from datetime import datetime

from compliance import doctor
from compliance.clock import parse_time
from compliance.doctor import Check, Limits
from compliance.law.law_adoption import unadopted
from compliance.law.law_set import LawSet
from compliance.law.pack import Pack
from compliance.law.regions import Regions


def law_checks(
    law_set: LawSet, installed: dict[str, Pack], regions: Regions, at: datetime, limits: Limits, adopter: str
) -> list[Check]:
    """The set against what is installed: its region sets, that no binding pack is left out, and each adopted pack.

    `adopter`: who adopts the next one, in words.
    """
    checks = [_law_set(law_set, installed, regions, adopter)]
    for adopted in law_set.packs:
        name, pack = f"law pack {adopted.id}", installed.get(adopted.id)
        if pack is None or pack.digest != adopted.sha256:
            found = "not installed" if pack is None else f"version {pack.version}, {pack.digest[:12]}"
            advice = f"install the software that has the adopted pack, or have {adopter} adopt this one"
            checks.append(Check(name, "fail", found, adopted.sha256[:12], advice))
            continue
        checks.append(pack_check(pack, at, limits, f"have {adopter} adopt the pack's next version"))
    return checks


def pack_check(pack: Pack, at: datetime, limits: Limits, advice: str) -> Check:
    """Until when the pack decides, and whether anybody reviewed it. `advice`: what to do before its end."""
    name = f"law pack {pack.id}"
    check = doctor.in_date(name, parse_time(pack.expires_on), at, limits.near_end, advice)
    if check.state == "ok" and pack.draft:
        return Check(
            name, "warn", f"DRAFT, no named reviewer; {check.found}", "a pack reviewed by counsel",
            "have counsel review the pack; until then its decisions are the software authors' reading",
        )  # fmt: skip
    return check


def _law_set(law_set: LawSet, installed: dict[str, Pack], regions: Regions, adopter: str) -> Check:
    name, limit = "law set", "the installed region sets, and every pack that binds this jurisdiction"
    wrong = ["other region sets than those installed"] * (law_set.regions != regions.digest)
    wrong += [f"pack {pack} binds {law_set.jurisdiction} and is not adopted" for pack in unadopted(law_set, installed)]
    if wrong:
        advice = f"have {adopter} adopt a set of this installation: residency law init, law adopt"
        return Check(name, "fail", "; ".join(wrong), limit, advice)
    return Check(name, "ok", f"{law_set.digest[:12]}: {', '.join(p.id for p in law_set.packs)}", limit)

"""The law of one site, from the file that its signatory signed or is about to sign, with this installation's packs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compliance.canonical import parse_json
from compliance.files import read_bytes
from compliance.law.decide import Engine
from compliance.law.law_adoption import read_adoption, read_law_set
from compliance.law.pack import Pack, builtin_packs
from compliance.law.regions import Regions, load_regions


@dataclass(frozen=True)
class SiteLaw:
    """Whose law it is (empty: everybody's), the packs of the set, and the engine that decides by it."""

    site: str
    jurisdiction: str
    packs: dict[str, Pack]
    regions: Regions
    engine: Engine
    told: str
    digest: str = ""  # of the law set; empty without one


def site_law(path: Path) -> SiteLaw:
    """From a signed adoption, or from the set that `law init` wrote; signatures are not judged here.

    Raises InputError RSD-2002, RSD-2005 or RSD-3030.
    """
    data = read_bytes(path, "law set")
    parsed = parse_json(data, str(path))
    signed = isinstance(parsed, dict) and "payload" in parsed
    law_set = read_adoption(data, str(path)).law_set if signed else read_law_set(data, str(path))
    packs, regions = builtin_packs(), load_regions()
    state = "adopted; the signature is not judged here" if signed else "a draft, not adopted"
    told = f"law set {law_set.digest} of {law_set.site} ({law_set.jurisdiction}), {state}"
    chosen = {p.id: packs[p.id] for p in law_set.packs if p.id in packs}
    return SiteLaw(law_set.site, law_set.jurisdiction, chosen, regions, Engine.of(law_set, packs, regions), told,
                   law_set.digest)  # fmt: skip


def every_pack() -> SiteLaw:
    """All packs of this installation, as if every one of them were adopted."""
    packs, regions = builtin_packs(), load_regions()
    engine = Engine(packs, {name: pack.digest for name, pack in packs.items()}, regions=regions)
    return SiteLaw("", "", packs, regions, engine, "all packs of this installation that bind each site")

"""`residency law init|advise|adopt`: the law set of one site, signed by its signatory on its DPO's advice.

The operator's is signed with the operator's key; it has no DPO, so with a reason.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from compliance.cli import Result, command
from compliance.clock import now
from compliance.commands.advised import Given, Told, given_options, ground, seal_advice, told_options
from compliance.commands.shared import FILE, key_option, load_role, must_sign_at, out_option
from compliance.errors import Refused
from compliance.files import read_bytes, refuse_existing, write_new
from compliance.identity import seal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from compliance.law.law_set import LawSet
    from compliance.law.pack import Pack


@click.command("init")
@click.option("--site", required=True, help="Name of the site, or of the operator.")
@click.option("--jurisdiction", required=True, help="Country of the site and its data, e.g. DE; or of the operator.")
@click.option(
    "--not-binding", "left_out", multiple=True, metavar="ID=REASON", help="A pack that binds others, and why."
)
@out_option
@command("residency.law.init/1")
def init(site: str, jurisdiction: str, left_out: tuple[str, ...], out: Path) -> Result:
    """Write the set of all built-in law packs that bind the jurisdiction, by digest, with the region sets.

    A pack that binds certain bodies only is in the set too, unless --not-binding says why it does not bind this site.

    \b
    Example: residency law init --site charite --jurisdiction DE --out law-set.json
    """
    from compliance.law.law_adoption import draft_law_set  # noqa: PLC0415 - loads the law engine
    from compliance.law.pack import builtin_packs  # noqa: PLC0415 - reads all packs
    from compliance.law.regions import load_regions  # noqa: PLC0415

    packs = builtin_packs()
    law_set = draft_law_set(site, jurisdiction, packs, load_regions(), dict(_reason(word) for word in left_out))
    refuse_existing(out)
    write_new(out, json.dumps(law_set.as_json(), indent=2, ensure_ascii=False).encode("utf-8") + b"\n")
    lines = [f"law set    {out}, digest {law_set.digest}", *_shown(law_set, packs)]
    return Result({"file": str(out), "digest": law_set.digest, "law_set": law_set.as_json()}, lines)


@click.command("advise")
@click.argument("file", type=FILE)
@key_option
@told_options
@out_option
@command("residency.law.advise/1")
def advise(file: Path, key_file: Path, told: Told, out: Path) -> Result:
    """Sign the data-protection officer's advice on a law set; the officer advises and does not decide.

    \b
    Example: residency law advise law-set.json --key office/dpo.key --favourable --text "Complete." --out advice.json
    """
    signer = load_role(key_file, "dpo", "advise")
    law_set = _read(file)
    _must_be_own(law_set, signer.identity.holder)
    envelope = seal_advice(signer, "law_set", law_set.digest, told)
    write_new(out, envelope.encode() + b"\n")
    lines = [f"{told.word} advice on law set {law_set.digest[:12]} of {law_set.site}: {out}"]
    return Result({"digest": envelope.digest, "file": str(out)}, lines)


@click.command("adopt")
@click.argument("file", type=FILE)
@key_option
@given_options("law_set")
@out_option
@command("residency.law.adopt/1")
def adopt(file: Path, key_file: Path, given: Given, out: Path) -> Result:
    """Sign the adoption of a law set, with the DPO's advice on it or with a reason. The operator adopts its own.

    Refused for a set that would deny everything: a pack that is expired, changed, missing here or left out.

    \b
    Example: residency law adopt law-set.json --key office/signatory.key --advice advice.json --out law.json
    """
    from compliance.law import law_adoption  # noqa: PLC0415 - loads the law engine
    from compliance.law.pack import builtin_packs  # noqa: PLC0415 - reads all packs
    from compliance.law.regions import load_regions  # noqa: PLC0415

    signer = load_role(key_file, "signatory", "adopt a law set", "operator")
    refuse_existing(out)
    law_set, at = _read(file), now()
    _must_be_own(law_set, signer.identity.holder)
    packs = builtin_packs()
    law_adoption.check_in_force(law_set, packs, load_regions(), at)
    on = ground("law_set", law_set.digest, law_set.site, given)
    record = law_adoption.adoption_record(law_set, at, on.advice, on.reason)
    must_sign_at(signer, record["at"])
    signed = seal(record, signer)
    data = signed.encode() + b"\n"
    if on.anchor:
        law_adoption.open_adoption(on.anchor, data, str(out), law_set.site, at)
        law_adoption.check_jurisdiction(law_set, on.anchor.trust.member(law_set.site).jurisdiction)
    write_new(out, data)
    lines = [f"adopted    law set {law_set.digest} for {law_set.site}{on.judged}", *_shown(law_set, packs)]
    lines.append(f"file       {out}")
    return Result({"digest": law_set.digest, "adoption": signed.digest, "file": str(out)}, lines)


def _reason(word: str) -> tuple[str, str]:
    """ID=REASON taken apart."""
    name, separator, reason = word.partition("=")
    if not separator:
        raise click.UsageError("--not-binding wants ID=REASON")
    return name, reason


def _read(file: Path) -> LawSet:
    from compliance.law.law_adoption import read_law_set  # noqa: PLC0415 - loads the law engine

    return read_law_set(read_bytes(file, "law set"), str(file))


def _shown(law_set: LawSet, packs: Mapping[str, Pack]) -> list[str]:
    """A line a pack: what it is, and that nobody has reviewed it if nobody has."""
    lines = []
    for adopted in law_set.packs:
        pack = packs[adopted.id]
        reviewed = "DRAFT, no counsel" if pack.draft else f"reviewed by {pack.reviewer}"
        lines.append(f"adopts     {pack.id} version {pack.version}, {pack.title} ({reviewed}; until {pack.expires_on})")
    return [*lines, *(f"not bound  {n.id}: {n.reason}" for n in law_set.not_binding)]


def _must_be_own(law_set: LawSet, holder: str) -> None:
    if law_set.site != holder:
        raise Refused(
            "RSD-3031",
            "this law set belongs to another site than the key",
            rule="a site decides about itself",
            found=f"key of {holder}",
            limit=law_set.site,
            next="give the key of the set's own site",
        )


__all__ = ["adopt", "advise", "init"]

"""`residency law`: read, check and compare law packs, and see what they say to whom."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from compliance.cli import Result, command, not_installed, table
from compliance.commands.law_set import adopt, advise, init
from compliance.commands.law_view import matrix, review
from compliance.commands.shared import FILE
from compliance.errors import CheckFailed, InputError

if TYPE_CHECKING:
    from compliance.canonical import Json
    from compliance.law.check import Checked
    from compliance.law.pack import Pack
    from compliance.law.rule import Requires, Rule


@click.group()
def law() -> None:
    """Law packs: read, check, compare, adopt, and see who may send what to whom. Not legal advice.

    \b
    Example: residency law matrix dp_update --from DE,US
    """


for _one in (init, advise, adopt, matrix, review):
    law.add_command(_one)


@law.command("list")
@command("residency.law.list/1")
def list_() -> Result:
    """List the packs that come with the package: whom they bind, who reviewed them, until when they hold.

    \b
    Example: residency law list
    """
    from compliance.law.pack import builtin_packs  # noqa: PLC0415 - reads all packs

    packs = list(builtin_packs().values())
    head = ["pack", "title", "binds", "reviewer", "verified", "expires", "rules", "digest"]
    rows = [
        [p.id, p.title, _binds(p), _reviewer(p), p.verified_on, p.expires_on, len(p.rules), p.digest[:12]]
        for p in packs
    ]
    return Result({"packs": [_summary(p) for p in packs]}, table(head, rows))


def _binds(pack: Pack) -> str:
    codes = ",".join(pack.jurisdictions) if len(pack.jurisdictions) < 4 else f"{len(pack.jurisdictions)} states"
    return f"{codes}{' (declared)' if pack.binds == 'declared' else ''}"


def _reviewer(pack: Pack) -> str:
    from compliance.law.render import DRAFT  # noqa: PLC0415

    return DRAFT if pack.draft else pack.reviewer


def _summary(pack: Pack) -> dict[str, Json]:
    return {
        "id": pack.id,
        "title": pack.title,
        "kind": pack.kind,
        "jurisdictions": list(pack.jurisdictions),
        "binds": pack.binds,
        "binds_note": pack.binds_note,
        "reviewer": pack.reviewer,
        "draft": pack.draft,
        "verified_on": pack.verified_on,
        "expires_on": pack.expires_on,
        "rules": len(pack.rules),
        "sha256": pack.digest,
    }


@law.command("show")
@click.argument("pack")
@click.option("--rule", "rule_id", help="Only this rule.")
@command("residency.law.show/1")
def show(pack: str, rule_id: str | None) -> Result:
    """Show a pack, or one rule of it, in words: what the law says apart from what this product adds, and sources.

    PACK is an id from `law list`, or a file.

    \b
    Example: residency law show eu --rule eu.no-basis
    """
    found = _pack(pack)
    rules = [rule for rule in found.rules if rule_id in {None, rule.id}]
    if not rules:
        raise InputError(
            "RSD-3071",
            f"pack {found.id} has no rule {rule_id}",
            found=rule_id,
            limit=", ".join(rule.id for rule in found.rules),
            next=f"residency law show {pack} lists them",
        )
    lines = [line for rule in rules for line in ["", *_rule_lines(found, rule)]]
    record = found.model_dump(mode="json", by_alias=True)
    record["rules"] = [rule.model_dump(mode="json") for rule in rules]
    if rule_id is not None:
        return Result({"pack": record, "sha256": found.digest}, lines[1:])
    return Result({"pack": record, "sha256": found.digest}, [*_head_lines(found), *lines, *_facts_lines(found)])


def _pack(name: str) -> Pack:
    from compliance.law.pack import builtin_packs, load_pack  # noqa: PLC0415 - reads all packs

    packs = builtin_packs()
    if name in packs:
        return packs[name]
    if not Path(name).is_file():
        raise InputError(
            "RSD-3071",
            f"there is no pack {name}",
            found=name,
            limit=", ".join(packs),
            next="residency law list, or the path of a pack's file",
        )
    return load_pack(Path(name))


def _head_lines(pack: Pack) -> list[str]:
    note = [f"who        {pack.binds_note}"] if pack.binds_note else []
    return [
        f"pack       {pack.id}, version {pack.version}, {pack.kind}: {pack.title}",
        f"binds      {', '.join(pack.jurisdictions)}",
        *note,
        f"reviewer   {_reviewer(pack)}; confidence {pack.confidence}",
        f"dates      verified {pack.verified_on}, expires {pack.expires_on}",
        f"source     {pack.source}",
        f"digest     {pack.digest}",
        *(f"not covered  {text}" for text in pack.not_covered),
    ]


def _rule_lines(pack: Pack, rule: Rule) -> list[str]:
    except_ = f", except {', '.join(rule.to_region_except)}" if rule.to_region_except else ""
    category = f"; data: {', '.join(rule.category)}" if rule.category else ""
    over = f"; above {rule.over.above} persons by {rule.over.counter}, or not counted" if rule.over else ""
    house = rule.house.lines()
    worth = (
        f"           {rule.source_kind}, confidence {rule.confidence}, verified {pack.verified_of(rule)}, expires"
        f" {pack.expires_of(rule)}, reviewer {pack.reviewer_of(rule)}"
    )
    return [
        f"{rule.id}  {rule.effect.upper()}",
        f"  {rule.plain}",
        f"  what     {', '.join(rule.artifact)} for {', '.join(rule.purpose)}{category}{over}",
        f"  from     {', '.join(rule.from_region)} to {', '.join(rule.to_region)}{except_}",
        *_asked("requires", rule.requires),
        *_asked("unless", rule.unless),
        f"  law      {'; '.join(rule.law) or 'none'}",
        *([f"  house    {'; '.join(house)}"] if house else []),
        f"  source   {rule.source}",
        worth,
        *([f"           {rule.url}"] if rule.url else []),
    ]


def _asked(word: str, asked: Requires) -> list[str]:
    if asked.empty:
        return []
    ways = " or ".join(" with ".join(way) for way in asked.any_of)
    parts = [", ".join(asked.documents), ways and f"one of: {ways}", "; ".join(asked.guarantees.limit_lines())]
    return [f"  {word:8} {'; '.join(part for part in parts if part)}"]


def _facts_lines(pack: Pack) -> list[str]:
    from compliance.law.retention import joined  # noqa: PLC0415

    out = []
    for kept in pack.retention:
        days = f"at least {kept.floor_days}" if kept.floor_days else f"at most {kept.ceiling_days}"
        cited = f" ({'; '.join(kept.law)})" if kept.law else ""
        told = (f"{', '.join(kept.classes)}: {days} days{cited}{_from(kept.since)}", kept.who, kept.note)
        out.append(f"keep       {joined(*told)}")
    out += [
        f"deadline   {d.event}: within {d.within}, {d.who} ({'; '.join(d.law)}){_from(d.since)}" for d in pack.deadlines
    ]
    return ["", *out] if out else []


def _from(since: str | None) -> str:
    return f", from {since}" if since else ""


@law.command("check")
@click.option("--packs", "folder", type=FILE, help="A folder of packs; with its regions.yaml and cases/ if there.")
@command("residency.law.check/1")
def check(folder: Path | None) -> Result:
    """Decide every reference case, prove what no exporter can bring about, and time a decision. Exits 1 if one fails.

    Needs the solver: pip install 'residency[proofs]'.

    \b
    Example: residency law check --json
    """
    try:
        from compliance.law.check import check as run  # noqa: PLC0415 - loads the solver
        from compliance.law.check import load_files  # noqa: PLC0415
    except ModuleNotFoundError as e:
        raise not_installed("law check", str(e.name), "proofs") from e
    found = run(load_files(folder))
    return Result(found.fields(), _check_lines(found), None if found.passed else _failed(found))


def _check_lines(found: Checked) -> list[str]:
    fields = found.fields()
    worth = f"{fields['reviewed_rules']} reviewed by counsel, {fields['primary_sourced']} read in a primary source"
    return [
        f"packs      {fields['packs']}, {fields['rules']} rules: {worth}",
        f"cases      {fields['cases_passed']} of {fields['cases']} as a person wrote them down",
        *(f"  FALSE    {r.case.id}: {r.wrong}. {r.case.says}" for r in found.results if not r.passed),
        *(f"{'proved' if p.proved else 'FALSE':10} {p.name}: {p.says}" for p in found.proofs),
        *(f"  counter-example to {p.name}: {p.counter_example}" for p in found.proofs if not p.proved),
        f"decision   {fields['decision_us_p50']} us (median, both evaluators, all packs loaded)",
    ]


def _failed(found: Checked) -> CheckFailed:
    wrong = [r.case.id for r in found.results if not r.passed]
    unproved = [p for p in found.proofs if not p.proved]
    return CheckFailed(
        "RSD-3072",
        f"{len(wrong)} reference cases come out otherwise, {len(unproved)} statements are not proved",
        rule="packs are used only as they were checked",
        found=", ".join([*wrong[:5], *(p.name for p in unproved)]),
        limit="every case and every statement",
        next="read the lines above: correct the pack, or the case if the pack is right",
    )


@law.command("diff")
@click.argument("old")
@click.argument("new")
@command("residency.law.diff/1")
def diff(old: str, new: str) -> Result:
    """What another version of a pack means: rule by rule, by reference cases, and by transfers newly let or refused.

    OLD and NEW are files, or ids from `law list`.

    \b
    Example: residency law diff eu.yaml eu
    """
    from compliance.law.cases import load_folder  # noqa: PLC0415 - loads the law engine
    from compliance.law.diff import changes, decided_otherwise  # noqa: PLC0415
    from compliance.law.pack import builtin_packs  # noqa: PLC0415
    from compliance.law.regions import load_regions  # noqa: PLC0415

    before, after = _pack(old), _pack(new)
    if before.id != after.id:
        raise InputError(
            "RSD-3071",
            "these are versions of different packs",
            found=after.id,
            limit=before.id,
            next="give two versions of one pack",
        )
    found = changes(before, after)
    cases = decided_otherwise(load_folder(), before, after, builtin_packs(), load_regions())
    shifts = _shifts(before, after) if found else {}
    lines = [line for change in found for line in change.lines()] or ["both say the same"]
    lines += [f"case       {c.case}: {c.old} -> {c.new}" for c in cases]
    lines += [f"{name:10} {text}" for name, text in shifts.items()]
    fields = {
        "old": before.digest,
        "new": after.digest,
        "changes": [change.as_json() for change in found],
        "cases": [case.as_json() for case in cases],
        **shifts,
    }
    return Result(fields, lines)


def _shifts(old: Pack, new: Pack) -> dict[str, Json]:
    """A transfer that one version lets out and the other does not, either way, by the solver where it is installed."""
    try:
        from compliance.law.proofs import only_by  # noqa: PLC0415 - loads the solver
    except ModuleNotFoundError:
        told = "not looked for: install 'residency[proofs]'"
        return {"allows": told, "refuses": told}
    from compliance.law.regions import load_regions  # noqa: PLC0415

    nothing = "nothing that the other version would not"
    regions = load_regions()
    return {"allows": only_by(new, old, regions) or nothing, "refuses": only_by(old, new, regions) or nothing}

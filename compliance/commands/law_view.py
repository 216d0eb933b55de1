"""`residency law matrix|review`: what the packs say to whom, as a table, as a picture, and as a page to sign."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from compliance.cli import Result, command, table
from compliance.clock import now, parse_time, rfc3339
from compliance.commands.shared import FILE, mistakes_result, out_option
from compliance.errors import InputError
from compliance.files import refuse_existing, write_new
from compliance.law.vocabulary import ARTIFACTS, CATEGORIES, PURPOSES

if TYPE_CHECKING:
    from compliance.commands.law_site import SiteLaw
    from compliance.law.matrix import Matrix, Question
    from compliance.law.review import Outcome
    from compliance.law.vocabulary import Artifact, Category, Purpose
    from compliance.study import Study

_COUNTED = ("allowed", "held", "denied")

law_option = click.option("--law", "law_file", type=FILE, help="A site's law.json, or the set that `law init` wrote.")
at_option = click.option("--at", default=None, help="As of this UTC time (default: now).")


@click.command("matrix")
@click.argument("artifact", type=click.Choice(ARTIFACTS))
@click.option(
    "--purpose", type=click.Choice(PURPOSES), default="scientific_research", show_default=True, help="Of the transfer."
)
@click.option("--data", type=click.Choice(CATEGORIES), multiple=True, default=("health",), help="May be repeated.")
@click.option("--from", "exporters", metavar="CODES", help="Exporters, e.g. DE,US (default: one for each pack).")
@click.option("--to", "destinations", metavar="CODES", help="Destinations (default: the same).")
@click.option("--out", type=FILE, help="Also as a picture: an SVG file; never overwritten.")
@law_option
@at_option
@command("residency.law.matrix/1")
def matrix(
    artifact: Artifact,
    purpose: Purpose,
    data: tuple[Category, ...],
    exporters: str | None,
    destinations: str | None,
    out: Path | None,
    law_file: Path | None,
    at: str | None,
) -> Result:
    """Who may send ARTIFACT to whom, and what must be on file first: rows are exporters, columns destinations.

    All packs that bind an exporter count, also those that a site may declare not to bind it; with --law, those of
    that site. The legend says what each mark asks: H no more than at home, P more papers, T a basis for the transfer, X
    never, # denied once too many persons are counted. The fewest papers are shown, an alternative may do as well.

    \b
    Example: residency law matrix dp_update --from DE,US --to FR,JP,CN --out matrix.svg
    """
    from compliance.law.matrix import Question, default_jurisdictions, key_line, legend  # noqa: PLC0415 - loads the law engine

    if out is not None:
        refuse_existing(out)
    when = rfc3339(parse_time(at, "--at") if at else now())
    question = Question(artifact, purpose, data, when)
    asked, own = _asked(question, law_file)
    usual = default_jurisdictions(asked.packs)
    rows = asked.cells(own or _codes(exporters) or usual, _codes(destinations) or usual)
    marks = legend(rows)
    head = ["from \\ to", *(cell.to for cell in rows[0])]
    lines = table(head, [[row[0].exporter, *map(marks.of, row)] for row in rows])
    drafts = any(cell.draft for row in rows for cell in row)
    lines = [*(["DRAFT, no counsel"] if drafts else []), *lines, "", key_line(), *marks.lines()]
    if out is not None:
        from compliance.law.matrix_svg import svg  # noqa: PLC0415

        write_new(out, svg(question, rows, marks).encode())
        lines.append(f"picture    {out}")
    fields = {"artifact": artifact, "purpose": purpose, "at": when, "cells": [c.as_json() for r in rows for c in r]}
    return Result(fields, lines)


def _asked(question: Question, law_file: Path | None) -> tuple[Matrix, tuple[str, ...]]:
    """The matrix, and the only exporter if the law is that of one site."""
    from compliance.commands.law_site import site_law  # noqa: PLC0415 - loads the law engine
    from compliance.law.matrix import Matrix  # noqa: PLC0415
    from compliance.law.pack import builtin_packs  # noqa: PLC0415
    from compliance.law.regions import load_regions  # noqa: PLC0415

    if law_file is None:
        return Matrix(question, builtin_packs(), load_regions()), ()
    found = site_law(law_file)
    return Matrix(question, builtin_packs(), found.regions, found.engine), (found.jurisdiction,)


def _codes(text: str | None) -> tuple[str, ...]:
    from compliance.law.countries import need_countries  # noqa: PLC0415

    codes = tuple(dict.fromkeys(part.strip() for part in (text or "").split(",") if part.strip()))
    need_countries(codes)
    return codes


@click.command("review")
@click.argument("study_file", metavar="STUDY", type=FILE)
@out_option
@law_option
@at_option
@command("residency.law.review/1")
def review(study_file: Path, out: Path, law_file: Path | None, at: str | None) -> Result:
    """Write a page for DPO and signatory: what the study would let out, to whom, by which rules, and what lacks.

    Held: nothing objects to that holder, but the same thing would come to another who is denied it.
    STUDY is the signed study, or its YAML. With --law the page is about that site; without, about every site, under
    all packs. A file to print: no script, nothing is loaded.

    \b
    Example: residency law review study.json --law law.json --out review.html
    """
    from compliance.canonical import canonical, sha256_hex  # noqa: PLC0415
    from compliance.law.review import review as run  # noqa: PLC0415 - loads the law engine
    from compliance.law.review_html import page  # noqa: PLC0415
    from compliance.study_file import check_file  # noqa: PLC0415

    refuse_existing(out)
    mistakes, study = check_file(study_file)
    if study is None:
        return mistakes_result(study_file, mistakes)
    when = rfc3339(parse_time(at, "--at") if at else now())
    law, sites = _law_of(study, law_file)
    found = run(study, law.engine, sites, when)
    bound = {one.site.jurisdiction for one in found}
    packs = [pack for pack in law.packs.values() if bound & set(pack.jurisdictions)]
    digest = sha256_hex(canonical(study.as_json()))
    write_new(out, page(study, digest, found, packs, law.told, when, adopted=bool(law.site)).encode())
    outcomes: tuple[Outcome, ...] = ("allow", "held", "deny")
    fields = {
        "file": str(out),
        "study": digest,
        "sites": [one.site.name for one in found],
        **{name: sum(len(one.of(o)) for one in found) for name, o in zip(_COUNTED, outcomes, strict=True)},
    }
    rows = [[one.site.name, one.site.jurisdiction, *(len(one.of(o)) for o in outcomes)] for one in found]
    return Result(fields, [*table(["site", "in", *_COUNTED], rows), f"page       {out}"])


def _law_of(study: Study, law_file: Path | None) -> tuple[SiteLaw, tuple[str, ...]]:
    from compliance.commands.law_site import every_pack, site_law  # noqa: PLC0415 - loads the law engine

    if law_file is None:
        return every_pack(), tuple(site.name for site in study.sites)
    law = site_law(law_file)
    if study.site(law.site) is None:
        raise InputError(
            "RSD-3074",
            f"the study does not list site {law.site}, whose law set this is",
            found=law.site,
            limit=", ".join(site.name for site in study.sites),
            next="give the law set of a site of the study",
        )
    return law, (law.site,)

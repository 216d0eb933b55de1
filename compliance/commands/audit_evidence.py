"""`residency audit evidence`: what the logs of a study show for the articles of a regime, with proofs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from compliance.cli import Result, command, table
from compliance.commands.shared import FILE, need_trust
from compliance.errors import UsageError

if TYPE_CHECKING:
    from compliance.dossier.model import Dossier


@click.command("evidence")
@click.argument("paths", type=FILE, nargs=-1, metavar="[PATH]...")
@click.option("--regime", help="The regime, by its id: see --list.")
@click.option("--study", help="The study: its digest or at least 8 digits of it, its name, or its signed file.")
@click.option("--trust", type=FILE, help="The consortium's trust.json, from another source.")
@click.option("--out", type=FILE, help="A folder for dossier.json and dossier.html; no file is overwritten.")
@click.option("--list", "listed", is_flag=True, help="Show the regimes and their articles, and leave.")
@command("residency.audit.evidence/1")
def evidence(
    paths: tuple[Path, ...], regime: str | None, study: str | None, trust: Path | None, out: Path | None, listed: bool
) -> Result:
    """Show, article by article, what the logs of a study record for it, and what they do not cover.

    PATH is a bundle or run folder, a home, a log.db, or the evidence of a log; several may be given. Every entry is
    proved and every row can be made again: `residency verify dossier.json --trust trust.json` does so. No legal advice.

    \b
    Example: residency audit evidence bundle --regime gdpr --study heart-one --trust trust.json --out evidence
    """
    if listed:
        return _list()
    if not paths or regime is None or study is None:
        raise UsageError(
            "RSD-9115", "evidence of what, for which regime", rule="PATH, --regime, --study and --trust are needed",
            found=f"{len(paths)} paths, regime {regime or 'none'}, study {study or 'none'}", limit="all of them",
            next="residency audit evidence bundle --regime gdpr --study NAME --trust trust.json",
        )  # fmt: skip
    anchor_file = need_trust(trust, "evidence")
    from compliance.clock import now  # noqa: PLC0415 - loads the law engine
    from compliance.dossier.build import build  # noqa: PLC0415
    from compliance.dossier.regime import regime_called  # noqa: PLC0415
    from compliance.dossier.sources import files_at, views_at  # noqa: PLC0415
    from compliance.dossier.verify import verify_dossier  # noqa: PLC0415
    from compliance.trust.root import load_anchor  # noqa: PLC0415

    reading, anchor = regime_called(regime), load_anchor(anchor_file)
    digest, files = files_at(paths, study)
    views = views_at(paths)
    dossier = build(reading, digest, views, anchor, files)
    report = verify_dossier(dossier.encode(), anchor, now(), views)
    if report.error is not None:
        return Result({"study": digest, "regime": reading.id}, report.lines(), report.error)
    return _shown(dossier, report.asserted(), _write(dossier, out))


def _write(dossier: Dossier, out: Path | None) -> list[Path]:
    """The page last: where it is, the JSON that it speaks of is."""
    from compliance.dossier.page import FILE as DOSSIER  # noqa: PLC0415
    from compliance.dossier.page import html  # noqa: PLC0415
    from compliance.files import refuse_existing, write_new  # noqa: PLC0415

    if out is None:
        return []
    files = {out / DOSSIER: dossier.encode(), (out / DOSSIER).with_suffix(".html"): html(dossier).encode()}
    for path in files:
        refuse_existing(path)
    for path, data in files.items():
        write_new(path, data)
    return list(files)


def _shown(dossier: Dossier, asserted: dict[str, list[str]], written: list[Path]) -> Result:
    from compliance.law.render import DRAFT  # noqa: PLC0415

    rows = [
        {"id": a.id, "citation": a.citation, "status": a.status, "facts": sum(len(t.rows) for t in a.tables)}
        for a in dossier.articles
    ]
    said, study = dossier.regime, dossier.study
    lines = [
        f"regime     {said.title}{f' ({DRAFT})' if said.draft else ''}",
        f"study      {study.name or 'name not known'} {study.digest}, until {dossier.until}",
        *(f"log        {s.member}: {s.entries} entries of the study, {s.complete}" for s in dossier.sources),
        *([f"no log of  {', '.join(dossier.missing)}"] if dossier.missing else []),
        *table(["article", "outcome", "facts", "gaps named"],
               [[a.citation, a.status, r["facts"], len(a.not_covered)]
                for a, r in zip(dossier.articles, rows, strict=True)]),
        *(f"wrote      {path}" for path in written),
        "no legal advice and no finding of lawfulness; what is not covered stands with each article",
    ]  # fmt: skip
    fields = {
        "regime": said.id,
        "study": study.digest,
        "draft": said.draft,
        "articles": rows,
        "logs": [{"member": s.member, "entries": s.entries, "complete": s.complete} for s in dossier.sources],
        "missing": list(dossier.missing),
        "asserted": asserted,
        "files": [str(path) for path in written],
    }
    return Result(fields, lines)


def _list() -> Result:
    from compliance.dossier.regime import builtin_regimes  # noqa: PLC0415 - reads the regimes' files
    from compliance.law.render import DRAFT  # noqa: PLC0415

    found = builtin_regimes().values()
    lines = [
        line
        for r in found
        for line in (
            f"{r.id}: {r.title}{f' ({DRAFT})' if r.draft else ''}",
            *(f"  {a.id:18} {a.citation}: {a.title}{'' if a.shows else ' (NOT COVERED)'}" for a in r.articles),
        )
    ]
    regimes = [
        {
            "id": r.id,
            "title": r.title,
            "version": r.version,
            "sha256": r.digest,
            "draft": r.draft,
            "articles": [{"id": a.id, "citation": a.citation, "covered": bool(a.shows)} for a in r.articles],
        }
        for r in found
    ]
    return Result({"regimes": regimes}, lines)

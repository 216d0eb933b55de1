"""What a reader takes along or sees computed: charts, evidence, exports, checks."""

from __future__ import annotations

import io
import zipfile
from functools import lru_cache
from typing import Final

from markupsafe import Markup

from compliance.canonical import sha256_hex
from compliance.desk import charts
from compliance.desk.ask import Ask, File, Page, not_found
from compliance.desk.model import Desk
from compliance.desk.pages_flow import chosen, flow
from compliance.desk.pages_study import TOP
from compliance.dossier.build import Files, build
from compliance.dossier.model import Dossier
from compliance.dossier.page import body, html
from compliance.dossier.regime import builtin_regimes
from compliance.export.make import FORMATS
from compliance.export.make import export as write_export

_SVG: Final = "image/svg+xml"
_DRAWN: Final = 8  # studies whose charts are drawn at the start
_FORMATS: Final = (("jsonl", "JSONL"), ("csv", "CSV"), ("fhir", "FHIR R4"))


def draw(desk: Desk) -> None:
    """Draw what readers will ask for first: the first chart of a process takes seconds."""
    for theme in ("light", "dark"):
        transfers_chart(desk, Ask({}, {"theme": theme}))
        for digest in list(desk.curves)[:_DRAWN]:
            privacy_chart(desk, Ask({}, {"theme": theme, "study": digest}))


def transfers_chart(desk: Desk, ask: Ask) -> File:
    """The flow by jurisdiction as an image; its data stand in the table beside it."""
    rows = flow(desk, chosen(desk, ask))
    data = tuple((r["exporter_in"], r["recipient_in"], r["allowed"], r["denied"]) for r in rows)
    return File(_SVG, charts.flows(data, dark=ask.text("theme") == "dark"))


def privacy_chart(desk: Desk, ask: Ask) -> File:
    """The curves of one study as an image."""
    digest = ask.text("study")
    if digest not in desk.curves:
        raise not_found("such chart")
    return File(_SVG, charts.budgets(desk.curves[digest], dark=ask.text("theme") == "dark"))


def evidence(desk: Desk, ask: Ask) -> Page:
    """What can be taken along: evidence for the articles of a regime, and exports of logs."""
    facts = chosen(desk, ask)
    shown = [f for f in desk.studies.values() if facts is None or facts is f]
    fields = {"facts": facts, "shown": shown, "regimes": builtin_regimes().values(), "formats": _FORMATS}
    return Page("evidence.html", "Evidence and exports", "evidence", fields, TOP)


def dossier(desk: Desk, ask: Ask) -> Page:
    """What the logs show for each article of a regime."""
    made, shown = _dossier(desk, ask)
    where = f"/evidence/{made.regime.id}/{made.study.digest}"
    fields = {"made": made, "body": shown, "where": where}
    return Page("dossier.html", f"Evidence: {made.regime.title}", "evidence", fields, (*TOP, ("Evidence", "/evidence")))


def dossier_file(desk: Desk, ask: Ask) -> File:
    """The same as one file: JSON, which `residency verify` checks, or a page that prints."""
    (made, _), form = _dossier(desk, ask), str(ask.path["form"])
    name = f"{made.regime.id}-{made.study.digest[:12]}.dossier"
    if form == "json":
        return File("application/json", made.encode(), f"{name}.json")
    if form == "html":
        return File("text/html; charset=utf-8", html(made, f"{name}.json").encode(), f"{name}.html")
    raise not_found(f"form {form[:20]!r} of evidence")


def _dossier(desk: Desk, ask: Ask) -> tuple[Dossier, Markup]:
    regime, facts = str(ask.path["regime"]), desk.studies.get(str(ask.path["study"]))
    if regime not in builtin_regimes() or facts is None:
        raise not_found("such evidence")
    return _built(desk, regime, facts.digest)


@lru_cache(maxsize=64)
def _built(desk: Desk, regime: str, study: str) -> tuple[Dossier, Markup]:
    """The dossier and its page; made once, since what it is made from does not change."""
    packs, regions = desk.law
    held = {sha256_hex(raw): raw for raw in (*(p.raw for p in packs.values()), *(r.raw for r in regions.values()))}
    place = desk.studies[study].place
    signed = place.contents.file("study.json") if place and place.contents else b""
    made = build(builtin_regimes()[regime], study, desk.views_of(study), desk.anchor, Files(signed, held))
    return made, Markup(body(made))  # noqa: S704 - escaped where it is made


def export(desk: Desk, ask: Ask) -> File:
    """All entries of a log that are shown, unsigned, as an archive of the files that `residency log export` writes."""
    log, form = desk.logs.get(ask.number("log")), str(ask.path["form"])
    name = next((known for known in FORMATS if known == form), None)
    if log is None or name is None:
        raise not_found("such export")
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, content in sorted(write_export(log.view, name).items()):
            archive.writestr(zipfile.ZipInfo(file), content, zipfile.ZIP_DEFLATED)
    return File("application/zip", data.getvalue(), f"{log.view.member}-{name}-unsigned.zip")


def verify(desk: Desk, ask: Ask) -> Page:
    """The places that can be checked, with what was found when the desk started."""
    del ask
    return Page("verify.html", "Verify", "verify", {"places": desk.places}, TOP)

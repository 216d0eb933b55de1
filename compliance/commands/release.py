"""`residency release`: build a bundle from a finished run, and show one."""

from __future__ import annotations

from pathlib import Path

import click

from compliance.canonical import Json
from compliance.cli import Result, command, table
from compliance.clock import now, parse_time
from compliance.errors import InputError, NoTrustAnchor
from compliance.files import absolute, quoted, refuse_existing
from compliance.identity import Signer, load_signer
from compliance.log.store import LogStore
from compliance.release.bom import BOM_FILE
from compliance.release.build import build_bundle, model_digest
from compliance.release.bundle_folder import read_folder, write_folder
from compliance.release.case import Contents
from compliance.release.manifest import ATTACHED, PATH
from compliance.release.model_signature import SIGNATURE_FILE
from compliance.release.verify import verify_bundle
from compliance.trust.root import Anchor, load_anchor


@click.group("release")
def release() -> None:
    """Build and show releases.

    \b
    Example: residency release show out/bundle
    """


@release.command("build")
@click.argument("run_folder", type=click.Path(path_type=Path))
@click.option("--key", required=True, type=click.Path(path_type=Path), help="The operator's private key.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The bundle's folder; must not exist.")
@click.option("--trust", type=click.Path(path_type=Path), help="Default: trust.json of the operator's home.")
@click.option("--at", default=None, help="Judge as of this UTC time (default: now).")
@command("residency.release.build/1")
def build(run_folder: Path, key: Path, out: Path, trust: Path | None, at: str | None) -> Result:
    """Make a bundle of a finished run, verify it, and only then put it in place.

    \b
    Example: residency release build server/runs/R --key server/keys/operator.key --out bundle
    """
    refuse_existing(out)
    anchor = load_anchor(_trust_file(key, trust))
    when = parse_time(at, "--at") if at else now()
    signer = load_signer(key)
    files = build_bundle(read_folder(run_folder), signer, anchor)

    contents = Contents(files)
    manifest, model = contents.envelope(PATH).digest, model_digest(files)

    def check(written: dict[str, bytes]) -> None:
        report = verify_bundle(written, anchor, when)
        if report.error:
            raise report.error
        _record(_operator_log(key), anchor, signer, contents.study_digest, {"manifest": manifest, "model": model})

    write_folder(out, files, check)
    cleared = list(contents.manifest.cleared)
    fields = {"bundle": str(out), "manifest": manifest, "model_sha256": model, "files": len(files), "cleared": cleared}
    lines = [
        f"built and verified: {out} ({len(files)} files, manifest {manifest[:16]})",
        f"cleared for {', '.join(cleared) or 'nobody'}: by the logged decisions no other site may have it",
    ]
    lines.append(f"next: residency verify {quoted(out)} --trust trust.json, on another machine")
    return Result(fields=fields, lines=lines)


def _operator_log(key: Path) -> Path:
    """The operator's log, in the home that holds the key. A release that is not logged is not made."""
    log = absolute(key, "the key file").parent.parent / "log.db"
    if not log.is_file():
        raise InputError(
            "RSD-9044",
            "the operator's log is not in the home that holds this key",
            rule="a release is logged before it exists",
            found=f"no {log}",
            limit="HOME/log.db beside HOME/keys/operator.key",
            next="give the key in the operator's home",
        )
    return log


def _record(log: Path, anchor: Anchor, signer: Signer, study: str, body: dict[str, Json]) -> None:
    origin = anchor.trust.log_origin(anchor.trust.operator.name)
    with LogStore.open(log, origin, signer.private) as store:
        store.append("release", body, study)


def _trust_file(key: Path, given: Path | None) -> Path:
    default = absolute(key, "the key file").parent.parent / "trust.json"
    if given is None and not default.is_file():
        raise NoTrustAnchor(
            "RSD-6015",
            "a release names the trust file under which it is made",
            found=f"no {default}",
            limit="trust.json",
            next="give --trust FILE",
        )
    return given or default


@release.command("show")
@click.argument("bundle", type=click.Path(path_type=Path))
@command("residency.release.show/1")
def show(bundle: Path) -> Result:
    """What a bundle says of itself, unverified: study, sites, rounds, eps. `residency verify` judges it.

    \b
    Example: residency release show bundle
    """
    contents = Contents(read_folder(bundle))
    study, sites = contents.study, _sites(contents)
    fields = {
        "study": contents.study_digest,
        "name": study.name,
        "run": contents.manifest.run,
        "created": contents.manifest.created,
        "rounds": len(contents.rosters),
        "model_sha256": model_digest(contents.files),
        "cleared": list(contents.manifest.cleared),
        "sites": sites,
        "for_other_tools": sorted(p for p in contents.files if p.startswith(ATTACHED)),
    }
    rows = [(s["name"], s["jurisdiction"], s["contributed"], _eps(s["epsilon_milli"])) for s in sites]
    head = f"{study.name} ({contents.study_digest[:16]}), run {contents.manifest.run}, {len(contents.rosters)} rounds"
    shown = table(("site", "jurisdiction", "rounds contributed", "eps"), rows)
    whom = f"cleared for {', '.join(contents.manifest.cleared) or 'nobody'}"
    lines = [head, *shown, whom, f"for other tools: {_attached(contents)}", "not verified: residency verify"]
    return Result(fields=fields, lines=lines)


def _attached(contents: Contents) -> str:
    """What is there for other people's tools, in a line."""
    folders = (("attestations", "in-toto statements", ".jsonl"), ("proofs", "proofs of entries", ".tlog-proof"))
    counted = [f"{sum(n.endswith(end) for n in contents.under(folder))} {what}" for folder, what, end in folders]
    return ", ".join([*(p for p in (BOM_FILE, SIGNATURE_FILE) if p in contents.files), *counted])


def _sites(contents: Contents) -> list[dict[str, Json]]:
    spent = {s.site: s.epsilon_milli for s in contents.claims.sites}
    out: list[dict[str, Json]] = []
    for site in contents.study.sites:
        rows = [row for r in contents.rosters if (row := r.roster.row(site.name)) is not None]
        shown = {
            "name": site.name,
            "jurisdiction": site.jurisdiction,
            "contributed": sum(row.outcome == "contributed" for row in rows),
            "epsilon_milli": spent.get(site.name),
        }
        out.append(shown)
    return out


def _eps(milli: object) -> str:
    return f"{milli / 1000:.3f}" if isinstance(milli, int) else "-"

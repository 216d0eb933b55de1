"""What is tried against the federation, by the public commands, and what stops it."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from compliance.errors import RunFailed
from compliance.files import write_durably
from compliance.trust.root import load_anchor
from demo import federation, governance, insider
from demo.cast import DENIED, INSIDER, LEDGER_SITE, STRICT_SITE, TRAINING, Folders
from demo.crew import Crew, Outcome
from demo.papers import Terms
from server.bundle_build import build_bundle

STOLEN_EPSILON_MILLI: Final = 50_000
EVIL_FILE: Final = "client/app.py"
_EVIL_CODE: Final = "raise SystemExit('operator code ran at a hospital')\n"


@dataclass(frozen=True)
class Stopped:
    """One attempt that failed: where, by which code, and the error's own words."""

    attack: str
    site: str
    code: str
    detail: str
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The public part of it."""
        return {"attack": self.attack, "site": self.site, "code": self.code, "detail": self.detail}


def _insist(outcome: Outcome, exit_code: int, code: str) -> dict[str, Any]:
    record = outcome.json()
    error = record.get("error") or {}
    if outcome.exit_code != exit_code or (code and error.get("code") != code):
        raise RunFailed(
            "RSD-8906",
            f"an attack was not stopped as it should be: residency {' '.join(outcome.args[:2])}: {error}",
            rule="the demo fails if an attack succeeds",
            found=f"exit {outcome.exit_code} {error.get('code', '')}",
            limit=f"exit {exit_code} {code}",
            next="report it with the demo's logs",
        )
    return record


def evil_bundle(path: Path) -> Path:
    """The app bundle of the release with one more file: code that would shadow the installed client."""
    content, _ = build_bundle()
    out = io.BytesIO(content)
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr(zipfile.ZipInfo(EVIL_FILE, (1980, 1, 1, 0, 0, 0)), _EVIL_CODE)
    write_durably(path, out.getvalue())
    return path


def code_in_bundle(crew: Crew, folders: Folders, signed: Path) -> Stopped:
    """The operator starts the approved study with a bundle that holds code: every site refuses, the run fails."""
    bundle = evil_bundle(folders.harness / "bundle-with-code.zip")
    outcome = federation.start_run(crew, folders, signed, "--bundle", bundle)
    record = _insist(outcome, 8, "")
    reasons = {str(s["name"]): str(s["code"]) for s in record.get("sites", [])}
    wrong = {name: code for name, code in reasons.items() if code != "RSD-1103"}
    if wrong or len(reasons) < len(TRAINING):
        raise RunFailed("RSD-8906", f"not every site refused the code: {reasons}", found=str(wrong), limit="RSD-1103")
    return Stopped(
        "code in the bundle",
        ", ".join(sorted(reasons)),
        "RSD-1103",
        f"{EVIL_FILE} in the zip; refused by {len(reasons)} of {len(reasons)} sites, run ended with exit 8",
        outcome.seconds,
    )


def greedy_study(crew: Crew, folders: Folders, terms: Terms) -> Stopped:
    """A study that asks for epsilon 50 reaches a signatory's desk; the approve command refuses it."""
    greedy = replace(terms, name="thyroid-greedy", epsilon_milli=STOLEN_EPSILON_MILLI)
    signed = governance.sign_study(crew, folders, greedy, folders.out / "study-greedy.json")
    office = folders.office(STRICT_SITE)
    advice = folders.harness / "greedy.advice.json"
    crew.done(
        "study", "advise", signed, "--key", office / "dpo.key", "--unfavourable", "--text", "Epsilon 50 is too much.",
        "--out", advice,
    )  # fmt: skip
    outcome = crew.run(
        "study", "approve", signed, "--key", office / "signatory.key", "--advice", advice,
        "--policy", office / "policy.json", "--trust", folders.trust, "--against-advice", "The operator insists.",
        "--out", folders.harness / "greedy.approval.json", "--json",
    )  # fmt: skip
    error = _insist(outcome, 4, "RSD-2101")["error"]
    return Stopped("a study that asks for eps 50", STRICT_SITE, "RSD-2101", _compared(error), outcome.seconds)


def _compared(error: dict[str, Any]) -> str:
    return f"{error.get('rule', '')}: {error.get('found', '')}, limit {error.get('limit', '')}"


def one_more_study(crew: Crew, folders: Folders, terms: Terms) -> Stopped:
    """Beside a study that a site has joined, whose budget is reserved, its ledger cannot pay for the same one again."""
    second = replace(terms, name="thyroid-again")
    signed = governance.sign_study(crew, folders, second, folders.out / "study-again.json")
    outcome = crew.run("study", "check", signed, "--home", folders.home(LEDGER_SITE), "--json")
    error = _insist(outcome, 4, "RSD-4101")["error"]
    detail = f"{error.get('limit', '')}, {error.get('found', '')}"
    return Stopped("one more study than the ledger can pay", LEDGER_SITE, "RSD-4101", detail, outcome.seconds)


def insider_attack(crew: Crew, folders: Folders) -> Stopped:
    """An insider cuts the denial out of a site's log and signs it again; a peer's kept checkpoint convicts it."""
    anchor = load_anchor(folders.trust)
    peer = next(s.name for s in TRAINING if s.name != INSIDER)
    forgery = insider.forge(folders.home(INSIDER), anchor, INSIDER, DENIED, folders.harness)
    origin = anchor.trust.log_origin(INSIDER)
    held = insider.held_by_peer(folders.home(peer), anchor, peer, origin, folders.harness)
    against = [word for path in held for word in ("--against", str(path))]
    crew.done("verify", forgery.honest, "--trust", folders.trust, *against, "--json")
    outcome = crew.run("verify", forgery.evidence, "--trust", folders.trust, *against, "--json")
    record = _insist(outcome, 1, "")
    error = record.get("error") or {}
    detail = f"entry {forgery.cut_index} of {forgery.entries} cut; {error.get('message', '')}"
    return Stopped(
        "insider re-signs a cut log", INSIDER, str(error.get("code", "")), f"{detail} (held by {peer})", outcome.seconds
    )

"""Decisions in logs, read where they lie and made again from what was logged and the packs of their day.

A source is a bundle or run folder, the evidence of one log, or an agent's or operator's home or log.db. Nothing is
judged here but whether the decision follows: signatures and completeness are `verify`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from compliance.canonical import b64decode, parse_json
from compliance.errors import InputError
from compliance.files import read_bytes
from compliance.law.model import Decision
from compliance.law.pack import Pack, builtin_packs, load_pack
from compliance.law.regions import Regions, load_regions
from compliance.log import tree
from compliance.log.entry import Entry, decode
from compliance.log.evidence import LogEvidence
from compliance.log.read_only import ReadOnlyDatabase, look
from compliance.log.view import is_database
from compliance.release.bodies import LoggedDecision, read_decision
from compliance.release.bundle_folder import read_folder
from compliance.release.case import Contents
from compliance.release.verify_decisions import again
from compliance.release.verify_packs import undecided
from compliance.release.verify_told import mistimed
from compliance.study import Study
from compliance.validation import load_model

Outcome = Literal["same", "otherwise", "not decided", "cannot"]


@dataclass(frozen=True)
class Source:
    """Decisions by log, with the packs and region sets, by digest, that are at hand to make them again.

    `study`: that of a folder, by its digest; it tells in which term decisions about it must lie.
    """

    decisions: Mapping[str, tuple[tuple[Entry, LoggedDecision], ...]]
    packs: Mapping[str, Pack]
    regions: Mapping[str, Regions]
    study: tuple[str, Study] | None = None


@dataclass(frozen=True)
class Replayed:
    """What came of one decision. `why` names each field that differs, or what is missing."""

    log: str
    entry: Entry
    logged: LoggedDecision
    outcome: Outcome
    why: tuple[str, ...] = ()


def read_source(path: Path, packs: Path | None = None) -> Source:
    """`packs`: a folder with older packs and their regions.yaml, beside those of the source and of this package.

    Raises InputError RSD-2005, RSD-3075 (no such source), RSD-9040, RSD-9041, and CheckFailed where the source is
    not what it should be.
    """
    found_packs = {p.digest: p for p in builtin_packs().values()}
    found_regions = {load_regions().digest: load_regions()}
    if packs is not None:
        _add(packs, found_packs, found_regions)
    study = None
    if (path / "log.db").is_file():
        logs = _database(path / "log.db")
    elif path.is_dir():
        contents = Contents(read_folder(path))
        if "regions.yaml" in contents.files:
            found_regions[contents.regions.digest] = contents.regions
            found_packs |= contents.packs
        study = (contents.study_digest, contents.study) if "study.json" in contents.files else None
        logs = {member: [log.entries[i] for i in sorted(log.entries)] for member, log in contents.logs.items()}
    else:
        logs = _file(path)
    decisions = {name: tuple(_decisions(name, entries)) for name, entries in logs.items()}
    if not any(decisions.values()):
        raise InputError(
            "RSD-3075",
            f"{path} holds no decisions",
            rule="decisions stand in the logs of sites and operator",
            found=", ".join(logs) or "no log",
            limit="a bundle, a run folder, a home, the evidence of a log, or a log.db",
            next="give one of those",
        )
    return Source(decisions, found_packs, found_regions, study)


def _add(folder: Path, packs: dict[str, Pack], regions: dict[str, Regions]) -> None:
    own = folder / "regions.yaml"
    sets = load_regions(own) if own.is_file() else load_regions()
    regions[sets.digest] = sets
    found = [load_pack(path, sets) for path in sorted(folder.glob("*.yaml")) if path != own]
    packs |= {pack.digest: pack for pack in found}


def _file(path: Path) -> dict[str, list[Entry]]:
    if is_database(path):
        return _database(path)
    what = str(path)
    evidence = load_model(LogEvidence, parse_json(read_bytes(path, "log"), what), "RSD-9041", what)
    return {path.stem: [decode(b64decode(e.entry, f"entry {e.index} in {what}")) for e in evidence.entries]}


def _database(path: Path) -> dict[str, list[Entry]]:
    def entries(connection: object) -> dict[str, list[Entry]]:
        with ReadOnlyDatabase(path, connection).reading() as reading:  # type: ignore[arg-type]
            origin = reading.execute("SELECT origin FROM log").fetchone()[0]
            return {path.parent.name or origin: list(tree.read(reading, origin, 0, tree.size(reading)))}

    return look(path, entries)


def _decisions(name: str, entries: list[Entry]) -> list[tuple[Entry, LoggedDecision]]:
    chosen = [e for e in entries if e.kind == "decision"]
    return [(e, read_decision(e, f"entry {e.index} of log {name}")) for e in chosen]


def replay(source: Source) -> list[Replayed]:
    """Every decision, made again, in the order of the logs."""
    return [made(source, name, entry, logged) for name, rows in source.decisions.items() for entry, logged in rows]


def made(source: Source, log: str, entry: Entry, logged: LoggedDecision) -> Replayed:
    """One decision, made again from its logged transfer, which is of about the time of the entry."""
    decision = logged.decision
    about = source.study[1] if source.study and source.study[0] == decision.transfer.study else None
    wrong = tuple(f"{what}: {found}, {limit}" for what, found, limit in mistimed(about, entry, decision.transfer))
    if wrong:
        return Replayed(log, entry, logged, "otherwise", wrong)
    if undecided(decision):
        return Replayed(log, entry, logged, "not decided", (f"{decision.rule} was said before any rule was asked",))
    lacks = [f"pack {name} {digest}" for name, digest in decision.packs.items() if digest not in source.packs]
    lacks += [f"region sets {decision.regions}"] if decision.regions not in source.regions else []
    if lacks:
        return Replayed(log, entry, logged, "cannot", tuple(f"not at hand: {what}" for what in lacks))
    repeated = again(decision, dict(source.packs), source.regions[decision.regions].raw)
    why = _differences(decision, repeated)
    return Replayed(log, entry, logged, "otherwise" if why else "same", why)


def _differences(logged: Decision, repeated: Decision) -> tuple[str, ...]:
    ours, theirs = repeated.as_entry(), logged.as_entry()
    return tuple(f"{f}: logged {v}, again {ours[f]}" for f, v in theirs.items() if ours[f] != v)

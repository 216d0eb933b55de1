"""Dossiers of the synthetic world, made from its bundle's logs as an auditor has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from compliance.canonical import canonical, parse_canonical
from compliance.dossier.build import Files, build
from compliance.dossier.model import Dossier
from compliance.dossier.regime import Regime, regime_called
from compliance.dossier.verify import verify_dossier
from compliance.law.pack import builtin_packs
from compliance.law.regions import load_regions
from compliance.log.view import LogView, view_of
from compliance.release.case import Contents
from compliance.release.report import Report
from tests.world import AT, World, world


def views(made: World | None = None, *members: str) -> tuple[LogView, ...]:
    """The logs in the run folder; all of them, or those of `members`."""
    logs = Contents((made or world()).run).logs
    return tuple(view_of(log.evidence, name) for name, log in logs.items() if not members or name in members)


def files(made: World | None = None) -> Files:
    """The signed study and the packs of this package."""
    packs = {p.digest: p.raw for p in builtin_packs().values()}
    regions = load_regions()
    return Files((made or world()).run["study.json"], {**packs, regions.digest: regions.raw})


@cache
def dossier(regime: str, *members: str) -> Dossier:
    """A dossier of the ordinary world."""
    return made_of(regime_called(regime), views(None, *members))


def made_of(regime: Regime, shown: Iterable[LogView], made: World | None = None) -> Dossier:
    """A dossier from these logs."""
    own = made or world()
    return build(regime, own.study_digest, tuple(shown), own.anchor, files(own))


def verdict(data: bytes | Dossier, made: World | None = None, logs: Iterable[LogView] | None = None) -> Report:
    """What verification with the world's trust file says, the day after."""
    shown = data.encode() if isinstance(data, Dossier) else data
    return verify_dossier(shown, (made or world()).anchor, AT, None if logs is None else tuple(logs))


def changed(found: Dossier, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The bytes of the dossier after `change(its JSON)`, in canonical form again."""
    raw = parse_canonical(found.encode().rstrip(b"\n"), "dossier")
    change(raw)
    return canonical(raw) + b"\n"


def failed(report: Report) -> tuple[int, str]:
    """Number of the false step and what it says; (0, "") if every step holds."""
    if report.failed is None or report.error is None:
        return 0, ""
    return report.failed.step.number, report.error.message

"""The state of a set of packs: what was read where, what cases and proofs say of it, how fast it decides."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compliance.canonical import Json
from compliance.errors import InputError
from compliance.law.cases import FOLDER, CaseFile, CaseResult, load_folder, run_cases
from compliance.law.fields import NOBODY
from compliance.law.pack import Pack, builtin_packs, load_pack
from compliance.law.proofs import Proof, prove
from compliance.law.regions import Regions, load_regions
from compliance.law.timing import decision_seconds


@dataclass(frozen=True)
class LawFiles:
    """Packs by id, with the region sets and reference cases that go with them."""

    packs: Mapping[str, Pack]
    regions: Regions
    cases: tuple[CaseFile, ...]


@dataclass(frozen=True)
class Checked:
    """What was found."""

    files: LawFiles
    results: tuple[CaseResult, ...]
    proofs: tuple[Proof, ...]
    decision_us: int

    @property
    def passed(self) -> bool:
        """Every case came as expected, and every statement is proved."""
        return all(r.passed for r in self.results) and all(p.proved for p in self.proofs)

    def fields(self) -> dict[str, Json]:
        """The fields of `law check --json`."""
        packs = self.files.packs.values()
        rules = [(pack, rule) for pack in packs for rule in pack.rules]
        return {
            "packs": len(packs),
            "reviewed_rules": sum(pack.reviewer_of(rule) != NOBODY for pack, rule in rules),
            "rules": len(rules),
            "primary_sourced": sum(rule.source_kind == "primary" for _, rule in rules),
            "cases": len(self.results),
            "cases_passed": sum(r.passed for r in self.results),
            "proofs": [p.as_json() for p in self.proofs],
            "decision_us_p50": self.decision_us,
        }


def load_files(folder: Path | None) -> LawFiles:
    """The package's own files; or `*.yaml` of the folder, with its regions.yaml and cases/ where it has them.

    Raises InputError RSD-2005, RSD-3001, RSD-3002, and RSD-3070 for a folder without packs.
    """
    if folder is None:
        return LawFiles(builtin_packs(), load_regions(), load_folder())
    own = folder / "regions.yaml"
    regions = load_regions(own) if own.is_file() else load_regions()
    packs = [load_pack(path, regions) for path in sorted(folder.glob("*.yaml")) if path != own]
    if not packs or len({pack.id for pack in packs}) != len(packs):
        raise InputError(
            "RSD-3070",
            f"{folder} holds no law packs, or two of one id",
            rule="one file, one pack",
            found=", ".join(pack.id for pack in packs) or "no *.yaml",
            limit="each pack once",
            next="give the folder that holds the packs",
        )
    cases = folder / "cases"
    return LawFiles({p.id: p for p in packs}, regions, load_folder(cases if cases.is_dir() else FOLDER))


def check(files: LawFiles) -> Checked:
    """Decide every case of the packs that are there, prove every statement, and take the time of decisions."""
    known = tuple(f for f in files.cases if f.pack in files.packs)
    results = run_cases(known, files.packs, files.regions)
    times = decision_seconds(files.packs, known, files.regions)
    median = round(statistics.median(times) * 1e6) if times else 0
    return Checked(files, results, prove(files.packs, files.regions), median)

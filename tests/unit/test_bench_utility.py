"""`residency bench utility` on invented tables: its splits, its arms, FLamby's recipe, its intervals."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bench import utility, utility_flamby
from bench.utility_arms import Trial, noise_micro
from bench.utility_data import HOSPITALS, eicu, eicu_split, heart, heart_split
from bench.utility_figures import compared, interval, lines
from bench.utility_settings import EICU, HEART
from compliance.errors import InputError
from compliance.privacy.accounting import epsilon
from compliance.privacy.events import PrivacyEvent
from compliance.study_event import TV_ERROR_FEMTO_PER_ROUND

ROWS = {"cleveland": 60, "hungarian": 41, "switzerland": 41, "va": 41}


def write_heart(folder) -> None:
    """Four hospitals in UCI's form: sick people are older and have chest pain 4; the third has one class."""
    rng = np.random.default_rng(1)
    folder.mkdir()
    for name in HOSPITALS:
        rows = []
        for i in range(ROWS[name]):
            sick = 1 if name == "switzerland" else int(rng.integers(0, 2))
            chol = 0 if name == "switzerland" else int(rng.integers(150, 350))
            age, pain = int(rng.integers(30, 55) + 20 * sick), 4 if sick else int(rng.integers(1, 4))
            row = [age, int(rng.integers(0, 2)), pain, int(rng.integers(100, 170)), chol, int(rng.integers(0, 2)),
                   int(rng.integers(0, 3)), int(rng.integers(90, 180)), sick, round(float(rng.uniform(0, 3)), 1),
                   2, "?" if i % 2 else 0, "?", sick * int(rng.integers(1, 5))]  # fmt: skip
            if i == 5:
                row[3] = "?"  # a row that the cleaning drops
            rows.append(",".join(str(v) for v in row))
        (folder / f"processed.{name}.data").write_text("\n".join(rows) + "\n")


def write_eicu(folder) -> None:
    """Stays in two regions, up to four a patient, one patient in both regions; one outcome is not known."""
    rng, rows = np.random.default_rng(2), []
    for patient in range(120):
        for stay in range(1 + patient % 4 // 2 * 3):
            died = int(rng.random() < 0.3)
            rows.append({
                "uniquepid": f"p{patient}", "region": "South" if patient % 2 or stay == 3 else "Midwest",
                "died_hosp": died, "age_num": 50 + 25 * died + rng.integers(0, 10),
                **{c.column: rng.uniform(0, 90) for c in EICU.task.numeric[1:]}, "unitadmitsource": "Floor",
            })  # fmt: skip
    table = pd.DataFrame(rows)
    table.loc[7, "died_hosp"] = None
    table.loc[9, "urine"] = None
    folder.mkdir()
    table.to_csv(folder / "eicu_demo_midwest_south.csv", index=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_heart(root / "heart")
    write_eicu(root / "eicu_demo")
    return root


@pytest.fixture(scope="module")
def hospitals(folder):
    return heart(folder / "heart")


def test_hospitals_are_cleaned_and_cut_as_flamby_does(hospitals):
    assert {n: len(f) for n, f in hospitals.items()} == {n: rows - 1 for n, rows in ROWS.items()}
    assert "thal" not in hospitals["va"]
    one, again, other = heart_split(hospitals, 43), heart_split(hospitals, 43), heart_split(hospitals, 44)
    for name, part in one.items():
        assert len(part.train) == int(0.66 * (ROWS[name] - 1))
        assert len(part.train) + len(part.test) == ROWS[name] - 1
        assert part.train.index.tolist() == again[name].train.index.tolist() != other[name].train.index.tolist()
    sick = [(p["num"] > 0).mean() for p in (one["cleveland"].train, one["cleveland"].test)]
    assert abs(sick[0] - sick[1]) < 0.05, "cut by class"


def test_a_person_is_never_on_both_sides_of_a_cut(folder):
    sites = eicu(folder / "eicu_demo")
    assert set(sites) == {"midwest", "south"}
    assert set(sites["midwest"]["uniquepid"]) & set(sites["south"]["uniquepid"]), "the table has people in both"
    for seed in (43, 44):
        parts = eicu_split(sites, seed).values()
        assert not set().union(*(p.train["uniquepid"] for p in parts)) & set().union(
            *(p.test["uniquepid"] for p in parts)
        )


def test_missing_files_are_named(tmp_path):
    for load in (heart, eicu):
        with pytest.raises(InputError, match="RSD-2352"):
            load(tmp_path)


@pytest.mark.parametrize(("setting", "target"), [(HEART, 1.0), (EICU, 8.0)])
def test_the_noise_costs_what_is_said(setting, target):
    noise, rounds = noise_micro(setting, target), setting.private.rounds
    event = PrivacyEvent(
        noise_multiplier_micro=noise, sample_numerator=1, sample_denominator=1, steps=rounds, unit="record",
        tv_error_femto=TV_ERROR_FEMTO_PER_ROUND * rounds,
    )  # fmt: skip
    assert 0.99 * target < epsilon([event], setting.inverse_delta) / 1000 <= target


def test_noise_is_new_in_every_run_and_without_it_all_arms_agree(hospitals):
    trial, noise = Trial(HEART, heart_split(hospitals, 43)), 1_500_000
    assert trial.federated(noise).tobytes() != trial.federated(noise).tobytes()
    plain = trial.federated(None)
    assert plain.tobytes() == trial.federated(None).tobytes()
    # Public weights, full batches and one step a round: without noise the federation is gradient descent on all rows,
    # up to the rounding of the counts.
    assert np.abs(plain - trial.pooled(None)).max() < 0.2 * np.abs(plain).max()


def test_flambys_recipe_learns_and_its_eps_is_understated(hospitals):
    parts = heart_split(hospitals, 43)
    plain = utility_flamby.accuracies(parts, utility_flamby.Recipe(1e-2, None, 5000), 4, 43)
    private = utility_flamby.Recipe(1.0, 1.0, 5000)
    loud = utility_flamby.accuracies(parts, private, 40, 43)
    assert plain.shape == (4,)
    assert plain.min() > 0.85
    assert loud.mean() < plain.min()
    assert utility_flamby.true_epsilon_milli(parts, private) > 1500


def test_intervals_are_students_over_the_splits():
    rng = np.random.default_rng(3)
    runs = rng.normal(0.02, 0.01, (8, 5))
    found = interval(runs)
    expected = stats.t.interval(0.95, 7, loc=runs.mean(), scale=runs.mean(1).std(ddof=1) / math.sqrt(8))
    assert found["interval"] == pytest.approx(expected, abs=1e-4)
    half, wide = (np.diff(found[k])[0] / 2 for k in ("interval", "corrected"))
    assert wide / half == pytest.approx(math.sqrt(1 + 8 * 0.34 / 0.66), abs=0.1)
    ours = {"federated": runs + 0.5, "alone": runs + 0.4}
    found = compared(ours, {"x": 0.5})["differences"]
    assert found["federated - alone"] == {"mean": 0.1, "interval": [0.1, 0.1], "corrected": [0.1, 0.1]}
    assert found["federated - published x"]["mean"] == pytest.approx(runs.mean(), abs=1e-4)


def test_the_short_bench_shows_the_form(folder):
    said: list[str] = []
    found = utility.measure(utility.short(), folder, said.append)
    json.dumps(found)
    assert [d["name"] for d in found["datasets"]] == ["heart", "eicu_demo"]
    assert len(said) == 4
    for data in found["datasets"]:
        assert (data["splits"], data["repetitions"]) == (2, 2)
        assert [r["epsilon"] for r in data["results"]] == ["inf", "8"]
        for row in data["results"]:
            assert {"federated", "alone", "pooled"} <= set(row["arms"])
            assert all(0.3 < a["mean"] <= 1 for a in row["arms"].values())
            assert "federated - alone" in row["own_test"]["differences"]
            assert {"auroc", "brier", "ece", "f1"} <= set(row["figures"]["federated"])
    heart_, eicu_ = found["datasets"]
    assert "flamby" in heart_["results"][0]["arms"]
    assert "federated - published flamby_fedavg" in heart_["results"][0]["differences"]
    assert (heart_["unit"], eicu_["unit"]) == ("record", "patient")
    assert any("federated - pooled" in line for line in lines(found))

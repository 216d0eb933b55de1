"""The patient as the unit: who is drawn, with how many records, and that each has one clipped gradient."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from client.training.dpsgd import Engine
from client.training.encoder_top import build_top
from client.training.examples import Examples
from client.training.opacus_private import LatticeOptimizer
from client.training.per_sample import attach
from client.training.sampling import draw, members
from compliance.errors import InputError
from tests.tiny_bert import SeededStream, save_tiny_bert, tiny_examples, tiny_model, tiny_round, trained_start


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("model"))


def of_patients(units: list[int]) -> Examples:
    return replace(tiny_examples(len(units)), units=torch.tensor(units))


def patient_round(bound: int, **more):
    return tiny_round(unit="patient", records_per_unit=bound, **more)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(1, 5), st.integers(5, 12), st.integers(0, 2**31)
)
def test_units_are_drawn_whole_and_bounded(raw, bound, rows, seed):
    units = np.unique(raw, return_inverse=True)[1]
    who = members(of_patients(units.tolist()), "patient")
    mask, pieces = draw(SeededStream(seed), who, patient_round(bound, sample_denominator=2), rows)
    drawn = set(np.flatnonzero(mask))
    seen: list[int] = []
    for piece in pieces:
        records = piece.records.numpy()
        assert len(records) <= rows
        owners = units[records]
        assert len(set(owners[: piece.units])) == piece.units, "the first record of each unit comes first"
        assert (owners[piece.units :] == owners[piece.fold.numpy()]).all()
        assert len(set(records)) == len(records), "without replacement"
        for owner in set(owners):
            have = int((owners == owner).sum())
            assert have == min(bound, int((units == owner).sum()))
            assert np.allclose(piece.weights.numpy()[owners == owner], 1 / have)
        seen += list(set(owners))
    assert sorted(seen) == sorted(drawn), "every drawn unit is in exactly one piece"


def test_a_patients_records_are_chosen_evenly():
    who = members(of_patients([0] * 5), "patient")
    stream, counts = SeededStream(4), np.zeros(5)
    for _ in range(2000):
        _, pieces = draw(stream, who, patient_round(2, sample_denominator=1), 8)
        counts[pieces[0].records.numpy()] += 1
    assert abs(counts / 2000 - 0.4).max() < 0.05


def test_records_are_their_own_units_unless_the_study_says_patients():
    who = members(of_patients([0, 0, 1]), "record")
    assert who.count == 3
    _, pieces = draw(SeededStream(1), who, tiny_round(sample_denominator=1), 2)
    assert [len(p.records) for p in pieces] == [2, 1]
    assert draw(SeededStream(1), who, tiny_round(sample_denominator=10**9), 2)[1] == []
    assert (
        draw(SeededStream(1), members(of_patients([0]), "patient"), patient_round(1, sample_denominator=10**9), 2)[1]
        == []
    )


def test_patients_that_nobody_names_are_refused():
    with pytest.raises(InputError, match="RSD-4526"):
        members(tiny_examples(3), "patient")
    with pytest.raises(ValueError, match="records_per_unit"):
        tiny_round(records_per_unit=2)


@pytest.mark.parametrize("method", ["book-keeping", "opacus"])
@pytest.mark.parametrize("large", [False, True])
def test_a_patient_has_one_clipped_gradient_the_mean_of_the_records(folder, monkeypatch, method, large):
    """Against a loop over patients; sigma is taken out by reading what was clipped."""
    if large:
        monkeypatch.setattr(attach, "FLAT_BYTES", 0)
        monkeypatch.setattr(attach, "LARGE", 1)
    units = [0, 0, 0, 1, 2, 2, 3]
    examples, top = of_patients(units), build_top(tiny_model(folder), folder, 2)
    start = trained_start(top.get_flat().size)
    rows = []
    for unit in range(4):
        top.set_flat(start)
        top.zero_grad()
        mine = torch.tensor([i for i, u in enumerate(units) if u == unit])
        top.record_losses(*examples.take(mine, torch.device("cpu"))).mean().backward()
        rows.append(torch.cat([p.grad.flatten() for _, p in top.trained()]).double())
    top.zero_grad()
    clip = float(np.median([r.norm() for r in rows]))
    expected = sum(r * min(1.0, clip / float(r.norm())) for r in rows)
    seen = []
    honest = LatticeOptimizer.__init__
    monkeypatch.setattr(
        LatticeOptimizer, "__init__",
        lambda self, *a, observe, **k: honest(self, *a, observe=lambda s: (seen.append(s), observe(s)), **k),
    )  # fmt: skip
    spec = patient_round(3, sample_denominator=1, clip_micro=int(clip * 1e6), steps=1, physical_batch=4)
    engine = Engine(top, examples, torch.device("cpu"), method=method)
    engine.train(spec, start, SeededStream(2))
    gamma = int(clip * 1e6) / 1e6 / 2**16
    assert seen[0].norms.numel() == 4, "units are counted, not records"
    assert (seen[0].clipped.double() * gamma - expected).abs().max() < 4 * gamma + 1e-5

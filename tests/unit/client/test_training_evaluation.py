"""The noised counts of a site: each unit in one cell, noise as claimed, from the keystream alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from client.training.evaluation import count, place
from client.training.examples import Examples
from client.training.keystream import Keystream
from client.training.top import Top
from client.work import EvaluationSpec
from compliance.errors import InputError, RunFailed
from compliance.evaluation.histogram import scale_of
from tests.tiny_bert import SeededStream

NOISE = 1_000_000


class Linear(Top):
    """Two features to the classes' scores."""

    def __init__(self, classes=2):
        super().__init__()
        self.head = nn.Linear(2, classes)

    def forward(self, inputs):
        return self.head(inputs["x"])

    def record_losses(self, inputs, targets):
        return nn.functional.cross_entropy(self(inputs), targets, reduction="none")

    def trained_names(self):
        return {n: n for n in ("head.weight", "head.bias")}


def spec(rows=2, columns=10, noise=NOISE):
    return EvaluationSpec(noise_multiplier_micro=noise, scale=scale_of(noise), rows=rows, columns=columns)


def _examples(n, classes=2, units=None, seed=0):
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.normal(0, 2, (n, 2)).astype(np.float32))
    targets = torch.from_numpy(rng.integers(0, classes, n))
    return Examples({"x": x}, targets, None if units is None else torch.tensor(units))


def _counts(top, examples, wanted):
    flat = top.get_flat()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("client.training.evaluation.RoundedGaussian.sample", lambda _s, _t, n: np.zeros(n, np.int64))
        patched.setattr("client.training.evaluation._verdict", lambda *_: {})
        return count(top, examples, wanted, flat, Keystream.fresh()).cells / wanted.scale


def test_without_noise_every_record_is_in_the_cell_of_its_class_and_score():
    top, examples = Linear(), _examples(700)
    found = _counts(top, examples, spec()).reshape(2, 10)
    with torch.no_grad():
        p = torch.softmax(top(examples.inputs).double(), 1)[:, 1].numpy()
    wanted = np.zeros((2, 10))
    for target, score in zip(examples.targets.numpy(), p, strict=True):
        wanted[target, min(int(score * 10), 9)] += 1
    assert np.abs(found - wanted).sum() <= 2  # a score on an edge may round to either side
    assert found.sum() == 700


def test_more_classes_count_true_by_predicted():
    top, examples = Linear(4), _examples(300, 4)
    found = _counts(top, examples, spec(4, 4)).reshape(4, 4)
    with torch.no_grad():
        said = top(examples.inputs).argmax(1).numpy()
    wanted = np.zeros((4, 4))
    np.add.at(wanted, (examples.targets.numpy(), said), 1)
    assert (found == wanted).all()


@given(st.integers(1, 60), st.integers(0, 2**31), st.booleans())
@settings(deadline=None, max_examples=15)
def test_adding_a_unit_moves_the_cells_by_at_most_one_count_in_one_cell(n, seed, patients):
    """The sensitivity that is charged, with the draw of each other unit's record as it was."""
    top = Linear()
    rng = np.random.default_rng(seed)
    own = int(rng.integers(1, 4)) if patients else 1
    units = np.sort(rng.integers(0, n, n)) if patients else np.arange(n)
    units = np.unique(units, return_inverse=True)[1]
    all_units = np.concatenate([units, np.full(own, units.max() + 1)])
    whole = _examples(n + own, seed=seed, units=all_units.tolist())
    less = Examples({"x": whole.inputs["x"][:n]}, whole.targets[:n], torch.from_numpy(units))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("client.training.evaluation._one_a_unit", _first_of_each)
        moved = _counts(top, whole, spec()) - _counts(top, less, spec())
    assert (moved >= 0).all()
    assert np.count_nonzero(moved) == moved.sum() == 1


def _first_of_each(examples, _stream):
    return np.unique(examples.units.numpy(), return_index=True)[1].astype(np.int64)


def test_a_patient_counts_once_whatever_he_has_and_any_of_his_records_may_be_drawn():
    top, units = Linear(), [0] * 50 + [1, 2] + [3] * 10
    examples = _examples(len(units), units=units)
    with torch.no_grad():
        top.head.weight.zero_()
        top.head.bias.copy_(torch.tensor([0.0, 1.0]))
    seen = set()
    for _ in range(12):
        found = _counts(top, examples, spec())
        assert found.sum() == 4
        seen.add(tuple(found))
    assert len(seen) > 1  # the first patient has records of both classes


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_record_without_a_finite_score_counts_nowhere_and_says_nothing(bad):
    top, examples = Linear(), _examples(50)
    examples.inputs["x"][7, 0] = bad
    assert _counts(top, examples, spec()).sum() == 49


@pytest.mark.parametrize("scores", [[[0.0], [50.0], [-50.0]], [[0.0, 0.0], [-25.0, 25.0], [800.0, -800.0]]])
def test_one_score_or_two_and_the_upper_edge(scores):
    assert place(np.array(scores), spec()).tolist() == [5, 9, 0]


def test_the_noise_is_that_of_the_claim():
    top, examples = Linear(), _examples(40)
    silent = _counts(top, examples, spec(columns=100))
    flat, wanted = top.get_flat(), spec(columns=100)
    drawn = [count(top, examples, wanted, flat, Keystream.fresh()).cells / wanted.scale - silent for _ in range(20)]
    z = np.concatenate(drawn)
    assert 0.94 < z.std() < 1.06
    assert abs(z.mean()) < 0.07
    assert len({d.tobytes() for d in drawn}) == 20


def test_wrong_noise_fails_the_evaluation_and_repeated_noise_is_known_by_its_mark(monkeypatch):
    top, examples = Linear(), _examples(40)
    one, again, other = (count(top, examples, spec(), top.get_flat(), SeededStream(s)).marks for s in (1, 1, 2))
    assert one["fresh_noise"] == again["fresh_noise"] != other["fresh_noise"]
    assert len(one["fresh_stream"]) == len(one["fresh_noise"]) == 1
    monkeypatch.setattr("client.training.evaluation.RoundedGaussian.sample", lambda _s, _t, n: np.zeros(n, np.int64))
    with pytest.raises(RunFailed, match="noise_variance"):
        count(top, examples, spec(), top.get_flat(), Keystream.fresh())


def test_a_model_of_another_size_is_refused():
    top = Linear()
    with pytest.raises(InputError, match="RSD-4501"):
        count(top, _examples(5), spec(), np.zeros(3, "<f4"), Keystream.fresh())


def test_a_withdrawal_while_counting_ends_it():
    top, calls = Linear(), []

    def stop():
        calls.append(1)
        if len(calls) == 2:
            raise RunFailed("RSD-4620", "a subject was withdrawn")

    with pytest.raises(RunFailed, match="RSD-4620"):
        count(top, _examples(600), spec(), top.get_flat(), Keystream.fresh(), stop)

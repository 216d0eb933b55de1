"""What one record yields does not depend, at any bit, on which others share its pass or on where it stands in it."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from client.training import evaluation, top
from client.training.dpsgd import Engine
from client.training.examples import Examples
from client.training.keystream import Keystream
from client.training.per_sample import attach
from client.training.sampling import Piece, filled, members, pass_rows
from client.training.tabular_top import CELLS, TabularTop
from client.work import EvaluationSpec
from compliance.errors import InputError
from compliance.training_spec import BuiltIn
from tests.tiny_bert import tiny_round

WIDTH, WIDE = 14, 128
CPU = torch.device("cpu")


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def chaotic(monkeypatch):
    """A network whose pre-activations are the rounding errors of sums that are zero, times 1e12; and its vector."""
    monkeypatch.setattr(top, "MOST_VALUE", np.inf)
    built = BuiltIn(kind="mlp", hidden=(WIDE, WIDE), activation="tanh", init_seed=1)
    model, rng = TabularTop(built, WIDTH, 2, None), np.random.default_rng(3)
    wanted = {n: torch.zeros_like(p) for n, p in model.trained()}
    wanted["hidden.0.bias"][:] = 0.5
    half = rng.standard_normal((WIDE, WIDE // 2)).astype(np.float32) * np.float32(1e12)
    wanted["hidden.1.weight"][:] = torch.from_numpy(rng.permuted(np.concatenate([half, -half], 1), axis=1))
    wanted["head.weight"][:] = torch.from_numpy(rng.standard_normal((2, WIDE)).astype(np.float32)) * 0.05
    parts = [(wanted[n] - p.detach()).flatten() for n, p in model.trained()]
    return model, torch.cat(parts).numpy().astype(np.float32)


def same_rows(count):
    return Examples({CELLS: torch.full((count, WIDTH), 0.3)}, torch.ones(count, dtype=torch.int64))


def opened(model, examples, start, **changes):
    spec = tiny_round(
        **{"expected_batch": 64, "sample_numerator": 64, "sample_denominator": 256, "physical_batch": 64, **changes}
    )
    return Engine(model, examples, CPU).opened(spec, start, Keystream.fresh(), members(examples, "record"))


def test_one_record_moves_the_clipped_sum_by_the_sensitivity_whatever_vector_came(monkeypatch, two_threads):
    model, start = chaotic(monkeypatch)
    seen = []
    with opened(model, same_rows(40), start) as run:
        run.optimizer._observe = lambda step: seen.append(step.clipped)
        for count in range(1, 33):
            model.set_flat(start)
            rows = torch.split(torch.arange(count), run.source.rows)
            run.step([Piece(records, len(records)) for records in rows])
        lattice = run.optimizer._lattice
    moves = [float((b - a).double().norm()) * lattice.gamma for a, b in pairwise(seen)]
    assert max(moves) <= lattice.sensitivity


def test_one_record_moves_one_cell_of_the_evaluation_whatever_vector_came(monkeypatch, two_threads):
    model, start = chaotic(monkeypatch)
    spec = EvaluationSpec(noise_multiplier_micro=10**6, scale=2**15, rows=2, columns=20)
    model.set_flat(start)
    examples = same_rows(32)
    cells = [evaluation._counts(model, examples, torch.arange(n), spec, CPU) for n in range(1, 33)]
    assert all(np.abs(b - a).sum() == 1 for a, b in pairwise(cells))


@pytest.mark.parametrize(
    ("hidden", "large"), [((), False), ((7,), False), ((10, 6), False), ((64, 33), False), ((24, 40), True)]
)
def test_at_one_shape_a_gradient_depends_on_no_neighbour_and_no_place(monkeypatch, two_threads, hidden, large):
    if large:
        monkeypatch.setattr(attach, "FLAT_BYTES", 0)
        monkeypatch.setattr(attach, "LARGE", 1)
    kind = "mlp" if hidden else "logistic_regression"
    built = BuiltIn(kind=kind, hidden=hidden, activation="tanh", init_seed=1) if hidden else BuiltIn(kind=kind)
    model, rng = TabularTop(built, WIDTH, 2, None), torch.Generator().manual_seed(5)
    cells = torch.rand((96, WIDTH), generator=rng) * 2 - 1
    examples = Examples({CELLS: cells}, torch.arange(96) % 2)
    start = np.random.default_rng(2).normal(0, 0.3, model.get_flat().size).astype(np.float32)
    with opened(model, examples, start, physical_batch=32) as run:
        assert run.source.rows >= 16
        alone = {i: _gradient(run, torch.tensor([i]), 0) for i in range(8)}
        for _ in range(6):
            beside = torch.randperm(96, generator=rng)[: run.source.rows]
            for place, record in enumerate(beside.tolist()):
                if record in alone:
                    found = _gradient(run, beside, place)
                    assert all(torch.equal(a, b) for a, b in zip(alone[record], found, strict=True))
        run.optimizer.zero_grad(set_to_none=True)


def _gradient(run, records, place):
    """What stands in the buffer for the record at `place`, and the length of its whole gradient."""
    run._backward(Piece(records, len(records)))
    assert len(run.source.flat) == len(records), "fillers are no units"
    return run.source.flat[place].clone(), run.source.squared_norms()[place].clone()


def test_a_score_depends_on_no_place(monkeypatch, two_threads):
    model, rng = TabularTop(BuiltIn(kind="logistic_regression"), WIDTH, 2, None), torch.Generator().manual_seed(5)
    model.set_flat(np.random.default_rng(2).normal(0, 0.3, model.get_flat().size).astype(np.float32))
    examples = Examples({CELLS: torch.rand((64, WIDTH), generator=rng)}, torch.zeros(64, dtype=torch.int64))
    seen, honest = [], evaluation.place
    monkeypatch.setattr(evaluation, "place", lambda scores, spec: (seen.append(scores), honest(scores, spec))[1])
    spec = EvaluationSpec(noise_multiplier_micro=10**6, scale=2**15, rows=2, columns=20)
    order = torch.randperm(64, generator=rng)
    for chosen in (torch.arange(64), order, torch.arange(9)):
        evaluation._counts(model, examples, chosen, spec, CPU)
    assert (seen[0][order] == seen[1]).all()
    assert (seen[0][:9] == seen[2]).all()


def test_a_vector_beyond_the_bound_is_refused():
    model = TabularTop(BuiltIn(kind="logistic_regression"), WIDTH, 2, None)
    for value, fine in ((1e4, True), (-1e4, True), (1.001e4, False), (-1e12, False), (np.nan, False), (np.inf, False)):
        flat = np.zeros_like(model.get_flat())
        flat[3] = value
        if fine:
            model.set_flat(flat)
        else:
            with pytest.raises(InputError, match="RSD-4501"):
                model.set_flat(flat)


@pytest.mark.parametrize(
    ("changes", "numbers", "rows"),
    [
        ({"expected_batch": 32, "sample_numerator": 1, "sample_denominator": 1, "physical_batch": 64}, 64 * 384, 32),
        ({"expected_batch": 64, "sample_numerator": 1, "sample_denominator": 100, "physical_batch": 4}, 14, 4),
        ({"expected_batch": 5, "sample_numerator": 1, "sample_denominator": 100, "physical_batch": 64}, 64 * 384, 16),
        ({"expected_batch": 10**7, "sample_numerator": 1, "sample_denominator": 9, "physical_batch": 64}, 14, 64),
    ],
)
def test_the_rows_of_a_pass_follow_from_the_study(changes, numbers, rows):
    assert pass_rows(tiny_round(**changes), numbers) == rows


def test_a_pass_is_filled_up_with_what_it_holds():
    assert filled(torch.tensor([4, 2]), 5).tolist() == [4, 2, 2, 2, 2]

"""Large linear layers under cancellation: adding a unit moves the sum by at most what the lattice states."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from client.training.clipping import Factors, factors
from client.training.lattice import Lattice
from client.training.per_sample.summed import FLOOR, SUM_ERROR, SummedLinear, gram_is_cheaper

GRAM, BLOCKS = (64, 256, 192), (96, 256, 128)  # positions, rows, columns


def cancelling(shape, records, scale, *, same=False, alike=False, rest=1e-3, seed=0):
    """Factors whose positions cancel but for `rest`: at random places, or (`same`) half of them all the same one.

    `alike`: one record many times.
    """
    positions, rows, columns = shape
    rng, half = torch.Generator().manual_seed(seed), positions // 2
    count, some = (1 if alike else records), (1 if same else half)
    left = scale * torch.randn(count, some, rows, generator=rng).expand(records, half, rows)
    right = torch.randn(count, some, columns, generator=rng).expand(records, half, columns)
    order = torch.arange(2 * half) if same else torch.randperm(2 * half, generator=rng)
    left, right = torch.cat([left, -left], 1)[:, order], torch.cat([right, right], 1)[:, order]
    left[:, 0] += scale * rest
    return left, right


def sums(left, right, fold=None, without=0):
    """The layer after its norms, its factors, the lattice; and its clipped sum with all units and without one."""
    units, expected = len(left) - (0 if fold is None else len(fold)), len(left)
    layer = SummedLinear("w", (left.shape[2], right.shape[2]))
    layer.keep(left, right)
    size = left.shape[2] * right.shape[2]
    lattice = Lattice(1.0, size, 1.0, summed=size, sum_error=SUM_ERROR * expected)
    by = factors(layer.squared_norms(fold, units), lattice)
    plain, steps = by.plain.clone(), by.steps.clone()
    plain[without] = steps[without] = 0.0
    found = []
    for some in (by, Factors(plain, steps, by.bad)):
        into = torch.zeros(size, dtype=torch.float64)
        layer.add_clipped(into, some, lattice.gamma)
        found.append(torch.round(into / lattice.gamma) * lattice.gamma)
    return layer, by, lattice, found


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e4])
@pytest.mark.parametrize(("shape", "fold"), [(GRAM, None), (BLOCKS, None), (GRAM, torch.arange(16))])
def test_one_unit_moves_a_sum_that_cancels_by_the_sensitivity(shape, fold, scale):
    left, right = cancelling(shape, 32, scale)
    _, _, lattice, (with_it, without) = sums(left, right, fold)
    assert float((with_it - without).norm()) <= lattice.sensitivity


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize(("same", "alike"), [(False, False), (True, False), (True, True)])
def test_by_gram_matrices_the_rounding_of_the_sum_is_below_a_third_of_its_allowance(same, alike, scale):
    left, right = cancelling(GRAM, 32, scale, same=same, alike=alike)
    layer, by, _, _ = sums(left, right)
    weighted = (left.double() * by.plain.double()[:, None, None]).flatten(0, 1).t() @ right.double().flatten(0, 1)
    error = float((layer.weighted_sum(by.plain).double() - weighted.flatten()).norm())
    assert 0 < error <= SUM_ERROR * len(left) / 3


def test_in_blocks_nothing_is_lost():
    left, right = cancelling(BLOCKS, 32, 1e3)
    _, by, lattice, (with_it, _) = sums(left, right)
    each = torch.bmm(left.transpose(1, 2), right).flatten(1)
    exact = torch.round(each * by.steps[:, None]).long().sum(0)
    assert torch.equal(torch.round(with_it / lattice.gamma).long(), exact)


def test_no_record_is_taken_to_be_shorter_than_a_part_of_its_mass():
    left, right = cancelling(GRAM, 4, 1.0, rest=0.0)
    layer = SummedLinear("w", (256, 192))
    layer.keep(left, right)
    mass = (left.double().norm(dim=2) * right.double().norm(dim=2)).sum(1)
    assert (layer.squared_norms(None, 4).sqrt() >= FLOOR * mass).all()


def random_layer(records):
    rng, layer = torch.Generator().manual_seed(3), SummedLinear("w", GRAM[1:])
    left, right = (torch.randn(records, GRAM[0], width, generator=rng) for width in GRAM[1:])
    layer.keep(left, right)
    return layer, torch.bmm(left.double().transpose(1, 2), right.double()).flatten(1)


def test_by_gram_matrices_a_length_is_an_upper_bound():
    layer, each = random_layer(200)
    assert (layer.squared_norms(None, 200) >= each.square().sum(1)).all()


def test_what_fills_a_pass_up_is_in_no_sum():
    layer, each = random_layer(9)
    assert layer.squared_norms(None, 5).shape == (5,)
    factors = torch.linspace(0.2, 1.0, 5)
    assert torch.allclose(layer.weighted_sum(factors).double(), factors.double() @ each[:5], atol=1e-4)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_unit_that_is_not_finite_leaves_the_others_sum_as_it_is(side, value):
    rng = torch.Generator().manual_seed(4)
    pair = [torch.randn(4, GRAM[0], width, generator=rng) for width in GRAM[1:]]
    pair[side][2, 3, 5] = value
    layer, by, lattice, (found, _) = sums(*pair)
    assert by.bad.tolist() == [False, False, True, False]
    lengths = layer.add_clipped(torch.zeros(GRAM[1] * GRAM[2], dtype=torch.float64), by, lattice.gamma)
    assert lengths[2] == 0
    pair[side][2] = 0.0
    *_, (without, _) = sums(*pair)
    assert torch.equal(found, without)


@settings(max_examples=12, deadline=None)
@given(
    shape=st.sampled_from([(6, 16, 32), (40, 16, 32), (7, 24, 18)]),
    records=st.integers(1, 12),
    patients=st.booleans(),
    scale=st.sampled_from([1e-3, 1.0, 1e3, 1e4]),
    rest=st.sampled_from([0.0, 1e-6, 1e-3, 1.0]),
    seed=st.integers(0, 2**20),
)
def test_removing_one_unit_moves_the_sum_by_at_most_the_sensitivity(shape, records, patients, scale, rest, seed):
    left, right = cancelling(shape, records, scale, rest=rest, seed=seed)
    fold = torch.arange(records // 2) if patients else None
    _, _, lattice, (with_it, without) = sums(left, right, fold, without=seed % (records - (records // 2) * patients))
    assert float((with_it - without).norm()) <= lattice.sensitivity


@pytest.mark.parametrize("scale", [1.0, 1e30])
def test_what_sum_error_tells_follows_no_data(scale):
    """It is measured on public factors of the same shape, far below its allowance."""
    errors = set()
    for seed in (0, 1):
        left, right = cancelling(GRAM, 16, scale, seed=seed)
        layer, _, _, _ = sums(left, right)
        errors.add(float(layer.sum_error(1.0)))
    (error,) = errors
    assert 0 < error <= SUM_ERROR * 16 / 3
    assert gram_is_cheaper(*GRAM)
    assert not gram_is_cheaper(*BLOCKS)

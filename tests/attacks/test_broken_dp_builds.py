"""A build whose noise, clipping, sampling or loss is broken does not send an update: a named check fails its round.

Each test breaks the engine in one way that has happened to somebody, and sees the check that stands for it.
"""

from __future__ import annotations

import multiprocessing
from dataclasses import replace

import numpy as np
import pytest
import torch

from client.fingerprints import Fingerprints
from client.training import dpsgd, keystream, opacus_private, sampling
from client.training.encoder_top import EncoderTop
from client.training.keystream import Keystream
from client.training.lattice import RoundedGaussian
from client.training.opacus_private import LatticeOptimizer
from client.training.per_sample import attach
from client.training.per_sample.summed import SummedLinear
from client.verdict import passed
from compliance.errors import RunFailed
from tests.tiny_bert import save_tiny_bert, tiny_engine, tiny_examples, tiny_round

RECORDS = 400


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("model"))


def run(folder, drawn=None, **changes):
    engine = tiny_engine(folder, tiny_examples(RECORDS))
    spec = tiny_round(**{"steps": 8, "expected_batch": RECORDS // 4, "physical_batch": 64, **changes})
    out = engine.train(spec, engine._top.get_flat(), Keystream.fresh())
    passed((drawn or Fingerprints()).judge(out.marks), "round")
    return out


def fails(check, folder, **more):
    with pytest.raises(RunFailed) as caught:
        run(folder, **more)
    assert caught.value.code == "RSD-4500"
    assert check in caught.value.found.split(", "), caught.value.found


def test_the_build_as_it_is_passes(folder):
    for _ in range(3):
        assert set(run(folder).conformance.values()) == {True}


def test_noise_off(folder, monkeypatch):
    monkeypatch.setattr(RoundedGaussian, "sample", lambda _self, _stream, count: np.zeros(count, np.int64))
    fails("noise_variance", folder)


def test_half_the_noise(folder, monkeypatch):
    monkeypatch.setattr(dpsgd, "_sampler", lambda scale: RoundedGaussian(scale / 2))
    fails("noise_variance", folder)


def test_noise_on_the_first_step_only(folder, monkeypatch):
    honest, calls = RoundedGaussian.sample, []

    def sample(self, stream, count):
        calls.append(count)
        return honest(self, stream, count) * (len(calls) == 1)

    monkeypatch.setattr(RoundedGaussian, "sample", sample)
    fails("noise_variance", folder)


def test_clipping_off(folder, monkeypatch):
    honest = opacus_private.factors

    def unclipped(squared, lattice):
        by = honest(squared, lattice)
        ones = torch.ones_like(by.plain)
        return replace(by, plain=ones, steps=ones / lattice.gamma)

    monkeypatch.setattr(opacus_private, "factors", unclipped)
    fails("clip_norm", folder, clip_micro=1000)


def test_the_batch_is_clipped_and_not_each_record(folder, monkeypatch):
    """One factor for all, from the length of the mean gradient."""
    honest = opacus_private.factors

    def by_batch(squared, lattice):
        by = honest(squared, lattice)
        mean = (squared.mean() / max(1, len(squared))).expand_as(squared)
        common = honest(mean, lattice)
        return replace(by, plain=common.plain, steps=common.steps)

    monkeypatch.setattr(opacus_private, "factors", by_batch)
    fails("clip_norm", folder, clip_micro=300_000)


def test_the_batch_is_one_unit(folder, monkeypatch):
    """The records' gradients are summed first: one clipped gradient a batch."""
    honest = attach.BookKeeping.finish

    def finish(self, fold=None, units=None):
        broken = fold is None and units is not None and units > 1
        honest(self, *((torch.zeros(units - 1, dtype=torch.int64), 1) if broken else (fold, units)))

    monkeypatch.setattr(attach.BookKeeping, "finish", finish)
    fails("batch_size", folder)


@pytest.mark.parametrize("over", ["sum", "mean"])
def test_a_loss_that_averages_over_the_tokens_of_the_batch(folder, monkeypatch, over):
    """What model.loss of Hugging Face does: a record's gradient shrinks when another stands beside it."""
    honest = EncoderTop.record_losses

    def averaged(self, inputs, targets):
        tokens = inputs["mask"].sum(1)
        return honest(self, inputs, targets) * tokens / getattr(tokens, over)()

    monkeypatch.setattr(EncoderTop, "record_losses", averaged)
    fails("record_independence", folder)


@pytest.mark.parametrize("factor", [-1.0, float("nan")])
def test_a_loss_that_is_another_beside_others_though_no_gradient_grows(folder, monkeypatch, factor):
    honest = EncoderTop.record_losses
    monkeypatch.setattr(
        EncoderTop, "record_losses", lambda self, x, y: honest(self, x, y) * (factor if len(y) > 1 else 1.0)
    )
    fails("record_independence", folder)


def test_a_loss_centred_over_the_batch(folder, monkeypatch):
    honest = EncoderTop.features
    monkeypatch.setattr(EncoderTop, "features", lambda self, x: (f := honest(self, x)) - f.mean(0, keepdim=True) / 2)
    fails("record_independence", folder)


def test_dropout_in_a_function_is_caught_though_no_module_shows_it(folder, monkeypatch):
    honest = EncoderTop.features
    monkeypatch.setattr(EncoderTop, "features", lambda self, x: torch.nn.functional.dropout(honest(self, x), 0.3))
    fails("record_independence", folder)


def test_lengths_that_other_records_change(folder, monkeypatch):
    """Gradient and loss are the record's own; the factor that it is clipped with is not."""
    honest = attach.BookKeeping.squared_norms
    monkeypatch.setattr(
        attach.BookKeeping, "squared_norms", lambda self: (s := honest(self)) * (1 + 0.01 * (len(s) - 1))
    )
    fails("record_independence", folder)


def test_shuffled_batches_instead_of_poisson_sampling(folder, monkeypatch):
    """Each epoch's list is shuffled and cut in four."""
    order: list[np.ndarray] = []

    def shuffled(stream, records, _numerator, denominator):
        if not order:
            order.extend(np.array_split(np.argsort(stream.words(records)), denominator))
        mask = np.zeros(records, bool)
        mask[order.pop()] = True
        return mask

    monkeypatch.setattr(sampling, "poisson_mask", shuffled)
    fails("batch_overlap", folder)


def test_batches_without_replacement_that_take_everything(folder, monkeypatch):
    monkeypatch.setattr(sampling, "poisson_mask", lambda _stream, records, *_: np.ones(records, bool))
    fails("batch_size", folder)


class Held:
    """A stream that starts again at every step: one seed for all."""

    def __init__(self):
        self._inner, self.mark = Keystream(), "held"
        self._words = self._inner.words(1 << 16)

    def words(self, count):
        return self._words[:count]


def test_the_same_seed_for_every_step(folder):
    engine = tiny_engine(folder, tiny_examples(RECORDS))
    with pytest.raises(RunFailed) as caught:
        engine.train(tiny_round(steps=8), engine._top.get_flat(), Held())
    assert {"batch_overlap", "step_correlation"} <= set(caught.value.found.split(", "))


def test_the_same_seed_for_every_attempt(folder, monkeypatch):
    """A key that is a constant, or a seed that a restart repeats."""
    monkeypatch.setattr(keystream.os, "urandom", lambda count: bytes(range(count)))
    drawn = Fingerprints()
    run(folder, drawn)
    fails("fresh_stream", folder, drawn=drawn)


def _child(stream, folder, answers) -> None:
    engine = tiny_engine(folder, tiny_examples(RECORDS))
    spec = tiny_round(steps=2, expected_batch=RECORDS // 4, physical_batch=64)
    answers.put(engine.train(spec, engine._top.get_flat(), stream).marks)


@pytest.mark.parametrize("shared", [True, False])
def test_one_generator_for_two_forks(folder, shared):
    """A stream made before the fork is the same in both children; one made after it is not."""
    context = multiprocessing.get_context("fork")
    answers, before, drawn = context.SimpleQueue(), Keystream.fresh(), Fingerprints()
    for again in (False, True):
        stream = before if shared else Keystream.fresh()
        child = context.Process(target=_child, args=(stream, folder, answers))
        child.start()
        found = drawn.judge(answers.get())
        child.join()
        assert set(found) == {"fresh_stream", "fresh_noise", "fresh_sampling"}
        assert set(found.values()) == {not (shared and again)}


def test_noise_that_is_shown_and_not_released(folder, monkeypatch):
    honest = LatticeOptimizer.add_noise

    def noiseless(self):
        clipped = self._clipped().clone()
        honest(self)
        self._released.copy_(clipped.double().mul_(self._lattice.gamma).float())

    monkeypatch.setattr(LatticeOptimizer, "add_noise", noiseless)
    fails("release", folder)


def test_a_sum_divided_by_the_batch_that_was_drawn(folder, monkeypatch):
    """It tells how many were drawn."""
    noise, scale, drawn = LatticeOptimizer.add_noise, LatticeOptimizer.scale_grad, []

    def counting(self):
        drawn.append(sum(len(norms) for norms in self._norms))
        noise(self)

    def by_drawn(self):
        self.expected_batch_size = max(1, drawn[-1])
        scale(self)

    monkeypatch.setattr(LatticeOptimizer, "add_noise", counting)
    monkeypatch.setattr(LatticeOptimizer, "scale_grad", by_drawn)
    fails("release", folder)


def test_another_vector_leaves_than_was_trained(folder, monkeypatch):
    engine_flat = EncoderTop.get_flat
    monkeypatch.setattr(EncoderTop, "get_flat", lambda self: engine_flat(self) * np.float32(1.001))
    fails("release", folder)


@pytest.mark.parametrize("distance", [2, 3, 7])
def test_the_noise_of_an_earlier_step(folder, monkeypatch, distance):
    """A, B, A, B, ...; and the first step's noise again at the eighth."""
    honest, drawn = RoundedGaussian.sample, []

    def sample(self, stream, count):
        again = len(drawn) >= distance
        drawn.append(drawn[-distance] if again else honest(self, stream, count))
        return drawn[-1].copy()

    monkeypatch.setattr(RoundedGaussian, "sample", sample)
    fails("step_correlation", folder)


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_a_part_of_the_noise_for_all_coordinates(folder, monkeypatch, parts):
    honest = RoundedGaussian.sample
    monkeypatch.setattr(
        RoundedGaussian, "sample", lambda self, stream, n: np.resize(honest(self, stream, -(-n // parts)), n)
    )
    fails("noise_repetition", folder)


def from_one_seed(monkeypatch, what, honest=0):
    """Noise or masks of which each round draws the same; the stream beside is fresh, the first `honest` draws too."""
    steps, right = [], RoundedGaussian.sample

    def sample(self, stream, count):
        steps.append(count)
        if len(steps) <= honest:
            return right(self, stream, count)
        return np.rint(np.random.default_rng(len(steps)).normal(0, self._scale, count)).astype(np.int64)

    def mask(_stream, records, numerator, denominator):
        steps.append(records)
        return np.random.default_rng(len(steps)).random(records) < numerator / denominator

    owner, name, broken = {
        "noise": (RoundedGaussian, "sample", sample),
        "sampling": (sampling, "poisson_mask", mask),
    }[what]
    monkeypatch.setattr(owner, name, broken)
    return steps


@pytest.mark.parametrize("what", ["noise", "sampling"])
@pytest.mark.parametrize("offset", [0, 1])
def test_one_seed_for_every_round(folder, monkeypatch, tmp_path, what, offset):
    """Known again after a restart of the agent, and where the second round begins a step later in the sequence."""
    steps = from_one_seed(monkeypatch, what)
    run(folder, Fingerprints(tmp_path / "drawn", lambda: b"k" * 32))
    steps[:] = [0] * offset
    fails(f"fresh_{what}", folder, drawn=Fingerprints(tmp_path / "drawn", lambda: b"k" * 32))


def test_one_seed_for_the_later_steps_of_every_round(folder, monkeypatch):
    steps, drawn = from_one_seed(monkeypatch, "noise", honest=3), Fingerprints()
    run(folder, drawn)
    steps.clear()
    fails("fresh_noise", folder, drawn=drawn)


def test_batches_of_one_size_drawn_anew_each_step(folder, monkeypatch):
    def fixed(stream, records, numerator, denominator):
        mask = np.zeros(records, bool)
        mask[np.argsort(stream.words(records))[: records * numerator // denominator]] = True
        return mask

    monkeypatch.setattr(sampling, "poisson_mask", fixed)
    fails("batch_variation", folder)


def test_the_batches_of_two_steps_ago(folder, monkeypatch):
    honest, drawn = sampling.poisson_mask, []

    def mask(*args):
        drawn.append(drawn[-2] if len(drawn) > 1 else honest(*args))
        return drawn[-1]

    monkeypatch.setattr(sampling, "poisson_mask", mask)
    fails("batch_overlap", folder)


def test_a_sum_that_is_further_off_than_its_allowance(folder, monkeypatch):
    monkeypatch.setattr(attach, "FLAT_BYTES", 0)
    monkeypatch.setattr(attach, "LARGE", 1)
    assert set(run(folder).conformance.values()) == {True}
    honest = SummedLinear.weighted_sum
    monkeypatch.setattr(SummedLinear, "weighted_sum", lambda self, by: honest(self, by) * (1 + 2**-8))
    fails("sum_error", folder)

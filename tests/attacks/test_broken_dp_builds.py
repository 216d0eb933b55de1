"""A build whose noise, clipping, sampling or loss is broken does not send an update: a named check fails its round.

Each test breaks the engine in one way that has happened to somebody, and sees the check that stands for it.
"""

from __future__ import annotations

import multiprocessing
from dataclasses import replace

import numpy as np
import pytest
import torch

from client.training import dpsgd, keystream, opacus_private, sampling
from client.training.encoder_top import EncoderTop
from client.training.keystream import Keystream
from client.training.lattice import RoundedGaussian
from client.training.per_sample import attach
from client.training.per_sample.summed import SummedLinear
from compliance.errors import RunFailed
from tests.tiny_bert import save_tiny_bert, tiny_engine, tiny_examples, tiny_round

RECORDS = 400


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("model"))


def run(folder, earlier=(), **changes):
    engine = tiny_engine(folder, tiny_examples(RECORDS))
    engine._marks.update(earlier)
    spec = tiny_round(**{"steps": 8, "expected_batch": RECORDS // 4, "physical_batch": 64, **changes})
    start = engine._top.get_flat()
    stream = Keystream.fresh()
    return engine.train(spec, start, stream), stream.mark


def fails(check, folder, **more):
    with pytest.raises(RunFailed) as caught:
        run(folder, **more)
    assert caught.value.code == "RSD-4500"
    assert check in caught.value.found.split(", "), caught.value.found


def test_the_build_as_it_is_passes(folder):
    for _ in range(3):
        assert set(run(folder)[0].conformance.values()) == {True}


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


def test_a_loss_that_averages_over_the_tokens_of_the_batch(folder, monkeypatch):
    """What model.loss of Hugging Face does: a record's gradient shrinks when another stands beside it."""
    honest = EncoderTop.record_losses

    def averaged(self, inputs, targets):
        tokens = inputs["mask"].sum(1)
        return honest(self, inputs, targets) * tokens / tokens.sum()

    monkeypatch.setattr(EncoderTop, "record_losses", averaged)
    fails("record_independence", folder)


def test_a_loss_centred_over_the_batch(folder, monkeypatch):
    honest = EncoderTop.features
    monkeypatch.setattr(EncoderTop, "features", lambda self, x: (f := honest(self, x)) - f.mean(0, keepdim=True) / 2)
    fails("record_independence", folder)


def test_dropout_in_a_function_is_caught_though_no_module_shows_it(folder, monkeypatch):
    honest = EncoderTop.features
    monkeypatch.setattr(EncoderTop, "features", lambda self, x: torch.nn.functional.dropout(honest(self, x), 0.3))
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
    _, mark = run(folder)
    fails("fresh_stream", folder, earlier=[mark])


def _child(stream, folder, earlier, answers) -> None:
    engine = tiny_engine(folder, tiny_examples(RECORDS))
    engine._marks.update(earlier)
    spec = tiny_round(steps=2, expected_batch=RECORDS // 4, physical_batch=64)
    try:
        engine.train(spec, engine._top.get_flat(), stream)
        answers.put((stream.mark, ""))
    except RunFailed as e:
        answers.put((stream.mark, e.found))


@pytest.mark.parametrize("shared", [True, False])
def test_one_generator_for_two_forks(folder, shared):
    """A stream made before the fork is the same in both children; one made after it is not."""
    context = multiprocessing.get_context("fork")
    answers, before, marks = context.SimpleQueue(), Keystream.fresh(), []
    for _ in range(2):
        stream = before if shared else Keystream.fresh()
        child = context.Process(target=_child, args=(stream, folder, tuple(marks), answers))
        child.start()
        mark, failed = answers.get()
        child.join()
        assert failed == ("fresh_stream" if shared and marks else "")
        marks.append(mark)


def test_a_sum_that_is_further_off_than_its_allowance(folder, monkeypatch):
    monkeypatch.setattr(attach, "FLAT_BYTES", 0)
    monkeypatch.setattr(attach, "LARGE", 1)
    assert set(run(folder)[0].conformance.values()) == {True}
    honest = SummedLinear.weighted_sum
    monkeypatch.setattr(SummedLinear, "weighted_sum", lambda self, by: honest(self, by) * (1 + 2**-8))
    fails("sum_error", folder)

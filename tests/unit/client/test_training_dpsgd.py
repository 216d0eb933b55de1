"""Per-sample gradients, clipping and the life of a step, against naive loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from client.training import dpsgd
from client.training.dpsgd import Engine
from client.training.encoder_top import build_top
from client.training.lattice import Lattice
from client.training.opacus_private import LatticeOptimizer, OpacusHooks, StepSeen
from client.training.per_sample import attach
from client.training.per_sample.attach import BookKeeping
from client.training.per_sample.summed import SUM_ERROR
from client.training.sampling import draw, members
from compliance.errors import InputError, RunFailed
from tests.small_models import bert, train_kinds
from tests.tiny_bert import (
    SeededStream,
    save_tiny_bert,
    tiny_engine,
    tiny_examples,
    tiny_model,
    tiny_round,
    trained_start,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("model"))


def gradients_one_by_one(folder, examples, start):
    """Each record's gradient alone, through a plain top without Opacus."""
    top = build_top(tiny_model(folder), folder, 2)
    top.set_flat(start)
    rows = []
    for i in range(len(examples)):
        top.zero_grad()
        logits = top(examples.take(torch.tensor([i]), torch.device("cpu"))[0])
        torch.nn.functional.cross_entropy(logits, examples.targets[i : i + 1]).backward()
        rows.append(torch.cat([p.grad.flatten() for _, p in top.trained()]).double().numpy().copy())
    return np.array(rows)


class OneStep:
    """A lattice optimizer over a fresh top, with noise of the caller's choice."""

    def __init__(self, folder, examples, start, noise, clip=1.0, method=BookKeeping, **more):
        self.top = build_top(tiny_model(folder), folder, 2)
        self.top.set_flat(start)
        self.examples, self.seen = examples, []
        self.source = method(self.top, self.top.trained(), 64)
        self.optimizer = LatticeOptimizer(
            torch.optim.SGD([p for _, p in self.top.trained()], lr=1.0),
            parameters=self.top.trained(),
            source=self.source,
            lattice=Lattice(clip, start.size, 1.0),
            noise=noise,
            expected_batch=10,
            observe=self.seen.append,
            **more,
        )

    def run(self, indices, physical):
        self.optimizer.zero_grad(set_to_none=True)
        pieces = torch.split(torch.tensor(indices), physical) if indices else []
        with self.source:
            for i, piece in enumerate(pieces):
                self.source.begin(len(piece))
                self.top.record_losses(*self.examples.take(piece, torch.device("cpu"))).sum().backward()
                self.source.finish()
                self.optimizer.signal_skip_step(i + 1 < len(pieces))
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
            if not pieces:
                self.optimizer.empty_batch()
                self.optimizer.step()
        return self.top.get_flat()


def zero_noise(count):
    return np.zeros(count, dtype=np.int64)


@pytest.mark.parametrize("method", [BookKeeping, OpacusHooks])
@pytest.mark.parametrize("physical", [3, 8, 64])
def test_without_noise_a_step_is_the_clipped_sum_of_a_naive_loop(folder, physical, method):
    examples = tiny_examples(8)
    d = build_top(tiny_model(folder), folder, 2).get_flat().size
    start = trained_start(d)
    naive = gradients_one_by_one(folder, examples, start)
    norms = np.linalg.norm(naive, axis=1)
    clip = float(np.median(norms))
    expected = (naive * np.minimum(1, clip / norms)[:, None]).sum(0) / 10
    step = OneStep(folder, examples, start, zero_noise, clip, method)
    end = step.run(list(range(8)), physical)
    lattice_error = 8 * step.optimizer._lattice.gamma / 2 / 10
    assert np.abs((start - end) - expected).max() < 1e-6 + lattice_error
    assert np.abs(naive[:, 2 * 32 + 2 :]).max() > 1e-3, "the adapters have gradients worth comparing"


def test_an_empty_batch_still_yields_noise(folder):
    d = build_top(tiny_model(folder), folder, 2).get_flat().size
    start = trained_start(d)
    step = OneStep(folder, tiny_examples(4), start, lambda n: np.full(n, 1000))
    end = step.run([], 4)
    assert np.allclose(start - end, 1000 * step.optimizer._lattice.gamma / 10, atol=1e-6)
    assert step.seen[0].norms.numel() == 0
    engine = tiny_engine(folder)
    out = engine.train(tiny_round(sample_denominator=10**9, steps=3), np.zeros(d, np.float32), SeededStream(1))
    assert np.count_nonzero(out.delta) == d


def test_a_record_without_a_finite_gradient_counts_as_zero_and_is_counted(folder):
    examples = tiny_examples(5)
    examples.inputs["hidden"][2] = float("inf")
    start = trained_start(build_top(tiny_model(folder), folder, 2).get_flat().size)
    step = OneStep(folder, examples, start, zero_noise)
    with_bad = step.run(list(range(5)), 2)
    assert step.seen[0].non_finite == 1
    assert step.seen[0].norms[2] == 0
    without = OneStep(folder, examples, start, zero_noise).run([0, 1, 3, 4], 2)
    assert np.isfinite(with_bad).all()
    assert np.abs(with_bad - without).max() < 1e-6


def test_a_gradient_is_never_used_twice(folder):
    start = trained_start(build_top(tiny_model(folder), folder, 2).get_flat().size)
    step = OneStep(folder, tiny_examples(4), start, zero_noise)
    step.run([], 4)
    with pytest.raises(ValueError, match="haven't been cleared"):
        step.optimizer.step()


def test_all_trained_parameters_are_noised_or_none_is(folder):
    top = build_top(tiny_model(folder), folder, 2)
    with pytest.raises(ValueError, match="exactly the parameters"):
        LatticeOptimizer(
            torch.optim.SGD([p for _, p in top.trained()], lr=1.0),
            parameters=top.trained()[:-1],
            source=BookKeeping(top, top.trained(), 4),
            lattice=Lattice(1.0, 10, 1.0),
            noise=zero_noise,
            expected_batch=1,
            observe=lambda _: None,
        )


def test_the_hooks_refuse_a_trained_module_without_a_rule():
    with pytest.raises(TypeError, match="Embedding"):
        OpacusHooks(torch.nn.Sequential(torch.nn.Embedding(4, 4)), [], 1)


def test_the_same_stream_gives_the_same_update_and_another_stream_another(folder):
    size = build_top(tiny_model(folder), folder, 2).get_flat().size
    start = trained_start(size)
    one, two, other = (tiny_engine(folder).train(tiny_round(), start, SeededStream(s)).delta for s in (7, 7, 8))
    assert one.tobytes() == two.tobytes()
    assert not np.allclose(one, other)
    assert one.dtype == np.float32


def test_the_samplers_error_is_told_for_every_step_and_coordinate(folder, monkeypatch):
    monkeypatch.setattr(dpsgd, "tv_error_femto", lambda _sampler, dimension, steps: (dimension, steps))
    start = np.zeros(build_top(tiny_model(folder), folder, 2).get_flat().size, np.float32)
    assert tiny_engine(folder).train(tiny_round(steps=3), start, SeededStream(1)).tv_error_femto == (start.size, 3)


def test_the_noise_has_the_deviation_that_the_lattice_states(folder, monkeypatch):
    """By as little as the rounding adds to the clip: too little for the noise itself to tell."""
    made, asked = dpsgd._sampler, []
    monkeypatch.setattr(dpsgd, "_sampler", lambda scale: asked.append(scale) or made(scale))
    start = np.zeros(build_top(tiny_model(folder), folder, 2).get_flat().size, np.float32)
    tiny_engine(folder).train(tiny_round(steps=1, clip_micro=700_000), start, SeededStream(1))
    assert asked == [Lattice(0.7, start.size, 1.0).scale]


@pytest.mark.parametrize(("expected", "records"), [(100, 100), (10, 40)])
def test_the_noise_covers_the_sums_of_all_large_layers(monkeypatch, expected, records):
    """As many records as the public batch or a pass holds; layers lie side by side, so their errors add in squares."""
    monkeypatch.setattr(attach, "FLAT_BYTES", 0)
    monkeypatch.setattr(attach, "LARGE", 1)
    case = bert(lambda m: train_kinds(m, torch.nn.Linear, torch.nn.LayerNorm))
    source = BookKeeping(case.model, case.trained, 40)
    count, sizes = len(source.summed), [rows * columns for rows, columns in (s.shape for s in source.summed)]
    assert count == 13
    lattice, allowance = dpsgd._lattice(tiny_round(expected_batch=expected), 10**6, source)
    assert allowance == SUM_ERROR * records
    assert lattice.summed == sum(sizes)
    assert lattice.sum_error == pytest.approx(allowance * count**0.5)
    assert lattice.sensitivity >= 1.0 + lattice.gamma * ((10**6 + 3 * sum(sizes)) / 4) ** 0.5 + 2 * lattice.sum_error
    monkeypatch.undo()
    lattice, allowance = dpsgd._lattice(
        tiny_round(expected_batch=expected), 10**6, BookKeeping(case.model, case.trained, 40)
    )
    assert (lattice.summed, lattice.sum_error, allowance) == (0, 0.0, 0.0)


def test_rates_reach_head_and_adapters_apart(folder):
    size = build_top(tiny_model(folder), folder, 2).get_flat().size
    out = tiny_engine(folder).train(tiny_round(adapter_rate_milli=0), trained_start(size), SeededStream(3))
    head = 2 * 32 + 2
    assert np.count_nonzero(out.delta[:head]) == head
    assert not out.delta[head:].any()


@pytest.mark.parametrize("bad", [np.zeros(3, np.float32), np.zeros(0, np.float32)])
def test_a_global_vector_that_does_not_fit_is_refused(folder, bad):
    with pytest.raises(InputError, match="RSD-4501"):
        tiny_engine(folder).train(tiny_round(), bad, SeededStream(1))


def test_a_global_vector_with_nan_is_refused(folder):
    size = build_top(tiny_model(folder), folder, 2).get_flat().size
    with pytest.raises(InputError, match="RSD-4501"):
        tiny_engine(folder).train(tiny_round(), np.full(size, np.nan, np.float32), SeededStream(1))


def test_what_was_drawn_twice_has_the_same_fingerprints(folder):
    start = np.zeros(build_top(tiny_model(folder), folder, 2).get_flat().size, np.float32)
    one, again = (tiny_engine(folder).train(tiny_round(), start, SeededStream(1)).marks for _ in range(2))
    other = tiny_engine(folder).train(tiny_round(), start, SeededStream(2)).marks
    assert {name: len(some) for name, some in one.items()} == {"fresh_stream": 1, "fresh_noise": 4, "fresh_sampling": 1}
    for name in ("fresh_noise", "fresh_sampling"):
        assert one[name] == again[name]
        assert not {*one[name]} & {*other[name]}


def test_noise_ten_percent_too_low_fails_the_round(folder, monkeypatch):
    """The sampler is replaced by one that is 10 % too quiet: the claim in the study no longer holds."""
    size = build_top(tiny_model(folder), folder, 2).get_flat().size
    spec = tiny_round(steps=40)
    tiny_engine(folder).train(spec, np.zeros(size, np.float32), SeededStream(1))
    honest = dpsgd.RoundedGaussian
    monkeypatch.setattr(dpsgd, "_sampler", lambda scale: honest(scale * 0.9))
    with pytest.raises(RunFailed, match="noise_variance"):
        tiny_engine(folder).train(spec, np.zeros(size, np.float32), SeededStream(1))


def test_the_head_alone_can_be_trained(folder):
    engine = tiny_engine(folder, adapters=False)
    size = 2 * 32 + 2
    assert engine.train(tiny_round(), np.zeros(size, np.float32), SeededStream(1)).delta.shape == (size,)


def test_what_a_step_saw_adds_up(folder):
    start = trained_start(build_top(tiny_model(folder), folder, 2).get_flat().size)
    step = OneStep(folder, tiny_examples(9), start, lambda n: np.arange(n, dtype=np.int64))
    step.run(list(range(9)), 4)
    seen: StepSeen = step.seen[0]
    assert (seen.noisy - seen.clipped == torch.arange(start.size)).all()
    assert seen.norms.numel() == 9
    assert (seen.norms * step.optimizer._lattice.gamma <= step.optimizer._lattice.sensitivity).all()


def test_the_physical_batch_changes_nothing_but_memory(folder):
    """A loss averaged over the physical batch, instead of summed, would show here."""
    start = trained_start(build_top(tiny_model(folder), folder, 2).get_flat().size)
    small, large = (
        tiny_engine(folder).train(tiny_round(physical_batch=size, steps=1), start, SeededStream(5)).delta
        for size in (1, 64)
    )
    assert np.abs(small - large).max() < 1e-4


def test_hooks_and_book_keeping_make_the_same_update(folder):
    start = trained_start(build_top(tiny_model(folder), folder, 2).get_flat().size)
    one, two = (
        Engine(build_top(tiny_model(folder), folder, 2), tiny_examples(), torch.device("cpu"), method=method)
        .train(tiny_round(), start, SeededStream(5))
        .delta
        for method in ("book-keeping", "opacus")
    )
    assert np.abs(one - two).max() < 1e-4, "a step of the lattice at most: gradients differ in the last bits"


def test_a_round_leaves_the_top_as_it_was(folder):
    top = build_top(tiny_model(folder), folder, 2)
    modules = [m for m in top.modules() if "forward" in vars(m)]
    engine = Engine(top, tiny_examples(), torch.device("cpu"))
    with pytest.raises(RunFailed):
        engine.train(tiny_round(), top.get_flat(), SeededStream(1), may_draw=refuse)
    engine.train(tiny_round(), top.get_flat(), SeededStream(2))
    assert [m for m in top.modules() if "forward" in vars(m)] == modules
    assert all(p.grad is None and p.grad_sample is None for _, p in top.trained())


def refuse():
    raise RunFailed("RSD-4620", "stop")


class Forbidden(TorchDispatchMode):
    """Fails on anything that makes the host wait for the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert "_local_scalar_dense" not in str(func), "the host waits for the device inside a step"
        assert "nonzero" not in str(func), "the size of a result depends on the device's data"
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("large", [False, True])
def test_nothing_inside_a_step_waits_for_the_device(folder, monkeypatch, large):
    if large:
        monkeypatch.setattr(attach, "FLAT_BYTES", 0)
        monkeypatch.setattr(attach, "LARGE", 1)
    top = build_top(tiny_model(folder), folder, 2)
    engine = Engine(top, tiny_examples(), torch.device("cpu"))
    spec, stream = tiny_round(steps=2, proximal_micro=10), SeededStream(1)
    who = members(engine.examples, "record")
    with engine.opened(spec, trained_start(top.get_flat().size), stream, who) as run:
        assert bool(run.source.summed) == large
        mask, pieces = draw(stream, who, spec, 4)
        for name in ("cpu", "numpy", "item", "tolist", "__bool__"):
            monkeypatch.setattr(torch.Tensor, name, waits)
        with Forbidden():
            run.step(pieces)
            run.step([])
        monkeypatch.undo()
    assert mask.sum() > 4


def waits(*_args):
    raise AssertionError("the host waits for the device inside a step")


@pytest.mark.parametrize("mu", [0, 500_000])
def test_the_proximal_term_comes_after_the_noise(folder, mu):
    """Each step: w <- w - rate (noisy mean + mu (w - w_global)); noise, clipping and their record are the same."""
    start = trained_start(build_top(tiny_model(folder), folder, 2).get_flat().size)
    step = OneStep(folder, tiny_examples(6), start, lambda n: np.arange(n, dtype=np.int64), proximal=mu / 1e6)
    first = step.run([0, 1, 2], 4)
    step.optimizer.zero_grad(set_to_none=True)
    second = step.run([3, 4], 4)
    noisy = step.seen[1].noisy.numpy() * step.optimizer._lattice.gamma / 10
    assert np.abs((first - second) - (noisy + mu / 1e6 * (first - start))).max() < 1e-5
    assert (step.seen[1].noisy - step.seen[1].clipped == torch.arange(start.size)).all()


def test_the_proximal_term_matters(folder):
    start = trained_start(build_top(tiny_model(folder), folder, 2).get_flat().size)
    free, held = (
        tiny_engine(folder).train(tiny_round(proximal_micro=mu, head_rate_milli=100), start, SeededStream(3))
        for mu in (0, 900_000)
    )
    assert np.linalg.norm(held.delta) < 0.9 * np.linalg.norm(free.delta)
    assert held.conformance == free.conformance
    assert held.tv_error_femto == free.tv_error_femto

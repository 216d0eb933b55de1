"""Every kind of task with a model folder: inputs, losses of records that are each other's strangers, what is kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from client.prepared import find_prepared
from client.tasks.base import task_of
from client.training import trunk
from client.training.families import run
from client.training.model_folder import load_decoder, load_encoder
from client.training.session import prepare, resume
from compliance.errors import InputError
from tests.task_kinds import KINDS, ROWS, examples_of, made, plain_inputs, work, write_kinds
from tests.tiny_bert import SeededStream, tiny_round
from tests.tiny_models import moved, record_gradients


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_kinds(tmp_path_factory.mktemp("kinds"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_yields_the_same_whatever_stands_beside_it(root, tmp_path, kind):
    """Invariant: each record's loss and gradient depend on that record alone (dp-training: sum of within-means)."""
    m = made(root, kind)
    examples = examples_of(m, tmp_path)
    top = moved(task_of(m.task.kind).top(m.model, m.task, m.folder))
    losses, grads = record_gradients(top, examples, list(range(ROWS)))
    assert losses.shape == (ROWS,)
    assert torch.isfinite(grads).all()
    assert (grads.norm(dim=1) > 1e-4).all(), "every record has something to say"
    some, some_grads = record_gradients(top, examples, [4, 0])
    alone, alone_grads = record_gradients(top, examples, [4])
    other, other_grads = record_gradients(top, examples, [4, 7])
    for loss, grad in ((some[0], some_grads[0]), (alone[0], alone_grads[0]), (other[0], other_grads[0])):
        assert abs(float(loss - losses[4])) <= 1e-6 * max(1.0, float(losses[4].abs()))
        assert float((grad - grads[4]).abs().max()) <= 1e-6 * max(1.0, float(grads[4].norm()))


SPLIT = [k for k in KINDS if not k.endswith("-head")]
FEW = ["words", "words-whole", "next-token", "vit", "convolutions"]


@pytest.mark.parametrize("kind", ["words", "words-decoder", "next-token", "vit", "convolutions", "convolutions-head"])
def test_the_frozen_part_is_the_same_from_the_cache_and_computed(root, tmp_path, kind, monkeypatch):
    m = made(root, kind)
    computed = examples_of(m, tmp_path / "a")
    (file,) = (tmp_path / "a").iterdir()
    assert file.stat().st_mode & 0o077 == 0, "patient data: its owner's only"
    monkeypatch.setattr(trunk, "run_frozen", None)
    read = examples_of(m, tmp_path / "a")
    monkeypatch.undo()
    again = examples_of(m, tmp_path / "b")
    assert set(computed.inputs) == set(read.inputs) == set(again.inputs)
    for name, tensor in computed.inputs.items():
        assert torch.equal(tensor, read.inputs[name])
        assert torch.equal(tensor, again.inputs[name])


@pytest.mark.parametrize("kind", SPLIT)
def test_frozen_part_and_top_make_up_the_whole_model(root, tmp_path, kind):
    """With B = 0 and no layer moved yet, the top continues the model exactly where the frozen part ends."""
    m = made(root, kind)
    layers = m.model.trained_layers
    top: Any = task_of(m.task.kind).top(m.model, m.task, m.folder)
    base = load_decoder(m.folder).transformer if m.task.kind == "causal_lm" else load_encoder(m.folder)
    examples = examples_of(m, tmp_path)
    rows = plain_inputs(m)
    with torch.inference_mode():
        assert (run(base, layers, rows) - examples.inputs["hidden"]).abs().max() < 1e-5
        whole, split = run(base, 0, rows), top.hidden(examples.inputs)
    real = examples.inputs["mask"].bool() if "mask" in examples.inputs else torch.ones(whole.shape[:2]).bool()
    assert (whole[real] - split[real]).abs().max() < 1e-4
    assert whole.abs().max() > 0.1


@pytest.mark.parametrize("kind", FEW)
def test_what_was_prepared_is_taken_up_and_purged(root, tmp_path, kind):
    m = made(root, kind)
    spec = work(m, tmp_path / "cache")
    prepared = prepare(spec)
    direct = task_of(m.task.kind).top(m.model, m.task, m.folder)
    engine = resume(spec)
    assert prepared.layout == direct.layout()
    assert not direct.get_flat().any(), "the flat vector starts at zero"
    assert not engine._top.get_flat().any()
    for (_, a), (_, b) in zip(engine._top.trained(), direct.trained(), strict=True):
        assert torch.equal(a.detach().cpu(), b.detach()), "the parameters themselves start where the model does"
    one = work(m, tmp_path / "cache", excluded=(2,))
    before = {p.name for p in (tmp_path / "cache").glob("trunk-*")}
    prepare(one)
    assert len(resume(one).examples) == ROWS - 1
    assert find_prepared(spec) is None
    assert not before & {p.name for p in (tmp_path / "cache").glob("*")}, "what held the row is gone"


@pytest.mark.parametrize("kind", ["texts-decoder", *FEW])
def test_a_round_trains_it(root, tmp_path, kind):
    m = made(root, kind)
    spec = work(m, tmp_path / "cache")
    d = prepare(spec).d
    out = resume(spec).train(tiny_round(), np.zeros(d, np.float32), SeededStream(3))
    assert out.delta.any()
    assert all(out.conformance.values())
    assert out.non_finite == 0


@pytest.mark.parametrize("kind", ["words", "next-token", "vit-head"])
def test_figures_of_each_kind(root, tmp_path, kind):
    m = made(root, kind)
    examples = examples_of(m, tmp_path)
    top = moved(task_of(m.task.kind).top(m.model, m.task, m.folder))
    with torch.inference_mode():
        scores = top(examples.inputs).numpy()
    found = task_of(m.task.kind).metrics(m.task, examples.targets.numpy(), scores)
    wanted = {"token_classification": "span_f1", "causal_lm": "perplexity"}.get(m.task.kind, "balanced_accuracy")
    assert wanted in found
    assert all(np.isfinite(v) for v in found.values())


def test_the_cache_of_any_kind_is_bounded(root, tmp_path, monkeypatch):
    monkeypatch.setattr(trunk, "MAX_CACHE_BYTES", 1000)
    for kind in ("words", "next-token", "vit", "convolutions"):
        with pytest.raises(InputError, match="RSD-2319") as caught:
            examples_of(made(root, kind), tmp_path / kind)
        assert str(ROWS) not in caught.value.found
        assert list((tmp_path / kind).glob("*")) == []

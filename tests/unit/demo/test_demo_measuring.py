"""The harness computes on short rows what the product computes on padded ones."""

from __future__ import annotations

import pytest
import torch

from client.training.encoder_top import EncoderTop, build_top
from client.training.examples import Examples, Inputs
from compliance.training_spec import Adapters
from demo.baselines import _LIKE, POOLED_BATCH, _batches, _quicken
from demo.calibrate import frozen_model
from demo.data import find_model
from demo.measuring import by_length, forward, shortened

TOKENS, WIDTH = 7, 384
LENGTHS = (5, 2, 6, 2, 3)


@pytest.fixture(scope="module")
def top() -> EncoderTop:
    """The last layer of MiniLM with adapters, all of it moved away from where it starts."""
    folder = find_model()
    last = Adapters(layers=1, rank=4, scale_milli=250, targets=("attention.self.value", "output.dense"), init_seed=1)
    made = build_top(frozen_model(folder).model_copy(update={"adapters": last}), folder, 2)
    torch.manual_seed(3)
    for _, p in made.trained():
        p.data.normal_(std=0.1)
    return made


@pytest.fixture
def padded() -> Examples:
    torch.manual_seed(5)
    mask = (torch.arange(TOKENS) < torch.tensor(LENGTHS)[:, None]).float()
    return Examples({"hidden": torch.randn(len(LENGTHS), TOKENS, WIDTH), "mask": mask}, torch.tensor([0, 1, 1, 0, 1]))


def test_rows_stand_by_length_with_their_classes(padded: Examples) -> None:
    rows = by_length(padded.inputs, padded.targets)
    order = [1, 3, 4, 0, 2]
    assert rows.inputs["mask"].sum(1).tolist() == sorted(LENGTHS)
    assert rows.targets.tolist() == padded.targets[order].tolist()
    assert torch.equal(rows.inputs["hidden"], padded.inputs["hidden"][order])


def test_only_padding_is_left_out(padded: Examples) -> None:
    rows = by_length(padded.inputs, padded.targets)
    for taken, longest in (([0, 1], 2), ([0, 3], 5), ([4], 6)):
        inputs, targets = rows.take(torch.tensor(taken), torch.device("cpu"))
        assert inputs["hidden"].shape == (len(taken), longest, WIDTH)
        assert torch.equal(inputs["mask"].sum(1), rows.inputs["mask"][taken].sum(1))
        assert targets.tolist() == rows.targets[taken].tolist()


def test_short_rows_score_as_padded_ones(top: EncoderTop, padded: Examples) -> None:
    with torch.inference_mode():
        whole = top(padded.inputs).numpy()
    assert forward(top, padded.inputs) == pytest.approx(whole, abs=1e-5)
    assert forward(top, by_length(padded.inputs, padded.targets).inputs) == pytest.approx(
        whole[[1, 3, 4, 0, 2]], abs=1e-5
    )


def test_the_quick_layers_have_the_same_gradient(top: EncoderTop, padded: Examples) -> None:
    def gradients(inputs: Inputs) -> list[torch.Tensor]:
        top.zero_grad()
        torch.autograd.backward(top.record_losses(inputs, padded.targets).mean())
        return [p.grad.clone() for _, p in top.trained() if p.grad is not None]

    plain = gradients(padded.inputs)
    _quicken(top)
    quick = gradients(shortened(padded.inputs))
    assert len(plain) == len(top.trained())
    for a, b in zip(plain, quick, strict=True):
        assert torch.linalg.vector_norm(a - b) <= 1e-4 * torch.linalg.vector_norm(a)


def test_an_epoch_has_every_row_once_in_batches_of_like_length() -> None:
    torch.manual_seed(1)
    lengths = torch.randint(2, 25, (3000,)).float()
    batches = _batches(lengths)
    assert sorted(torch.cat(batches).tolist()) == list(range(3000))
    assert {len(b) for b in batches} == {POOLED_BATCH, 3000 % POOLED_BATCH}
    spread = [float(lengths[b].max() - lengths[b].min()) for b in batches]
    assert sum(spread) / len(spread) < 2 * 23 / _LIKE
    assert [b.tolist() for b in batches] != [b.tolist() for b in _batches(lengths)]

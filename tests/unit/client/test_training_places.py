"""Attention and adapters: a record's bits are the same at every place of a pass, whatever its shape; and what is not
so is refused at a join."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, ViTConfig, ViTModel

from client.training import blocks_top, trunk
from client.training.attention import attend
from client.training.causal_top import CausalTop
from client.training.dpsgd import Engine
from client.training.encoder_top import EncoderTop
from client.training.examples import Examples
from client.training.families import top_part
from client.training.keystream import Keystream
from client.training.per_sample import attach
from client.training.place_check import check_top_places, check_trunk_places
from client.training.sampling import Piece, members
from client.training.session import prepare
from client.training.token_top import TokenTop
from client.training.trunk import run_frozen
from compliance.errors import InputError
from compliance.training_spec import Adapters, ModelSpec
from tests.tiny_bert import save_tiny_bert, tiny_round, tiny_task, tiny_work

CPU = torch.device("cpu")
SHAPES = [  # width, heads, tokens
    (32, 2, 7), (32, 2, 16), (36, 3, 5), (36, 3, 12), (36, 3, 48), (128, 2, 9), (192, 3, 11), (384, 6, 13),
]  # fmt: skip


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def spec(*targets, whole=0, pooling="mean"):
    lora = Adapters(layers=1, rank=3, scale_milli=2000, targets=targets, init_seed=1) if targets else None
    return ModelSpec(
        name="x", sha256="0" * 64, pooling=pooling, adapters=lora, whole_layers=whole, features=None,
        feature_norm_milli=None,
    )  # fmt: skip


def bert(width, heads, layers=1, inter=50):
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=50, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=inter,
        hidden_dropout_prob=0, attention_probs_dropout_prob=0, initializer_range=0.2, attn_implementation="eager",
    )  # fmt: skip
    return BertModel(config, add_pooling_layer=False).eval().requires_grad_(False)


def gpt2(width, heads, layers=1):
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=40, n_positions=40, n_embd=width, n_layer=layers, n_head=heads, resid_pdrop=0, embd_pdrop=0,
        attn_pdrop=0, initializer_range=0.2, attn_implementation="eager",
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval().requires_grad_(False)


def vit(width, heads, layers=1):
    torch.manual_seed(1)
    config = ViTConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=50, image_size=16,
        patch_size=8, num_channels=1, hidden_dropout_prob=0, attention_probs_dropout_prob=0, initializer_range=0.2,
        attn_implementation="eager",
    )  # fmt: skip
    return ViTModel(config, add_pooling_layer=False).eval().requires_grad_(False)


def top_and_records(task, width, heads, tokens):
    """Shapes of one record: the check looks at nothing else."""
    texts = {"hidden": torch.zeros(1, tokens, width), "mask": torch.zeros(1, tokens)}
    all_linear = ("query", "value", "output.dense", "intermediate.dense")
    if task == "classification":
        top = EncoderTop(top_part(bert(width, heads), 1), spec(*all_linear), 3)
        return top, Examples(texts, torch.zeros(1, dtype=torch.int64))
    if task == "whole":
        top = EncoderTop(top_part(bert(width, heads), 1), spec(whole=1), 3)
        return top, Examples(texts, torch.zeros(1, dtype=torch.int64))
    if task == "tokens":
        top = TokenTop(top_part(bert(width, heads), 1), spec("query", "value", pooling="none"), 5)
        return top, Examples(texts, torch.zeros(1, tokens, dtype=torch.int64))
    if task == "causal":
        model = gpt2(width, heads)
        top = CausalTop(top_part(model.transformer, 1), spec("c_attn", "c_fc", pooling="none"), model.lm_head)
        ids = torch.zeros(1, tokens, dtype=torch.int64)
        return top, Examples({**texts, "ids": ids}, torch.zeros(1, tokens - 1, dtype=torch.int64))
    top = EncoderTop(top_part(vit(width, heads), 1), spec("q_proj", "v_proj"), 3)
    return top, Examples({"hidden": texts["hidden"]}, torch.zeros(1, dtype=torch.int64))


@pytest.mark.parametrize("task", ["classification", "whole", "tokens", "causal", "images"])
@pytest.mark.parametrize(("width", "heads", "tokens"), SHAPES)
def test_a_gradient_and_a_score_depend_on_no_place(task, width, heads, tokens):
    top, examples = top_and_records(task, width, heads, tokens)
    check_top_places(top, examples, CPU, 20, 1, 20)


@pytest.mark.parametrize(("width", "heads", "tokens"), [(32, 2, 7), (128, 2, 9)])
def test_the_norms_of_large_layers_depend_on_no_place(monkeypatch, width, heads, tokens):
    monkeypatch.setattr(attach, "FLAT_BYTES", 0)
    monkeypatch.setattr(attach, "LARGE", 1)
    top, examples = top_and_records("whole", width, heads, tokens)
    check_top_places(top, examples, CPU, 20, 1, 20)


@pytest.mark.parametrize("task", ["whole", "tokens", "causal"])
def test_the_check_sees_attention_that_treats_a_record_by_its_place(monkeypatch, task):
    monkeypatch.setattr(blocks_top, "align_attention", lambda _: None)
    top, examples = top_and_records(task, 128, 2, 9)
    with pytest.raises(InputError, match="RSD-2343"):
        check_top_places(top, examples, CPU, 20, 1, 20)


@pytest.mark.parametrize("part", ["blocks", "squared_norms", "losses", "scores"])
def test_the_check_sees_one_part_alone_that_follows_the_place(monkeypatch, part):
    top, examples = top_and_records("classification", 32, 2, 7)
    source = attach.BookKeeping
    blocks, norms, losses, forward = source.blocks.fget, source.squared_norms, top.record_losses, top.forward

    def at_odd_places(rows):
        step = torch.arange(len(rows)) % 2 * 2.0**-20
        return rows * (1 + step.view(-1, *[1] * (rows.dim() - 1)))

    if part == "blocks":
        monkeypatch.setattr(source, part, property(lambda self: tuple(map(at_odd_places, blocks(self)))))
    elif part == "squared_norms":
        monkeypatch.setattr(source, part, lambda self: at_odd_places(norms(self)))
    elif part == "losses":
        monkeypatch.setattr(top, "record_losses", lambda *rows: losses(*rows) + at_odd_places(torch.ones(20)))
    else:
        monkeypatch.setattr(
            top, "forward", lambda x: forward(x) if torch.is_grad_enabled() else at_odd_places(forward(x))
        )
    with pytest.raises(InputError, match="RSD-2343") as caught:
        check_top_places(top, examples, CPU, 20, 1, 20)
    assert ("a score" if part == "scores" else "a gradient") in str(caught.value.found)


def test_the_check_sees_a_record_that_follows_its_neighbours(monkeypatch):
    top, examples = top_and_records("classification", 32, 2, 7)
    honest = top.record_losses
    monkeypatch.setattr(top, "record_losses", lambda x, y: honest(x, y) * (2 + x["hidden"].mean()))
    with pytest.raises(InputError, match="RSD-2343"):
        check_top_places(top, examples, CPU, 20, 1, 20)


@pytest.mark.parametrize(("width", "heads", "tokens"), [(32, 2, 7), (36, 3, 9), (128, 2, 9)])
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_what_the_trunk_yields_stays_when_a_record_leaves(kind, width, heads, tokens):
    model = bert(width, heads, 2) if kind == "bert" else gpt2(width, heads, 2).transformer
    ids = torch.randint(5, 40, (7, tokens), generator=torch.Generator().manual_seed(2))
    ones = torch.ones_like(ids)

    def yielded(first):
        def read(start, stop):
            return {"input_ids": ids[first:][start:stop], "attention_mask": ones[first:][start:stop]}

        return run_frozen(model, 1, 7 - first, read)["hidden"]

    assert torch.equal(yielded(0)[1:], yielded(1))


def test_the_trunk_of_images_depends_on_no_place_and_one_of_plain_attention_is_refused(monkeypatch):
    model = vit(36, 3, 2)
    trunk.align_attention(model)
    with torch.inference_mode():
        check_trunk_places(model, 1, {"pixel_values": torch.zeros(20, 1, 16, 16)})
        texts = {"input_ids": torch.zeros(20, 9, dtype=torch.int64), "attention_mask": torch.ones(20, 9)}
        with pytest.raises(InputError, match="RSD-2343"):
            check_trunk_places(bert(128, 2, 2), 1, texts)


@pytest.mark.parametrize("tokens", [6, 8])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_what_it_is_without_filling(tokens, masked):
    rng = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(2, 3, tokens, 5, generator=rng, requires_grad=True) for _ in range(3))
    mask = torch.zeros(2, 1, tokens, tokens)
    mask[1, :, :, -2:] = torch.finfo(torch.float32).min
    mask = mask if masked else None
    found, _ = attend(torch.nn.Identity(), q, k, v, mask)
    plain = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2)
    weights = torch.randn(found.shape, generator=rng)
    grads = [torch.autograd.grad((out * weights).sum(), (q, k, v)) for out in (found, plain)]
    torch.testing.assert_close(found, plain)
    torch.testing.assert_close(*grads)


def chosen_vector(top):
    """Values that a server may send: pre-activations are the rounding errors of sums that cancel, times 8e3."""
    rng, half = np.random.default_rng(1), 128
    order = rng.permutation(4 * half)
    rows, columns = rng.standard_normal((half, 128)), rng.standard_normal((128, half))
    wanted = {name: p.detach().numpy() for name, p in top.trained()}
    ours = {
        "intermediate.dense.weight": (np.concatenate([rows] * 4)[order] * 2e3).clip(-9e3, 9e3),
        "0.output.dense.weight": (np.concatenate([columns, -columns] * 2, 1)[:, order] * 2e3).clip(-9e3, 9e3),
        "head.weight": rng.standard_normal((2, 128)),
    }
    parts = [next((v for end, v in ours.items() if n.endswith(end)), w) for n, w in wanted.items()]
    start = [top._start[n].numpy() if n in top._start else 0.0 for n in wanted]
    return np.concatenate([(a - b).ravel() for a, b in zip(parts, start, strict=True)]).astype(np.float32)


def test_one_record_moves_the_clipped_sum_by_the_sensitivity_whatever_vector_came_to_attention():
    top = EncoderTop(top_part(bert(128, 2, inter=512), 1), spec(whole=1), 2)
    rng, start, seen = torch.Generator().manual_seed(2), chosen_vector(top), []
    inputs = {"hidden": torch.randn(28, 9, 128, generator=rng), "mask": torch.ones(28, 9)}
    examples = Examples(inputs, torch.randint(0, 2, (28,), generator=rng))
    changes = {"expected_batch": 32, "physical_batch": 32, "steps": 1}
    with Engine(top, examples, CPU).opened(
        tiny_round(**changes), start, Keystream.fresh(), members(examples, "record")
    ) as run:
        run.optimizer._observe = lambda step: seen.append(step.clipped)
        for first in (0, 1, 2):
            top.set_flat(start)
            run.step([Piece(torch.arange(first, 28), 28 - first)])
        lattice = run.optimizer._lattice
    moves = [float((a - b).double().norm()) * lattice.gamma for a, b in pairwise(seen)]
    assert 0.9 < max(moves) <= lattice.sensitivity


def test_a_join_is_refused_before_anything_is_kept_where_places_matter(tmp_path, monkeypatch):
    folder = save_tiny_bert(tmp_path / "model")
    work = tiny_work(tmp_path, folder).model_copy(update={"task": tiny_task(max_tokens=9)})
    assert prepare(work).d > 0
    monkeypatch.setattr(blocks_top, "align_attention", lambda _: None)
    with pytest.raises(InputError, match="RSD-2343"):
        prepare(work.model_copy(update={"threads": 2}))
    assert not list((tmp_path / "cache").glob("*.safetensors"))
    monkeypatch.undo()
    monkeypatch.setattr(trunk, "align_attention", lambda _: None)
    with pytest.raises(InputError, match="RSD-2343"):
        prepare(work)


def test_a_value_that_is_no_number_is_refused(monkeypatch):
    """It equals nothing, itself neither: the check cannot pass by it."""
    top, examples = top_and_records("tokens", 32, 2, 7)
    broken = torch.full((1, 7, 32), torch.nan)
    monkeypatch.setattr(top, "hidden", lambda inputs: inputs["hidden"] + broken)
    with pytest.raises(InputError):
        check_top_places(top, examples, CPU, 4, 1, 4)

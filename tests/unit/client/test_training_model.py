"""Model folders, the cached trunk and the trained top."""

from __future__ import annotations

import json
import socket

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import BertConfig, BertModel

from client.training.encoder_top import build_top
from client.training.model_folder import check_model, load_encoder, load_tokenizer, model_digest, model_files
from client.training.top import layout_sha256
from client.training.trunk import cached_trunk, run_frozen, run_trunk, trunk_key
from compliance.errors import InputError
from tests.tiny_bert import save_tiny_bert, tiny_model, tiny_task, trained_start

TEXTS = tuple(f"TSH {i % 9}.{i % 7}. age {20 + i}" for i in range(70))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("model"))


def copy_of(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def refused(call) -> str:
    with pytest.raises(InputError) as caught:
        call()
    return caught.value.code


def test_the_digest_covers_what_matters_and_nothing_else(folder, tmp_path):
    copy = copy_of(folder, tmp_path)
    before = model_digest(folder)
    (copy / "README.md").write_text("words")
    (copy / "pytorch_model.bin").write_bytes(b"pickle")
    (copy / ".gitattributes").write_text("x")
    assert model_digest(copy) == before
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        kept = (copy / name).read_bytes()
        (copy / name).write_bytes(kept + b" ")
        assert model_digest(copy) != before, name
        assert refused(lambda: check_model(copy, before)) == "RSD-2313"
        (copy / name).write_bytes(kept)
    (copy / "model-2.safetensors").write_bytes(b"")
    assert model_digest(copy) != before


def test_folders_that_are_no_model_are_refused(folder, tmp_path):
    assert refused(lambda: model_files(tmp_path)) == "RSD-2310"
    copy = copy_of(folder, tmp_path)
    (copy / "model.safetensors").unlink()
    assert refused(lambda: model_files(copy)) == "RSD-2311"
    (copy / "pytorch_model.bin").write_bytes(b"pickle")
    assert refused(lambda: model_digest(copy)) == "RSD-2312"


def test_a_model_with_its_own_code_is_refused(folder, tmp_path):
    copy = copy_of(folder, tmp_path)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "evil.Model"}}))
    assert refused(lambda: check_model(copy, model_digest(copy))) == "RSD-2314"


def test_loading_opens_no_connection(folder, monkeypatch):
    def no_network(*_args, **_kwargs):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    encoder = load_encoder(folder)
    load_tokenizer(folder)
    assert not any(p.requires_grad for p in encoder.parameters())


@pytest.mark.parametrize("adapters", [True, False])
def test_the_cache_is_bit_equal_to_the_computation(folder, tmp_path, adapters):
    model, task = tiny_model(folder, adapters=adapters), tiny_task()
    layers = 1 if adapters else 0
    direct = run_trunk(load_encoder(folder), load_tokenizer(folder), TEXTS, task.max_tokens, layers)
    first = cached_trunk(model, task, folder, TEXTS, tmp_path)
    files = list(tmp_path.glob("trunk-*.safetensors"))
    second = cached_trunk(model, task, folder, TEXTS, tmp_path)
    assert len(files) == 1
    assert files[0].stat().st_mode & 0o077 == 0, "patient data: its owner's only"
    for out in (first, second):
        assert torch.equal(out["hidden"], direct["hidden"])
        assert torch.equal(out["mask"], direct["mask"])
    assert direct["hidden"].shape == (70, 12 if adapters else 1, 32)


def test_a_record_has_the_same_bits_whatever_is_computed_with_it():
    """The frozen layers take 64 rows a pass, fillers among them: for every number of records, and every place.

    Of a width at which matrix libraries choose their kernels by the number of rows.
    """
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=97
    )
    encoder, ids = BertModel(config, add_pooling_layer=False), torch.randint(0, 50, (41, 3))

    def ran(rows):
        return run_frozen(encoder, 1, len(rows), lambda a, b: {"input_ids": rows[a:b]})["hidden"]

    whole = ran(ids)
    for count in range(1, 41):
        assert torch.equal(ran(ids[:count]), whole[:count]), count
        assert torch.equal(ran(ids[41 - count :]), whole[41 - count :]), count


def test_a_damaged_cache_is_computed_again(folder, tmp_path):
    model, task = tiny_model(folder), tiny_task()
    good = cached_trunk(model, task, folder, TEXTS[:5], tmp_path)
    kept = good["hidden"].clone()
    (path,) = tmp_path.glob("trunk-*.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    assert torch.equal(cached_trunk(model, task, folder, TEXTS[:5], tmp_path)["hidden"], kept)


def test_the_key_names_everything_the_trunk_depends_on(folder):
    model, task = tiny_model(folder), tiny_task()
    base = trunk_key(model, task, TEXTS)
    others = [
        trunk_key(model.model_copy(update={"sha256": "0" * 64}), task, TEXTS),
        trunk_key(model, tiny_task(max_tokens=13), TEXTS),
        trunk_key(model, task, TEXTS[:-1]),
        trunk_key(tiny_model(folder, layers=2), task, TEXTS),
    ]
    assert len({base, *others}) == 5


def test_trunk_and_top_make_up_the_whole_model(folder):
    """With B = 0 the adapters do nothing: pooled features equal those of the plain model."""
    encoder, tokenizer, task = load_encoder(folder), load_tokenizer(folder), tiny_task()
    whole = run_trunk(encoder, tokenizer, TEXTS, task.max_tokens, 0)
    head_only = build_top(tiny_model(folder, adapters=False), folder, 2).features(whole)
    for layers in (1, 2):
        cut = run_trunk(encoder, tokenizer, TEXTS, task.max_tokens, layers)
        top = build_top(tiny_model(folder, layers=layers), folder, 2)
        assert (top.features(cut) - head_only).abs().max() < 1e-5
    assert torch.allclose(head_only.norm(dim=1), torch.tensor(3.0))


def test_the_layout_is_fixed_and_everything_starts_at_zero(folder):
    top = build_top(tiny_model(folder), folder, 2)
    names = [e.name for e in top.layout()]
    assert names[:2] == ["head.weight", "head.bias"]
    assert names[2:] == sorted(names[2:])
    assert len(names) == 2 + 3, "attention.self.value, and both output.dense"
    assert all(n.startswith("base_model.model.encoder.layer.") and n.endswith(".lora_B.weight") for n in names[2:])
    assert sum(p.requires_grad for p in top.parameters()) == len(names)
    assert all(e.a_width for e in top.layout()[2:])
    assert not top.get_flat().any()
    assert layout_sha256(top.layout()) == layout_sha256(build_top(tiny_model(folder), folder, 2).layout())
    assert layout_sha256(top.layout()) != layout_sha256(build_top(tiny_model(folder), folder, 3).layout())


def test_saved_and_reloaded_adapters_give_the_same_logits(folder, tmp_path):
    cut = run_trunk(load_encoder(folder), load_tokenizer(folder), TEXTS, 12, 1)
    top = build_top(tiny_model(folder), folder, 2)
    start = trained_start(top.get_flat().size)
    top.set_flat(start)
    logits = top(cut)
    save_file({"flat": top.get_flat()}, tmp_path / "adapter.safetensors")
    other = build_top(tiny_model(folder), folder, 2)
    assert not torch.allclose(other(cut), logits)
    other.set_flat(load_file(tmp_path / "adapter.safetensors")["flat"])
    assert torch.equal(other(cut), logits)
    assert np.array_equal(other.get_flat(), start)
    head = trained_start(top.get_flat().size)
    head[66:] = 0
    other.set_flat(head)
    assert not torch.allclose(other(cut), logits), "the adapters matter"


def test_what_does_not_fit_the_model_is_refused(folder):
    model = tiny_model(folder)
    adapters = model.adapters.model_copy(update={"layers": 3})
    assert refused(lambda: build_top(model.model_copy(update={"adapters": adapters}), folder, 2)) == "RSD-2316"
    adapters = model.adapters.model_copy(update={"targets": ("query_key_value",)})
    assert refused(lambda: build_top(model.model_copy(update={"adapters": adapters}), folder, 2)) == "RSD-2316"
    features = model.features.model_copy(update={"mean_micro": (0, 0), "deviation_micro": (1, 1)})
    assert refused(lambda: build_top(model.model_copy(update={"features": features}), folder, 2)) == "RSD-2317"

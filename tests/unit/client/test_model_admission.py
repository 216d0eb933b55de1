"""Model folders that must not be trained on: each refused by name before anything is charged, nothing left behind."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from client.training import model_admission
from client.training.group_norm import convert
from client.training.model_admission import TYPES, check_folder
from client.training.model_folder import load_decoder, load_encoder, load_tokenizer, model_digest
from client.training.session import prepare
from client.training.trunk_check import check_texts, check_trunk
from client.worker_main import answer, reply
from compliance.errors import InputError
from tests.desk import refused as command_refused
from tests.task_kinds import Made, made, work, write_kinds
from tests.tiny_bert import tiny_model
from tests.tiny_models import adapters, model_of

DOORS = dict.fromkeys(("server", "governance", "enrolment"), "127.0.0.1:9")
AGENT = json.dumps({"schema": "residency.agent/1", "site": "berlin", "jurisdiction": "DE", "consortium": "c",
                    "operator": "hub", **DOORS})  # fmt: skip
WEIGHTS, FIRST = "model.safetensors", "encoder.layer.0.attention.self.query.weight"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_kinds(tmp_path_factory.mktemp("kinds"))


@pytest.fixture
def bert(root, tmp_path):
    return shutil.copytree(root / "bert", tmp_path / "model")


def refused(call) -> InputError:
    with pytest.raises(InputError) as caught:
        call()
    error = caught.value
    assert error.exit_code == 3
    assert error.rule
    assert error.found
    assert error.limit
    assert error.next
    return error


def settings(folder, name="config.json", **changes):
    config = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**config, **changes}))


def tensors(folder, change):
    held = load_file(folder / WEIGHTS)
    change(held)
    save_file(held, folder / WEIGHTS, {"format": "pt"})


def joined(m: Made, cache):
    """What a worker answers to the join of a study on this model, as the agent gets it."""
    spec = work(m, cache)
    found, _ = reply(lambda: answer({"do": "prepare", "work": spec.model_dump(mode="json")}, np.zeros(0, np.float32)))
    return found


def join_refused(m: Made, cache) -> dict[str, str]:
    found = joined(m, cache)
    assert not found["ok"]
    assert found["exit_code"] == 3, found
    assert found["error"]["found"]
    assert found["error"]["limit"]
    assert found["error"]["next"]
    assert list(cache.glob("*")) == [], "nothing is left behind"
    return found["error"]


def on(root, folder, kind="texts", **changes) -> Made:
    """The study of this kind with the model in `folder`."""
    m = made(root, kind)
    return Made(m.task, m.model.model_copy(update={"sha256": model_digest(folder), **changes}), folder, m.table)


# --- types ----------------------------------------------------------------------------------------------------------

ALIKE = [
    "nystromformer", "esm", "roberta-prelayernorm", "xlm-roberta-xl", "convbert", "mpnet", "deberta", "deberta-v2",
    "longformer", "xmod", "megatron-bert", "roformer", "rembert", "canine", "distilbert", "bloom", "deit", None, 7,
]  # fmt: skip


@pytest.mark.parametrize("found", ALIKE, ids=str)
def test_a_type_that_was_not_tested_is_refused_whatever_it_looks_like(bert, found):
    settings(bert, model_type=found)
    error = refused(lambda: check_folder(bert))
    assert error.code == "RSD-2315"
    assert str(found) in error.found
    assert all(name in error.limit for name in TYPES)
    assert refused(lambda: load_encoder(bert)).code == "RSD-2315"


def of_type(bert, kind, **more):
    """A tiny model of this type in the folder, with the words of the tiny BERT."""
    torch.manual_seed(1)
    shape = {
        "vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
        "max_position_embeddings": 80, "initializer_range": 0.3, "pad_token_id": 0, "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }  # fmt: skip
    (bert / WEIGHTS).unlink()
    AutoModel.from_config(AutoConfig.for_model(kind, **shape, **more)).save_pretrained(bert)
    return bert


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("roberta-prelayernorm", "RSD-2341"),
        ("xlm-roberta-xl", "RSD-2341"),
        ("esm", "RSD-2341"),
        ("convbert", "RSD-4520"),
    ],
)
def test_were_such_a_type_listed_it_would_be_found_out_before_a_charge(root, bert, tmp_path, monkeypatch, kind, code):
    folder = of_type(bert, kind)
    m = Made(made(root, "texts").task, model_of(folder, whole_layers=1), folder, root / "table.csv")
    assert join_refused(m, tmp_path / "cache")["code"] == "RSD-2315"
    monkeypatch.setitem(TYPES, kind, "encoder")
    assert join_refused(m, tmp_path / "cache")["code"] == code


def test_a_prefix_that_mixes_records_is_found_out_though_its_type_were_listed(bert, monkeypatch):
    """Adding one record to a Nystromformer moved the features of all others by up to a hundredth of their length."""
    folder = of_type(bert, "nystromformer", num_landmarks=16, segment_means_seq_len=64)
    monkeypatch.setitem(TYPES, "nystromformer", "encoder")
    ids = {"input_ids": torch.zeros(1, 64, dtype=torch.long)}
    error = refused(lambda: check_trunk(load_encoder(folder), 0, ids))
    assert error.code == "RSD-2340"
    assert "frozen part" in error.found


@pytest.mark.parametrize(
    "mixes",
    [lambda out: out + 1e-6 * out.amax(0), lambda out: out * (1 + len(out) / 1000)],
    ids=["a millionth of the batch", "how many they are"],
)
def test_the_least_that_records_tell_each_other_is_found(bert, mixes):
    ids = {"input_ids": torch.zeros(1, 8, dtype=torch.long)}
    check_trunk(load_encoder(bert), 1, ids)
    encoder = load_encoder(bert)
    encoder.embeddings.register_forward_hook(lambda _module, _inputs, out: mixes(out))
    assert refused(lambda: check_trunk(encoder, 1, ids)).code == "RSD-2340"


# --- settings -------------------------------------------------------------------------------------------------------

ODD = {
    "is_decoder": True, "add_cross_attention": True, "is_encoder_decoder": True, "chunk_size_feed_forward": 4,
    "position_embedding_type": "relative_key", "pruned_heads": {"0": [1]}, "return_dict": False, "is_causal": False,
    "scale_attn_by_inverse_layer_idx": True, "quantization_config": {"load_in_8bit": True},
    "transformers_weights": "other.safetensors", "configuration_files": ["config.4.0.0.json"], "sliding_window": 4,
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_a_setting_that_changes_what_is_computed_is_refused(bert, name):
    check_folder(bert)
    settings(bert, **{name: ODD[name]})
    error = refused(lambda: check_folder(bert))
    assert error.code == "RSD-2337"
    assert error.found.startswith(f"{name}: ")


def test_a_decoder_that_passes_for_an_encoder_is_found_out_without_the_list(root, bert, tmp_path, monkeypatch):
    settings(bert, is_decoder=True)
    assert join_refused(on(root, bert), tmp_path / "cache")["code"] == "RSD-2337"
    monkeypatch.setattr(model_admission, "_AS_TESTED", {})
    assert join_refused(on(root, bert), tmp_path / "cache")["code"] == "RSD-2341"


# --- files ----------------------------------------------------------------------------------------------------------


def _lacks(folder):
    tensors(folder, lambda held: held.pop(FIRST))


def _not_finite(folder):
    tensors(folder, lambda held: held[FIRST].fill_(torch.nan))


def _cut(folder):
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])


def _no_tokenizer(folder):
    for path in folder.glob("*token*"):
        path.unlink()


def _index(folder):
    places = {"weight_map": {FIRST: "../elsewhere.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(places))


BAD = {
    "config.json is no JSON": ("RSD-2318", lambda f: (f / "config.json").write_text("{nope"), True),
    "config.json is a list": ("RSD-2318", lambda f: (f / "config.json").write_text("[]"), True),
    "weights cut": ("RSD-2318", _cut, True),
    "heads do not divide the width": ("RSD-2318", lambda f: settings(f, num_attention_heads=5), False),
    "weights of another width": ("RSD-2318", lambda f: settings(f, intermediate_size=96), False),
    "a number that is text": ("RSD-2318", lambda f: settings(f, hidden_size="wide"), False),
    "an activation that is none": ("RSD-2318", lambda f: settings(f, hidden_act="loud"), False),
    "weights that are not finite": ("RSD-2318", _not_finite, False),
    "a tensor is missing": ("RSD-2311", _lacks, False),
    "no tokenizer": ("RSD-2323", _no_tokenizer, True),
    "tokenizer is no JSON": ("RSD-2318", lambda f: (f / "tokenizer.json").write_text("{nope"), False),
    "a tokenizer of more words": ("RSD-2323", lambda f: (settings(f, vocab_size=20), tensors(f, _fewer_words)), False),
    "code of the model": ("RSD-2314", lambda f: settings(f, auto_map={"AutoModel": "own.Model"}), True),
    "merges by chance": ("RSD-2323", lambda f: _random(f, "BPE", dropout=0.1), True),
    "merges always by chance": ("RSD-2323", lambda f: _random(f, "BPE", dropout=1), True),
    "pieces by chance": ("RSD-2323", lambda f: _random(f, "Unigram", alpha=0.1), True),
    "pieces of the best by chance": ("RSD-2323", lambda f: _random(f, "Unigram", nbest_size=8), True),
    "code of the tokenizer": ("RSD-2314", lambda f: settings(f, "tokenizer_config.json", auto_map={"a": "b"}), True),
    "another tokenizer": ("RSD-2338", lambda f: settings(f, "tokenizer_config.json", fast_tokenizer_files=["a"]), True),
    "an adapter": ("RSD-2338", lambda f: (f / "adapter_config.json").write_text("{}"), True),
    "weights elsewhere": ("RSD-2338", _index, True),
}  # fmt: skip


def _random(folder, kind, **more):
    """The tokenizer reads a text otherwise each time."""
    held = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**held, "model": {**held["model"], "type": kind, **more}}))


def _fewer_words(held):
    held["embeddings.word_embeddings.weight"] = held["embeddings.word_embeddings.weight"][:20].clone()


@pytest.mark.parametrize("case", BAD)
def test_a_bad_model_folder_is_refused_by_name_and_never_a_bug(root, bert, tmp_path, case):
    code, spoil, at_once = BAD[case]
    spoil(bert)
    if at_once:
        assert refused(lambda: check_folder(bert)).code == code
    assert join_refused(on(root, bert), tmp_path / "cache")["code"] == code


def test_a_folder_with_code_of_its_own_is_not_registered(bert, tmp_path):
    """As the engineer types it; nothing is registered."""
    (tmp_path / "agent.json").write_text(AGENT)
    settings(bert, auto_map={"AutoModel": "own.Model"})
    error = command_refused(3, "RSD-2314", "agent", "model", "add", bert, "--home", tmp_path)
    assert error["found"] == "auto_map in config.json"
    assert not (tmp_path / "registry.json").exists()


def test_an_adapter_beside_the_model_is_never_loaded(bert):
    """Transformers puts it on by itself: two folders of one digest would be two models."""
    before = model_digest(bert)
    (bert / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "target_modules": ["query"]}))
    assert model_digest(bert) == before
    assert refused(lambda: load_encoder(bert)).code == "RSD-2338"


def test_a_tokenizer_without_its_file_is_not_made_up(bert):
    _no_tokenizer(bert)
    assert refused(lambda: load_tokenizer(bert)).code == "RSD-2323"


@pytest.mark.parametrize(
    ("kind", "model_type", "tokens", "places"),
    [
        ("texts", "bert", 33, 32),
        ("words", "bert", 33, 32),
        ("next-token", "gpt2", 33, 32),
        ("texts", "roberta", 31, 30),
    ],
)
def test_texts_longer_than_the_model_are_refused(root, bert, tmp_path, kind, model_type, tokens, places):
    if model_type == "roberta":
        settings(bert, model_type="roberta", pad_token_id=1)
    m = on(root, root / "gpt2" if model_type == "gpt2" else bert, kind)
    long = Made(m.task.model_copy(update={"max_tokens": tokens}), m.model, m.folder, m.table)
    error = join_refused(long, tmp_path / "cache")
    assert (error["code"], error["found"], error["limit"]) == ("RSD-2339", str(tokens), str(places))
    model = load_decoder(m.folder) if kind == "next-token" else load_encoder(m.folder)
    check_texts(model, load_tokenizer(m.folder), places)


def test_a_token_that_the_model_has_no_vector_for_is_refused(bert):
    encoder, tokenizer = load_encoder(bert), load_tokenizer(bert)
    last = max(tokenizer.get_vocab().values())
    for size, good in ((last + 1, True), (last, False)):
        encoder.config.vocab_size = size
        if good:
            check_texts(encoder, tokenizer, 8)
        else:
            assert refused(lambda: check_texts(encoder, tokenizer, 8)).code == "RSD-2323"


def test_a_trained_part_that_yields_no_number_is_refused(bert):
    encoder, ids = load_encoder(bert), {"input_ids": torch.zeros(1, 8, dtype=torch.long)}
    encoder.encoder.layer[-1].output.dense.bias.data[0] = torch.nan
    assert refused(lambda: check_trunk(encoder, 1, ids)).code == "RSD-2341"


@pytest.mark.parametrize("target", ["output.LayerNorm", "attention.self", "attention", "convolution"])
def test_adapters_on_what_is_not_linear_are_refused(root, bert, tmp_path, target):
    if target == "convolution":
        m = on(root, root / "gn", "convolutions", whole_layers=0, adapters=adapters("convolution"))
    else:
        lora = tiny_model(bert).adapters.model_copy(update={"targets": (target,)})
        m = on(root, bert, adapters=lora)
    error = join_refused(m, tmp_path / "cache")
    assert (error["code"], error["found"]) == ("RSD-2316", target)


@pytest.mark.parametrize("name", ["config.json", WEIGHTS])
def test_a_damaged_folder_is_not_converted(root, tmp_path, name):
    folder = shutil.copytree(root / "resnet", tmp_path / "resnet")
    (folder / name).write_bytes(b"{nope")
    assert refused(lambda: convert(folder, tmp_path / "out", 2)).code == "RSD-2318"
    assert not (tmp_path / "out").exists()


def test_trying_out_leaves_the_start_as_it_was(root, bert, tmp_path):
    m = on(root, bert, adapters=None, whole_layers=1)
    prepare(work(m, tmp_path / "cache"))
    kept, base = load_file(tmp_path / "cache" / "top.safetensors"), load_file(bert / WEIGHTS)
    layer = {
        name.removeprefix("encoder.layer.1."): t for name, t in base.items() if name.startswith("encoder.layer.1.")
    }
    assert layer
    for name, tensor in layer.items():
        assert torch.equal(kept[f"layers.0.{name}"], tensor), name
    assert not kept["head.weight"].any()

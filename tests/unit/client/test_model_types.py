"""Each type of base model that is taken: its parts make up the whole, and a record's features are its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel

from client.training.encoder_top import EncoderTop
from client.training.families import top_part
from client.training.group_norm import GROUPS, with_group_norm
from client.training.model_admission import TYPES
from client.training.trunk import run_frozen
from compliance.training_spec import ModelSpec

RECORDS, TOKENS, WORDS, SIDE = 5, 9, 40, 16
torch.set_num_threads(1)
TEXT = {
    "vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
    "max_position_embeddings": 16, "initializer_range": 0.3, "pad_token_id": 0,
}  # fmt: skip
IMAGE = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "image_size": SIDE,
    "patch_size": 8, "initializer_range": 0.3,
}  # fmt: skip
CONVOLUTIONS = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 2], "layer_type": "basic", GROUPS: 2}
GPT2 = {"vocab_size": WORDS, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 16, "initializer_range": 0.3}
CASES = {
    "bert": TEXT,
    "roberta": {**TEXT, "pad_token_id": 1},
    "xlm-roberta": {**TEXT, "pad_token_id": 1},
    "camembert": {**TEXT, "pad_token_id": 1},
    "electra": TEXT,
    "electra, narrow embeddings": {**TEXT, "embedding_size": 16},
    "gpt2": GPT2,
    "vit": IMAGE,
    "vit, no bias": {**IMAGE, "qkv_bias": False},
    "resnet": CONVOLUTIONS,
    "resnet, bottlenecks": {
        **CONVOLUTIONS, "hidden_sizes": [16, 32], "layer_type": "bottleneck", "downsample_in_bottleneck": True,
        "downsample_in_first_stage": True,
    },
}  # fmt: skip


def built(case):
    """As transformers builds it, with its own attention."""
    torch.manual_seed(3)
    config = AutoConfig.for_model(case.split(",")[0], **CASES[case])
    for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop", "hidden_dropout_prob", "attention_probs_dropout_prob"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    model = AutoModel.from_config(config, attn_implementation="eager", dtype=torch.float32)
    if hasattr(config, GROUPS):
        with_group_norm(model, config)
    return model.eval().requires_grad_(False)


def rows_for(case, seed=0):
    chance = torch.Generator().manual_seed(seed)
    if TYPES[case.split(",")[0]] in ("vit", "resnet"):
        return {"pixel_values": torch.randn(RECORDS, 3, SIDE, SIDE, generator=chance)}
    ids = torch.randint(2, WORDS, (RECORDS, TOKENS), generator=chance)
    mask = (torch.arange(TOKENS) < torch.tensor([9, 4, 9, 1, 6]).unsqueeze(1)).long()
    return {"input_ids": torch.where(mask.bool(), ids, CASES[case].get("pad_token_id", 0)), "attention_mask": mask}


def frozen(model, layers, rows):
    count = len(next(iter(rows.values())))
    return run_frozen(model, layers, count, lambda a, b: {name: t[a:b] for name, t in rows.items()})


def test_every_type_that_is_taken_is_tried():
    assert {case.split(",")[0] for case in CASES} == set(TYPES)
    told = (Path(__file__).parents[3] / "docs" / "tasks.md").read_text()
    assert all(f"`{name}`" in told for name in TYPES)


@pytest.mark.parametrize("case", CASES)
def test_frozen_part_and_top_make_up_the_model_of_transformers(case):
    model, rows = built(case), rows_for(case)
    with torch.inference_mode():
        whole = model(**rows).last_hidden_state
    real = rows["attention_mask"].bool() if "attention_mask" in rows else torch.ones(whole.shape[:2]).bool()
    for layers in (1, 2):
        cut = frozen(model, layers, rows)
        spec = ModelSpec(
            name="tiny", sha256="0" * 64, pooling="mean", adapters=None, features=None, feature_norm_milli=None,
            whole_layers=layers,
        )  # fmt: skip
        with torch.inference_mode():
            split = EncoderTop(top_part(model, layers), spec, 2).hidden(cut)
        apart = (split[real] - whole[real]).norm() / whole[real].norm()
        assert apart < 1e-5, (layers, float(apart))


@pytest.mark.parametrize("case", CASES)
def test_the_frozen_part_of_a_record_does_not_know_the_others(case):
    model, rows, others = built(case), rows_for(case), rows_for(case, seed=9)
    for layers in (0, 1):
        found = frozen(model, layers, rows)["hidden"]
        mixed = {name: torch.cat([t[:2], others[name][2:]]) for name, t in rows.items()}
        assert torch.equal(frozen(model, layers, mixed)["hidden"][:2], found[:2]), "replaced"
        fewer = {name: t[:2] for name, t in rows.items()}
        assert torch.equal(frozen(model, layers, fewer)["hidden"], found[:2]), "taken away"

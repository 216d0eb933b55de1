"""A GPT-2, a ViT and a ResNet of a few hundred weights, saved as model folders; the parts of studies that fit them."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    ResNetConfig,
    ResNetModel,
    ViTConfig,
    ViTModel,
)

from client.training.examples import Examples
from client.training.model_folder import model_digest
from client.training.top import Top
from compliance.task_spec import CausalLM, ImageClassification, Scaling, TokenClassification
from compliance.training_spec import Adapters, ModelSpec

SIDE = 8


def save_tiny_gpt2(folder: Path) -> Path:
    """Two blocks of width 16, words of whole tokens, no padding token."""
    words = ["<unk>", "<end>", "tsh", "age", "low", "high", ".", *map(str, range(100))]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", eos_token="<end>").save_pretrained(folder)
    torch.manual_seed(6)
    config = GPT2Config(
        vocab_size=len(words), n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=1,
        initializer_range=0.3,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def save_tiny_vit(folder: Path) -> Path:
    """Two blocks of width 16 on 8 x 8 images of three channels, 4 places and one more."""
    torch.manual_seed(7)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=SIDE, patch_size=4,
        initializer_range=0.3,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def save_tiny_resnet(folder: Path) -> Path:
    """Two stages of one basic block, with BatchNorm."""
    torch.manual_seed(8)
    config = ResNetConfig(num_channels=3, embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic")
    ResNetModel(config).save_pretrained(folder)
    return folder


def adapters(*targets: str, layers: int = 1) -> Adapters:
    """LoRA of rank 2."""
    return Adapters(layers=layers, rank=2, scale_milli=2000, targets=targets, init_seed=3)


def model_of(folder: Path, **changes: object) -> ModelSpec:
    """The model in `folder`, the head alone unless changed."""
    fields = {"name": "tiny", "sha256": model_digest(folder), "pooling": "mean", "adapters": None, "features": None}
    return ModelSpec(**{**fields, "feature_norm_milli": 3000, **changes})


def token_task(**changes: object) -> TokenClassification:
    """Values and findings in a short text."""
    fields = {
        "kind": "token_classification", "labels": ("O", "B-lab", "I-lab"), "tokens_column": "words",
        "tags_column": "tags", "max_tokens": 12,
    }  # fmt: skip
    return TokenClassification(**{**fields, **changes})


def causal_task(**changes: object) -> CausalLM:
    """A short text."""
    return CausalLM(**{"kind": "causal_lm", "template": "{words} age {age}", "max_tokens": 8, **changes})


def image_task(**changes: object) -> ImageClassification:
    """Two classes of images of three channels."""
    fields = {
        "kind": "image_classification", "labels": ("no", "yes"), "label_column": "target",
        "label_values": {"-": "no", "K": "yes"}, "image_column": "image", "side": SIDE,
        "scaling": (Scaling(mean_milli=500, deviation_milli=250),) * 3,
    }  # fmt: skip
    return ImageClassification(**{**fields, **changes})


def moved(top: Top, seed: int = 1) -> Top:
    """The top somewhere else than where it starts: at the start some gradients are zero."""
    flat = np.random.default_rng(seed).normal(0.0, 0.2, top.get_flat().size).astype(np.float32)
    top.set_flat(flat)
    return top


def record_gradients(top: Top, examples: Examples, rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses (n,) and gradients (n, d) of the records `rows`, all in one forward pass."""
    inputs, targets = examples.take(torch.tensor(rows), torch.device("cpu"))
    losses = top.record_losses(inputs, targets)
    parameters = [p for _, p in top.trained()]
    grads = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses]
    return losses.detach(), torch.stack([torch.cat([g.flatten() for g in row]) for row in grads])

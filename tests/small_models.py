"""Small models of three families from their configs, with something trained, and a loss for each record."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model, ViTConfig, ViTModel

WORDS, CLASSES = 50, 3


class Classifier(nn.Module):
    """A body, the mean of its last hidden states, and a linear head."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(width, CLASSES)

    def losses(self, inputs: dict[str, torch.Tensor], targets: torch.Tensor) -> torch.Tensor:
        """(n,)."""
        out = self.body(**inputs)
        pooled = (out if isinstance(out, torch.Tensor) else out.last_hidden_state).flatten(2).mean(1)
        return nn.functional.cross_entropy(self.head(pooled), targets, reduction="none")


@dataclass
class Case:
    """A model and records for it."""

    model: Classifier
    inputs: dict[str, torch.Tensor]
    targets: torch.Tensor

    @property
    def trained(self) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters."""
        return [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]

    def losses(self, count: int | None = None, first: int = 0) -> torch.Tensor:
        """Of `count` records."""
        end = None if count is None else first + count
        return self.model.losses({k: t[first:end] for k, t in self.inputs.items()}, self.targets[first:end])


def lora(body: nn.Module, targets: list[str], *, b_only: bool = False) -> None:
    """Inject adapters of rank 4 whose B is not zero; only they are trained."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inject_adapter_in_model(LoraConfig(r=4, lora_alpha=6, lora_dropout=0.0, target_modules=targets), body)
    for name, parameter in body.named_parameters():
        parameter.requires_grad_("lora_B" in name or ("lora_A" in name and not b_only))
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)


def train_kinds(model: nn.Module, *kinds: type[nn.Module]) -> None:
    """Train the layers of these kinds and nothing else."""
    model.requires_grad_(False)
    for module in model.modules():
        if type(module) in kinds:
            module.requires_grad_(True)


def text(records: int = 5, tokens: int = 7) -> dict[str, torch.Tensor]:
    """Token ids, and positions as a row a record."""
    return {
        "input_ids": torch.randint(0, WORDS, (records, tokens)),
        "position_ids": torch.arange(tokens).expand(records, -1),
    }


def bert(prepare: Callable[[nn.Module], object], records: int = 5, tokens: int = 7) -> Case:
    """Two layers of width 32."""
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=WORDS, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.2,
        attn_implementation="eager",
    )  # fmt: skip
    body = BertModel(config, add_pooling_layer=False).requires_grad_(False)
    prepare(body)
    return Case(Classifier(body.train(), 32), text(records, tokens), torch.randint(0, CLASSES, (records,)))


def gpt2(prepare: Callable[[nn.Module], object]) -> Case:
    """Two layers of width 32; its linear layers are Conv1D."""
    torch.manual_seed(2)
    config = GPT2Config(
        vocab_size=WORDS, n_positions=16, n_embd=32, n_layer=2, n_head=2, embd_pdrop=0.0, attn_pdrop=0.0,
        resid_pdrop=0.0, initializer_range=0.2, use_cache=False, attn_implementation="eager",
    )  # fmt: skip
    body = GPT2Model(config).requires_grad_(False)
    prepare(body)
    return Case(Classifier(body.train(), 32), text(), torch.randint(0, CLASSES, (5,)))


def vit(prepare: Callable[[nn.Module], object]) -> Case:
    """Two layers of width 32 on images of 8 x 8 in patches of 4."""
    torch.manual_seed(3)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, image_size=8, patch_size=4,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.2, attn_implementation="eager",
    )  # fmt: skip
    body = ViTModel(config, add_pooling_layer=False).requires_grad_(False)
    prepare(body)
    return Case(
        Classifier(body.train(), 32), {"pixel_values": torch.randn(5, 3, 8, 8)}, torch.randint(0, CLASSES, (5,))
    )


class Images(nn.Module):
    """Convolutions with groups, stride, dilation and padding, each with GroupNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, groups=4, padding=(1, 2)), nn.GroupNorm(4, 16), nn.ReLU(),
            nn.Conv2d(16, 8, 2, dilation=2, bias=False),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, pixels, channels)."""
        out: torch.Tensor = self.net(x).flatten(2).transpose(1, 2)
        return out


def images() -> Case:
    """A small convolutional network, all of it trained."""
    torch.manual_seed(4)
    return Case(Classifier(Images(), 8), {"x": torch.randn(5, 3, 8, 8)}, torch.randint(0, CLASSES, (5,)))

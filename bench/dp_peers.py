"""One training step as the peers take it: stock peft, Opacus with hooks, Opacus with ghost clipping, a fused twin.

All on transformers' own classifier, the same weights, the same random batch, plain SGD, no dropout. peft and the twin
are not private.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from bench.dp_cases import RANK, SHAPES, Case

Step = Callable[[], None]
RATE: Final = 1e-3
CLIP: Final = 1.0
SIGMA: Final = 1.0
CLASSES: Final = 2
_SEED: Final = 7


@dataclass(frozen=True)
class Batch:
    """Random token ids (n, tokens), all of them real, and classes (n,)."""

    ids: torch.Tensor
    labels: torch.Tensor

    @property
    def mask(self) -> torch.Tensor:
        """1 for a real token."""
        return torch.ones_like(self.ids)


def batch_of(case: Case) -> Batch:
    """The batch of `case`, the same for every mode."""
    draw = torch.Generator().manual_seed(_SEED)
    ids = torch.randint(5, SHAPES[case.model].words, (case.batch, case.tokens), generator=draw)
    return Batch(ids, torch.randint(0, CLASSES, (case.batch,), generator=draw))


def classifier(case: Case, *, train_all_layers: bool = False) -> Any:
    """transformers' BERT classifier from its config, with what the case trains made trainable. Embeddings are frozen.

    `train_all_layers`: whatever the case says about layers.
    """
    from transformers import BertConfig, BertForSequenceClassification  # noqa: PLC0415 - slow to import

    shape = SHAPES[case.model]
    torch.manual_seed(_SEED)
    config: Any = BertConfig(
        vocab_size=shape.words,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.inner,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    config.num_labels = CLASSES
    model: Any = BertForSequenceClassification(config)
    if case.trained == "full":
        model.bert.embeddings.requires_grad_(False)
        return model.train()
    return _lora(case, model, None if train_all_layers else case.layers)


def _lora(case: Case, model: Any, last: int | None) -> Any:
    from peft import LoraConfig, TaskType, get_peft_model  # noqa: PLC0415 - slow to import

    count = SHAPES[case.model].layers
    chosen = list(range(count - last, count)) if last else None
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=RANK,
        lora_alpha=RANK,
        target_modules=list(case.targets),
        layers_to_transform=chosen,
        layers_pattern="layer" if chosen else None,
    )
    return get_peft_model(model, config).train()


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def peft(case: Case, *, train_all_layers: bool = False) -> Step:
    """A non-private step as peft's users write it."""
    model, batch = classifier(case, train_all_layers=train_all_layers), batch_of(case)
    sgd = torch.optim.SGD(_trainable(model), lr=RATE)

    def step() -> None:
        sgd.zero_grad()
        out = model(input_ids=batch.ids, attention_mask=batch.mask)
        torch.autograd.backward(cross_entropy(out.logits, batch.labels))
        sgd.step()

    return step


def opacus_hooks(case: Case) -> Step:
    """Opacus as its PrivacyEngine sets it up by default: per-sample gradients by hooks, flat clipping."""
    from opacus.grad_sample import GradSampleModule  # noqa: PLC0415 - slow to import
    from opacus.optimizers import DPOptimizer  # noqa: PLC0415

    model, batch = classifier(case), batch_of(case)
    wrapped: Any = GradSampleModule(model, batch_first=True, loss_reduction="mean")
    optimizer = DPOptimizer(
        torch.optim.SGD(_trainable(model), lr=RATE),
        noise_multiplier=SIGMA,
        max_grad_norm=CLIP,
        expected_batch_size=case.batch,
    )

    def step() -> None:
        optimizer.zero_grad()
        out = wrapped(input_ids=batch.ids, attention_mask=batch.mask)
        torch.autograd.backward(cross_entropy(out.logits, batch.labels))
        optimizer.step()

    return step


def opacus_ghost(case: Case) -> Step:
    """Opacus with `grad_sample_mode="ghost"`: norms in one backward pass, the clipped sum in a second."""
    from opacus.grad_sample import GradSampleModuleFastGradientClipping  # noqa: PLC0415 - slow to import
    from opacus.optimizers import DPOptimizerFastGradientClipping  # noqa: PLC0415
    from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping  # noqa: PLC0415

    model, batch = classifier(case), batch_of(case)
    wrapped: Any = GradSampleModuleFastGradientClipping(
        model, batch_first=True, loss_reduction="mean", max_grad_norm=CLIP, use_ghost_clipping=True
    )
    optimizer = DPOptimizerFastGradientClipping(
        torch.optim.SGD(_trainable(model), lr=RATE),
        noise_multiplier=SIGMA,
        max_grad_norm=CLIP,
        expected_batch_size=case.batch,
    )
    criterion = DPLossFastGradientClipping(wrapped, optimizer, nn.CrossEntropyLoss(), loss_reduction="mean")

    def step() -> None:
        optimizer.zero_grad()
        out = wrapped(input_ids=batch.ids, attention_mask=batch.mask)
        loss: Any = criterion(out.logits, batch.labels)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loss.backward()
        optimizer.step()

    return step


class _FusedLora(torch.autograd.Function):
    """y = W x + b + s B A x, and the summed gradients of A and B written where SGD reads them."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: Any) -> torch.Tensor:
        """(n, tokens, in) -> (n, tokens, out)."""
        low = nn.functional.linear(x, layer.a)
        y = nn.functional.linear(x, layer.base.weight, layer.base.bias)
        y.view(-1, y.shape[-1]).addmm_(low.flatten(0, -2), layer.b.t(), alpha=layer.scale)
        ctx.save_for_backward(x, low)
        ctx.layer = layer
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        """One pass: gradient of x, and of A and B."""
        (x, low), layer = ctx.saved_tensors, ctx.layer
        rows, down = grad.flatten(0, -2), None
        back = (rows @ layer.b).mul_(layer.scale)
        layer.a.grad = back.t() @ x.flatten(0, -2)
        layer.b.grad = (rows.t() @ low.flatten(0, -2)).mul_(layer.scale)
        if ctx.needs_input_grad[0]:
            down = torch.addmm(rows @ layer.base.weight, back, layer.a).view_as(x)
        return down, None


class _Fused(nn.Module):
    """A peft LoRA layer with its two low-rank products fused into the base product."""

    def __init__(self, adapted: Any) -> None:
        super().__init__()
        self.base = adapted.base_layer
        self.a, self.b = adapted.lora_A["default"].weight, adapted.lora_B["default"].weight
        self.scale = adapted.scaling["default"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See `_FusedLora`."""
        y: torch.Tensor = _FusedLora.apply(x, self)  # type: ignore[no-untyped-call]
        return y


def twin(case: Case) -> Step:
    """The fastest non-private step that we know to write: fused LoRA, no graph below the first trained layer."""
    model, batch = classifier(case), batch_of(case)
    for name, module in list(model.named_modules()):
        if hasattr(module, "lora_B"):
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, _Fused(module))
    sgd = torch.optim.SGD(_trainable(model), lr=RATE)
    model.base_model.model.bert.embeddings.register_forward_hook(lambda _m, _i, out: out.detach().requires_grad_())

    def step() -> None:
        out = model(input_ids=batch.ids, attention_mask=batch.mask)
        torch.autograd.backward(cross_entropy(out.logits, batch.labels))
        sgd.step()
        sgd.zero_grad()

    return step

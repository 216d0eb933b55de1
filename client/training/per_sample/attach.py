"""Book-keeping on a model: which rule serves which layer, where the gradients go, attach and detach."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from types import TracebackType
from typing import Any, Final

import torch
from torch import nn

from client.training.per_sample.conv import ConvSite
from client.training.per_sample.linear import LinearSite
from client.training.per_sample.lora import LoraSite
from client.training.per_sample.norms import NormSite
from client.training.per_sample.products import FrozenSite
from client.training.per_sample.refusals import refuse_lora, refuse_no_rule, refuse_unsound, refuse_untouched
from client.training.per_sample.slots import Block, Pass, Slot
from client.training.per_sample.summed import Grams, SummedLinear, add_up, squared_lengths
from compliance.errors import InternalBug

Trained = Sequence[tuple[str, nn.Parameter]]
FLAT_BYTES: Final = 64 << 20  # up to here every gradient is kept
MOST_BYTES: Final = 512 << 20  # of the kept gradients; fewer rows beyond
BLOCK_BYTES: Final = 512 << 10  # of gradients that lie together on a CPU: what a freed input makes room for
PROBE_ROWS: Final = 2  # there is always room for the probe (client/training/per_sample/probe.py)
LARGE: Final = 1 << 14  # weights of a linear layer that is summed in two phases where the buffer would be larger


def summed_names(model: nn.Module, trained: Trained, rows: int) -> frozenset[str]:
    """Names of the weights that take two phases: public, a function of the layout and of the physical batch."""
    if 4 * rows * sum(p.numel() for _, p in trained) <= FLAT_BYTES:
        return frozenset()
    adapters = {inner for m in model.modules() if _is_lora(m) for inner in m.modules()}
    linear = {id(m.weight) for m in model.modules() if _is_linear(m) and m not in adapters}
    return frozenset(n for n, p in trained if id(p) in linear and p.numel() > LARGE)


class BookKeeping:
    """Per-sample gradients of `model` in one backward pass, for at most `rows` records.

    While attached (a context manager), the forwards of the trained layers are replaced. A pass: `begin(n)`, a forward
    over n records, the backward of the SUM of their losses, `finish()`; then `flat` and `summed` hold every unit's
    gradient. No `.grad` is computed. At one n a unit's gradient and norm are the same bits whatever else is in the
    pass: all that is computed has shapes of n rows, and rows that are no unit are dropped at the end. Every
    join tries it (client/training/place_check.py).
    """

    def __init__(self, model: nn.Module, trained: Trained, physical: int, least: int = 1) -> None:
        """`trained`: names and parameters in the order of the flat vector. A pass takes `rows` records: `physical`, or
        fewer if 512 MiB hold fewer, but `least`. Raises InputError RSD-4520 to RSD-4529 for what cannot be trained."""
        refuse_unsound(model, trained)
        if {id(p) for _, p in trained} != {id(p) for p in model.parameters() if p.requires_grad}:
            raise InternalBug("RSD-4530", "the trained parameters are not the ones that the layout lists")
        names = summed_names(model, trained, physical)
        flat = [(n, p) for n, p in trained if n not in names]
        sizes = [p.numel() for _, p in flat]
        self.rows = max(least, min(physical, MOST_BYTES // (4 * max(1, sum(sizes)))))
        device = trained[0][1].device
        self._most = max(self.rows, PROBE_ROWS)
        width = BLOCK_BYTES // (4 * self.rows) if device.type == "cpu" else sum(sizes)
        self._blocks, self._slots = _blocks(flat, width, device)
        self._large = {id(p): SummedLinear(n, (p.shape[0], p.shape[1])) for n, p in trained if n in names}
        self._trained, self._at, self._units = trained, Pass(), 0
        self._fold: torch.Tensor | None = None
        self._forwards = _rules(model, self._slots, self._large, self._at)
        self._before: dict[nn.Module, Any] = {}

    def __enter__(self) -> BookKeeping:
        """Replace the forwards."""
        for module, forward in self._forwards.items():
            if "forward" in vars(module):
                self._before[module] = vars(module)["forward"]
            module.forward = forward
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Put the forwards back and let go of the pass."""
        for module in self._forwards:
            del module.forward
            if module in self._before:
                module.forward = self._before.pop(module)
        self.begin(0)

    @property
    def summed(self) -> tuple[SummedLinear, ...]:
        """The layers whose gradients are not kept, in the order of the flat vector."""
        return tuple(self._large[id(p)] for _, p in self._trained if id(p) in self._large)

    def begin(self, records: int) -> None:
        """Start a pass over `records` records, at most `rows`."""
        if records > self._most:
            raise InternalBug("RSD-4530", "a physical batch is larger than the buffer", limit=self._most)
        self._at.records, self._units, self._fold = records, records, None
        for block in self._blocks:
            block.begin(records)
        for slot in self._slots.values():
            slot.begin()
        for layer in self._large.values():
            layer.begin()

    def finish(self, fold: torch.Tensor | None = None, units: int | None = None) -> None:
        """After the backward pass: add up each unit's records, and give every parameter its `grad_sample`.

        The first `units` rows (all, unless told) are the units, each with its first record. `fold` int64: row
        `units + i` is added to row fold[i]. Rows after those are fillers and dropped. Raises InputError RSD-4525 naming
        parameters without a gradient.
        """
        layers: tuple[Slot | SummedLinear, ...] = (*self._slots.values(), *self._large.values())
        if missing := [layer.name for layer in layers if not layer.filled]:
            refuse_untouched(missing)
        self._units, self._fold = self._at.records if units is None else units, fold
        for block in self._blocks:
            add_up(block.gradients, fold, self._units)
        for _, p in self._trained:
            slot = self._slots.get(id(p))
            each: Any = torch.empty((self._units, 0)) if slot is None else slot.gradients[: self._units]
            p.grad_sample = each  # type: ignore[attr-defined]

    @property
    def blocks(self) -> tuple[torch.Tensor, ...]:
        """float32 (units, columns) each: the kept gradients, in the order of the flat vector. Free to overwrite."""
        return tuple(block.gradients[: self._units] for block in self._blocks)

    @property
    def flat(self) -> torch.Tensor:
        """float32 (units, columns): a copy of `blocks` side by side."""
        return torch.cat(self.blocks, 1)

    def squared_norms(self) -> torch.Tensor:
        """float64 (units,): squared length of each unit's whole gradient, never too small by more than 2^-21 of it."""
        total, *more = (squared_lengths(block.gradients)[: self._units] for block in self._blocks)
        for squared in more:
            total += squared
        known: Grams = {}
        for layer in self.summed if self._units else ():
            total += layer.squared_norms(self._fold, self._units, known)
        return total


def _blocks(flat: Trained, width: int, device: torch.device) -> tuple[list[Block], dict[int, Slot]]:
    """Blocks of at most `width` columns, or of one parameter, in order; and each parameter's place, by its id."""
    groups: list[list[tuple[str, nn.Parameter]]] = [[]]
    filled = 0
    for name, p in flat:
        if groups[-1] and filled + p.numel() > width:
            groups.append([])
            filled = 0
        groups[-1].append((name, p))
        filled += p.numel()
    blocks, slots = [], dict[int, Slot]()
    for group in groups:
        ends = list(accumulate(p.numel() for _, p in group))
        blocks.append(Block(ends[-1] if ends else 0, device))
        slots |= {id(p): Slot(n, p, blocks[-1], end - p.numel()) for (n, p), end in zip(group, ends, strict=True)}
    return blocks, slots


def _rules(model: nn.Module, slots: dict[int, Slot], summed: dict[int, SummedLinear], at: Pass) -> dict[nn.Module, Any]:
    """The forward that each trained layer gets, and each frozen linear one. Raises InputError RSD-4520, RSD-4528."""
    forwards: dict[nn.Module, Any] = {}
    claimed: set[int] = set()
    for name, module in model.named_modules():
        if _is_lora(module) and any(p.requires_grad for p in module.parameters()):
            forwards[module] = _lora_site(name, module, slots, at).forward
            claimed |= {id(p) for p in module.parameters()}
    for name, module in model.named_modules():
        own = [p for p in module.parameters(recurse=False) if p.requires_grad and id(p) not in claimed]
        if own:
            forwards[module] = _plain_site(name, module, slots, summed, at).forward
        elif type(module) is nn.Linear and id(module.weight) not in claimed:
            forwards[module] = FrozenSite(module).forward
    return forwards


def _plain_site(
    name: str, module: nn.Module, slots: dict[int, Slot], summed: dict[int, SummedLinear], at: Pass
) -> LinearSite | NormSite | ConvSite:
    layer: Any = module
    slot, bias = slots.get(id(getattr(layer, "weight", None))), slots.get(id(getattr(layer, "bias", None)))
    if _is_linear(module):
        transposed = type(module) is not nn.Linear
        return LinearSite(name, layer.weight, layer.bias, transposed, slot, summed.get(id(layer.weight)), bias, at)
    if type(module) in (nn.LayerNorm, nn.GroupNorm):
        return NormSite(name, layer, slot, bias, at)
    if type(module) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
        return ConvSite(name, layer, slot, bias, at)
    return refuse_no_rule(name, type(module).__name__)


def _is_linear(module: nn.Module) -> bool:
    """nn.Linear itself (a subclass may compute otherwise), or the transposed linear layer of GPT-2."""
    kind = type(module)
    return kind is nn.Linear or (kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils")


def _is_lora(module: nn.Module) -> bool:
    return hasattr(module, "lora_A") and hasattr(module, "base_layer")


def _lora_site(name: str, module: nn.Module, slots: dict[int, Slot], at: Pass) -> LoraSite:
    layer: Any = module
    base, active = layer.base_layer, list(layer.active_adapters)
    if not _is_linear(base):
        refuse_no_rule(name, f"LoRA on {type(base).__name__}")
    if len(active) != 1 or set(layer.lora_A) != set(active):
        refuse_lora(name, "several adapters, or none active")
    if layer.merged or layer.disable_adapters or getattr(layer, "lora_variant", None) or layer.use_dora.get(active[0]):
        refuse_lora(name, "merged, disabled or a variant")
    low, high = layer.lora_A[active[0]], layer.lora_B[active[0]]
    if high.bias is not None or low.bias is not None or any(p.requires_grad for p in base.parameters()):
        refuse_lora(name, "a bias of its own, or a trained base")
    weight = base.weight if type(base) is nn.Linear else base.weight.t()
    return LoraSite(
        name, weight.detach(), None if base.bias is None else base.bias.detach(), low.weight, high.weight,
        float(layer.scaling[active[0]]), slots.get(id(low.weight)), slots.get(id(high.weight)), at,
    )  # fmt: skip

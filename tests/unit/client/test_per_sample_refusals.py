"""What cannot be trained record by record is refused by name; attaching leaves no trace."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import nn

from client.training.per_sample import attach
from client.training.per_sample.attach import BookKeeping
from client.training.per_sample.refusals import dropout_of
from compliance.errors import InputError, InternalBug
from tests.small_models import Case, bert, images, lora, train_kinds

ALL = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]


def trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(n, p) for n, p in model.named_parameters() if p.requires_grad]


def refused(model: nn.Module) -> InputError:
    with pytest.raises(InputError) as caught:
        BookKeeping(model, trained(model), 4)
    assert caught.value.next
    return caught.value


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)
        self.two.weight = self.one.weight


class Checkpointed(nn.Linear):
    gradient_checkpointing = True


class Scaled(nn.Linear):
    def forward(self, x):
        return super().forward(x) / x.norm()


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.attention_dropout = nn.Linear(3, 3), 0.1


@pytest.mark.parametrize(
    ("model", "code", "found"),
    [
        (lambda: nn.Sequential(nn.Embedding(4, 3)), "RSD-4520", "0: Embedding"),
        (lambda: nn.Sequential(nn.RMSNorm(4)), "RSD-4520", "0: RMSNorm"),
        (lambda: nn.MultiheadAttention(4, 2), "RSD-4520", "MultiheadAttention"),
        (lambda: nn.Sequential(Scaled(3, 3)), "RSD-4520", "0: Scaled"),
        (lambda: nn.Sequential(nn.Conv2d(1, 1, 3, padding="same")), "RSD-4520", "Conv2d"),
        (lambda: nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")), "RSD-4520", "Conv2d"),
        (lambda: nn.Sequential(Checkpointed(3, 3)), "RSD-4524", "0"),
        (Tied, "RSD-4521", "one.weight and two.weight"),
        (lambda: nn.Sequential(nn.Conv2d(1, 1, 3), nn.BatchNorm2d(1)), "RSD-4522", "1"),
        (lambda: nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.1)), "RSD-4523", "1"),
        (Attention, "RSD-4523", ""),
        (lambda: nn.Sequential(nn.Linear(3, 3).double()), "RSD-4529", "0.weight"),
    ],
)
def test_refused_by_name(model, code, found):
    error = refused(model())
    assert error.code == code
    assert found in str(error.found)
    if code == "RSD-4522":
        assert "GroupNorm" in error.next


def test_dropout_that_is_off_is_no_dropout():
    assert dropout_of(nn.Dropout(0.0)) == 0
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)).eval()
    BookKeeping(model, trained(model), 4)


@pytest.mark.parametrize("more", [{"use_dora": True}, {"lora_bias": True}, {"lora_dropout": 0.1}])
def test_other_kinds_of_lora_are_refused(more):
    model = nn.Sequential(nn.Linear(4, 4))
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["0"], **more), model)
    assert refused(model).code in {"RSD-4528", "RSD-4523"}


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.merge(),
        lambda layer: layer.enable_adapters(False),
        lambda layer: layer.base_layer.requires_grad_(True),
    ],
)
def test_an_adapter_that_is_merged_or_off_or_on_a_trained_layer_is_refused(change):
    model = nn.Sequential(nn.Linear(4, 4))
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["0"]), model)
    BookKeeping(model, trained(model), 4)
    change(model[0])
    model[0].lora_A.requires_grad_(True)
    assert refused(model).code == "RSD-4528"


def test_two_adapters_on_a_layer_are_refused():
    model = nn.Sequential(nn.Linear(4, 4))
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["0"]), model)
    model[0].update_layer("two", r=2, lora_alpha=2, config=LoraConfig(r=2))
    model.requires_grad_(True)
    assert refused(model).code == "RSD-4528"


def test_lora_on_an_embedding_is_refused():
    model = nn.Sequential(nn.Embedding(4, 4))
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["0"]), model)
    assert refused(model).code == "RSD-4520"


@pytest.mark.parametrize("large", [False, True])
def test_a_parameter_that_the_loss_does_not_use_is_named(monkeypatch, large):
    if large:
        monkeypatch.setattr(attach, "FLAT_BYTES", 0)
        monkeypatch.setattr(attach, "LARGE", 1)
    case = images()
    case.model.spare = nn.Linear(2, 2)
    with BookKeeping(case.model, case.trained, 8) as source:
        source.begin(5)
        case.losses().sum().backward()
        with pytest.raises(InputError, match="RSD-4525") as caught:
            source.finish()
    assert {"spare.weight", "spare.bias"} == set(str(caught.value.found).split(", "))


def test_inputs_that_are_shared_by_the_records_are_refused():
    layer = nn.Sequential(nn.Linear(3, 3))
    with BookKeeping(layer, trained(layer), 8) as source:
        source.begin(5)
        for rows in (1, 10):
            with pytest.raises(InputError, match="RSD-4527"):
                layer(torch.randn(rows, 3))
        with torch.no_grad():
            layer(torch.randn(1, 3))
        source.begin(3)
        with pytest.raises(InputError, match="RSD-4527"):
            layer(torch.randn(3))


def test_more_records_than_room_and_other_parameters_are_bugs():
    layer = nn.Linear(3, 3)
    with pytest.raises(InternalBug, match="RSD-4530"):
        BookKeeping(layer, trained(layer)[:1], 4)
    with pytest.raises(InternalBug, match="RSD-4530"):
        BookKeeping(layer, trained(layer), 4).begin(5)


def test_rows_shrink_to_what_the_memory_holds(monkeypatch):
    monkeypatch.setattr(attach, "MOST_BYTES", 4 * 12 * 7)
    layer = nn.Linear(3, 3)
    assert BookKeeping(layer, trained(layer), 64).rows == 7
    assert BookKeeping(layer, trained(layer), 64, least=9).rows == 9
    assert BookKeeping(layer, trained(layer), 5).rows == 5


def test_detaching_restores_every_forward_even_one_that_was_replaced_before():
    case = bert(lambda m: train_kinds(m, nn.Linear, nn.LayerNorm))
    layer = next(m for m in case.model.modules() if type(m) is nn.Linear)
    layer.forward = type(layer).forward.__get__(layer)
    own = layer.forward
    before = case.losses().detach()
    with BookKeeping(case.model, case.trained, 8) as source:
        source.begin(5)
        assert torch.allclose(case.losses(), before, atol=1e-5)
        assert layer.forward != own
    assert layer.forward is own
    assert not any(len(block) for block in source.blocks), "no record's gradient is kept"
    assert [m for m in case.model.modules() if "forward" in vars(m)] == [layer]
    case.losses().sum().backward()
    assert all(p.grad is not None for _, p in case.trained)


def test_nothing_below_the_first_trained_layer_is_in_the_graph():
    case = bert(lambda m: lora(m, ["layer.1.attention.self.value"]))
    asked = []
    below = case.model.body.encoder.layer[0]
    below.register_forward_hook(lambda _m, _i, out: asked.append(out.requires_grad))
    with BookKeeping(case.model, case.trained, 8) as source:
        source.begin(5)
        case.losses().sum().backward()
    assert asked == [False]
    assert all(p.grad is None for p in case.model.parameters()), "no summed gradient is computed"


def test_a_saved_adapter_gives_the_same_scores_when_it_is_loaded(tmp_path):
    def scores(case: Case) -> torch.Tensor:
        with torch.no_grad():
            return case.model.body(**case.inputs).last_hidden_state

    case, other = bert(lambda m: lora(m, ALL)), bert(lambda m: lora(m, ALL))
    with BookKeeping(case.model, case.trained, 8) as source:
        source.begin(5)
        case.losses().sum().backward()
        source.finish()
        with torch.no_grad():
            for _, p in case.trained:
                p.sub_(p.grad_sample.sum(0))
    torch.save(get_peft_model_state_dict(case.model.body), tmp_path / "adapter.pt")
    assert not torch.allclose(scores(case), scores(other))
    set_peft_model_state_dict(other.model.body, torch.load(tmp_path / "adapter.pt", weights_only=True))
    assert torch.equal(scores(case), scores(other))

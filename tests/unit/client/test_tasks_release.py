"""What a task trains, as it is released: the layout is judged against the study, and other programs read the files."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from client.tasks.base import task_of
from client.training.families import run
from client.training.model_folder import load_decoder, load_encoder
from compliance.canonical import canonical
from compliance.errors import InputError
from compliance.release.card import card
from compliance.release.case import Contents
from compliance.release.model_files import check_layout, model_files
from tests.task_kinds import examples_of, made, plain_inputs, write_kinds
from tests.tiny_models import adapters, moved
from tests.world import world


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_kinds(tmp_path_factory.mktemp("kinds"))


def study_of(m):
    """The world's study with this task and model."""
    return Contents(world().run).study.model_copy(update={"task": m.task, "model": m.model})


def layout_of(entries):
    """layout.json as the operator's server writes it."""
    dumped = [e.model_dump(mode="json", exclude_none=True) for e in entries]
    return Contents({"layout.json": canonical({"schema": "residency.layout/1", "entries": dumped})}).layout


def released(m, folder):
    """The top somewhere, and the files of the release that holds it, in `folder`."""
    top = moved(task_of(m.task.kind).top(m.model, m.task, m.folder))
    layout = layout_of(top.layout())
    check_layout(layout, study_of(m))
    files = model_files(study_of(m), layout, top.get_flat())
    for path, data in files.items():
        (folder / path.removeprefix("model/")).write_bytes(data)
    return top, {path.removeprefix("model/") for path in files}


@pytest.mark.parametrize("kind", ["texts-decoder", "words-whole", "next-token", "vit", "convolutions"])
def test_a_layout_is_of_its_study_and_of_no_other(root, tmp_path, kind):
    m = made(root, kind)
    top, files = released(m, tmp_path)
    entries = top.layout()
    wanted = {"adapter_model.safetensors", "adapter_config.json"} if m.model.adapters else set()
    wanted |= {"head.safetensors"} if m.task.kind != "causal_lm" else set()
    assert files == wanted | ({"difference.safetensors"} if m.model.whole_layers else set())
    changes = [
        lambda model: {"whole_layers": model.whole_layers + 1},
        lambda model: {"adapters": None} if model.adapters else {"adapters": adapters("query")},
    ]
    for change in changes:
        other = m.model.model_copy(update=change(m.model))
        with pytest.raises(InputError, match="RSD-9042"):
            check_layout(layout_of(entries), study_of(m).model_copy(update={"model": other}))
    if m.task.kind != "causal_lm":
        with pytest.raises(InputError, match="RSD-9042"):
            check_layout(layout_of(entries[1:]), study_of(m))


def test_a_head_where_the_task_has_none_is_refused(root):
    lm, words = made(root, "next-token"), made(root, "words")
    head = task_of(words.task.kind).top(words.model, words.task, words.folder).layout()[:2]
    entries = task_of(lm.task.kind).top(lm.model, lm.task, lm.folder).layout()
    for wrong in ((*head, *entries), (*entries, *head)):
        with pytest.raises(InputError, match="RSD-9042"):
            check_layout(layout_of(wrong), study_of(lm))
    with pytest.raises(InputError, match="RSD-9042"):
        check_layout(layout_of(entries), study_of(words).model_copy(update={"model": lm.model}))


@pytest.mark.parametrize("kind", ["texts-decoder", "words", "vit", "next-token"])
def test_peft_loads_what_was_released(root, tmp_path, kind):
    """The base model with the released adapters yields what the trained top yields."""
    m = made(root, kind)
    top, _ = released(m, tmp_path)
    decoder = m.task.kind == "causal_lm"
    base = load_decoder(m.folder) if decoder else load_encoder(m.folder)
    inputs = examples_of(m, tmp_path / "cache").inputs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # between the two libraries
        warnings.simplefilter("error", UserWarning)  # a name that does not fit
        loaded = PeftModel.from_pretrained(base, tmp_path).eval()
    assert any("lora" in n for n, _ in loaded.named_modules())
    with torch.inference_mode():
        if decoder:
            logits = loaded(**plain_inputs(m)).logits[:, :-1].log_softmax(2)
            found, wanted = logits.gather(2, inputs["ids"][:, 1:, None]).squeeze(2), top(inputs)
            real = inputs["mask"][:, 1:].bool()
        else:
            found, wanted = run(loaded.get_base_model(), 0, plain_inputs(m)), top.hidden(inputs)
            real = inputs["mask"].bool() if "mask" in inputs else torch.ones(found.shape[:2]).bool()
        start = task_of(m.task.kind).top(m.model, m.task, m.folder)
        unmoved = start(inputs) if decoder else start.hidden(inputs)
    assert (found[real] - wanted[real]).abs().max() < 1e-4
    assert (unmoved[real] - wanted[real]).abs().max() > 1e-2, "the adapters matter"


@pytest.mark.parametrize("kind", ["words-whole", "convolutions"])
def test_the_difference_added_to_the_base_is_the_trained_model(root, tmp_path, kind):
    m = made(root, kind)
    top, _ = released(m, tmp_path)
    base = load_encoder(m.folder)
    difference = load_file(tmp_path / "difference.safetensors")
    state = base.state_dict()
    assert set(difference) < set(state)
    base.load_state_dict({k: t + difference.get(k, 0.0) for k, t in state.items()})
    inputs = examples_of(m, tmp_path / "cache").inputs
    with torch.inference_mode():
        found, wanted = run(base, 0, plain_inputs(m)), top.hidden(inputs)
    real = inputs["mask"].bool() if "mask" in inputs else slice(None)
    assert (found[real] - wanted[real]).abs().max() < 1e-4
    assert max(float(t.abs().max()) for t in difference.values()) > 0.1
    flat = np.random.default_rng(2).normal(0.0, 0.2, top.get_flat().size).astype(np.float32)
    top.set_flat(flat)
    assert np.abs(top.get_flat() - flat).max() < 1e-5, "what was loaded is what is read"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("words", ("token classification into O, B-lab, I-lab", "pipeline_tag: token-classification")),
        ("next-token", ("Task: causal lm\n", "Trained: 0 parameters of a linear head", "text-generation")),
        ("convolutions", ("of whole layers (`model/difference.safetensors`", "image-classification")),
    ],
)
def test_the_card_says_what_was_trained(root, kind, words):
    m, contents = made(root, kind), Contents(world().bundle)
    layout = layout_of(task_of(m.task.kind).top(m.model, m.task, m.folder).layout())
    contents.__dict__.update(_study=(study_of(m), contents._study[1]), layout=layout)
    text = card(contents).decode()
    assert [w for w in words if w not in text] == []

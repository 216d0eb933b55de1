"""Rows that are no records of their task: refused with a code, and without a value of the table or a number of rows."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from client.data import images
from client.data.images import image_files, read_image
from client.data.table import TableFile
from client.tasks import causal_lm
from client.tasks.base import task_of
from client.tasks.causal_lm import TASK as CAUSAL
from client.tasks.image_classification import TASK as IMAGES
from client.tasks.spans import span_f1, spans_of
from client.tasks.token_classification import TASK as TOKENS
from client.tasks.token_classification import Records, first_subwords, listed
from client.training.group_norm import convert
from client.training.model_folder import load_encoder, load_tokenizer
from compliance.errors import InputError
from compliance.task_spec import Scaling
from tests.tiny_bert import save_tiny_bert
from tests.tiny_models import (
    adapters,
    causal_task,
    image_task,
    model_of,
    save_tiny_gpt2,
    save_tiny_resnet,
    save_tiny_vit,
    token_task,
)

NAME = "Mueller"  # stands in the tables and never in an error


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    save_tiny_bert(root / "bert")
    save_tiny_gpt2(root / "gpt2")
    save_tiny_vit(root / "vit")
    save_tiny_resnet(root / "resnet")
    return root


def refused(call) -> InputError:
    with pytest.raises(InputError) as caught:
        call()
    error = caught.value
    assert NAME not in " ".join([str(error), *error.as_json().values()])
    assert error.__cause__ is None
    return error


def table(path: Path, rows: list[dict[str, object]]) -> TableFile:
    pd.DataFrame(rows).to_json(path, orient="records", lines=True)
    return TableFile(path)


def test_a_kind_that_is_not_installed_is_refused():
    assert refused(lambda: task_of("speech")).code == "RSD-2320"


# --- words and tags -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", ["a b", '["a", "b"]', ["a", "b"], ("a", "b"), np.array(["a", "b"], dtype=object), " a  b "]
)
def test_words_come_as_lists_or_texts(value):
    assert listed(value, "words") == ("a", "b")


@pytest.mark.parametrize(
    "value", [f'["{NAME}"', f'["{NAME}", 1]', [NAME, None], [NAME, ["x"]], [NAME, " "], f'[{{"{NAME}": 1}}]']
)
def test_what_is_no_list_of_words_is_refused(value):
    assert refused(lambda: listed(value, "words")).code == "RSD-2321"


@pytest.mark.parametrize(
    ("second", "code"),
    [
        ({"words": f"{NAME} b", "tags": "O"}, "RSD-2321"),
        ({"words": "", "tags": ""}, "RSD-2322"),
        ({"words": None, "tags": None}, "RSD-2322"),
        ({"words": [], "tags": []}, "RSD-2322"),
        ({"words": NAME, "tags": "B-drug"}, "RSD-2304"),
    ],
)
def test_rows_that_are_no_tagged_text_are_refused(tmp_path, second, code):
    source = table(tmp_path / "t.jsonl", [{"words": NAME, "tags": "O"}, second])
    assert refused(lambda: TOKENS.records(token_task(), source)).code == code


def test_one_tag_or_class_only_is_taken_for_every_task(tmp_path):
    """Else the roster would say when the last record of a class left."""
    source = table(tmp_path / "t.jsonl", [{"words": NAME, "tags": "O"}] * 2)
    assert TOKENS.records(token_task(), source).tags == ((0,), (0,))
    pictures = table(tmp_path / "i.jsonl", [{"target": "-", "image": "i.npy"}] * 2)
    np.save(tmp_path / "i.npy", np.zeros((8, 6), np.uint8))
    assert IMAGES.records(image_task(), pictures).labels.tolist() == [0, 0]


def test_a_column_that_is_missing_is_named_for_every_task(tmp_path):
    source = table(tmp_path / "t.jsonl", [{"other": NAME}])
    for task, spec in ((TOKENS, token_task()), (CAUSAL, causal_task()), (IMAGES, image_task())):
        error = refused(lambda task=task, spec=spec: task.records(spec, source))
        assert (error.code, set(error.found.removeprefix("missing: ").split(", "))) == (
            "RSD-2303",
            set(task.columns(spec)),
        )


def test_a_tag_stands_at_the_first_subword(folders, tmp_path):
    """12 is two subwords of the tiny BERT; words that no token is left for have no target."""
    words = ["age", "12", "low", *["tsh"] * 20]
    source = table(tmp_path / "t.jsonl", [{"words": words, "tags": ["O", "B-lab", "I-lab", *["O"] * 20]}])
    model = model_of(folders / "bert", pooling="none")
    records = TOKENS.records(token_task(), source)
    targets = TOKENS.targets(model, token_task(), folders / "bert", records)
    tokens = load_tokenizer(folders / "bert", words=True)(words, is_split_into_words=True).tokens()
    assert tokens[:5] == ["[CLS]", "age", "1", "##2", "low"]
    assert targets[0].tolist() == [-100, 0, 1, -100, 2, *[0] * 6, -100]
    assert first_subwords([None, 0, 0, 2, None]) == [(1, 0), (3, 2)]


def test_words_of_which_the_tokenizer_leaves_nothing_are_refused(folders):
    records = Records((("age", "low"), (" ",)), ((0, 1), (0,)))
    model = model_of(folders / "bert", pooling="none")
    error = refused(lambda: TOKENS.targets(model, token_task(), folders / "bert", records))
    assert error.code == "RSD-2322"


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("O B-x I-x O", {("x", 1, 3)}),
        ("B-x B-x I-x", {("x", 0, 1), ("x", 1, 3)}),
        ("I-x I-x I-y", {("x", 0, 2), ("y", 2, 3)}),
        ("B-x I-y", {("x", 0, 1), ("y", 1, 2)}),
        ("O O", set()),
        ("B-a-b I-a-b", {("a-b", 0, 2)}),
        ("LOC O", set()),
    ],
)
def test_spans_are_read_as_conlleval_reads_them(tags, spans):
    assert spans_of(tags.split()) == spans


def test_span_f1_counts_whole_spans():
    pairs = [(["B-x", "I-x", "O", "B-y"], ["B-x", "O", "O", "B-y"]), (["O", "B-x"], ["O", "B-x"])]
    found = span_f1(pairs)
    assert found == {"span_precision": 2 / 3, "span_recall": 2 / 3, "span_f1": 2 / 3}
    assert span_f1([(["O"], ["O"])])["span_f1"] == 0.0


# --- next token -------------------------------------------------------------------------------------------------------


def test_texts_without_a_next_token_are_refused(folders, tmp_path):
    model = model_of(folders / "gpt2", pooling="none", feature_norm_milli=None, adapters=adapters("c_attn"))
    task = causal_task(template="[{note}]")
    rows = table(tmp_path / "a.jsonl", [{"note": "tsh 3"}, {"note": ""}])
    assert refused(lambda: CAUSAL.records(task, rows)).code == "RSD-2322"
    records = CAUSAL.records(task, table(tmp_path / "b.jsonl", [{"note": "tsh 3"}, {"note": "tsh"}]))
    assert refused(lambda: CAUSAL.targets(model, task, folders / "gpt2", records)).code == "RSD-2322"


def test_what_is_taken_in_and_what_is_told_are_of_one_tokenisation(folders, tmp_path, monkeypatch):
    """A tokenizer that reads a text otherwise each time, as with dropout."""
    whole = load_tokenizer(folders / "gpt2")

    class Odd:
        calls = 0

        def __call__(self, texts, **more):
            self.calls += 1
            return whole([" ".join(text.split()[: -self.calls]) for text in texts], **more)

        def __getattr__(self, name):
            return getattr(whole, name)

    odd = Odd()
    monkeypatch.setattr(causal_lm, "load_tokenizer", lambda _: odd)
    model = model_of(folders / "gpt2", pooling="none", feature_norm_milli=None, adapters=adapters("c_attn"))
    task = causal_task(template="[{note}]")
    records = CAUSAL.records(task, table(tmp_path / "a.jsonl", [{"note": "tsh 3 age 4 low 7 tsh 9"}]))
    targets = CAUSAL.targets(model, task, folders / "gpt2", records)
    inputs = CAUSAL.inputs(model, task, folders / "gpt2", records, tmp_path / "cache", "cpu")
    assert int(targets.sum()) > 1
    assert torch.equal(inputs["mask"][:, 1:].to(torch.int64), targets)
    shown = whole.decode(inputs["ids"][0][inputs["mask"][0].bool()])
    assert shown.split() == ["tsh", "3", "age", "4", "low", "7", "tsh"]


def test_perplexity_is_that_of_all_next_tokens():
    targets, scores = np.array([[1, 1, 0], [1, 0, 0]]), np.log([[0.5, 0.25, 0.9], [0.125, 0.1, 0.1]]).astype(np.float32)
    found = CAUSAL.metrics(causal_task(), targets, scores)
    assert found["perplexity"] == pytest.approx((0.5 * 0.25 * 0.125) ** (-1 / 3))


def test_the_language_model_s_loss_is_that_of_the_library(folders, tmp_path):
    from client.training.model_folder import load_decoder

    model = model_of(folders / "gpt2", pooling="none", feature_norm_milli=None, adapters=adapters("c_attn"))
    task = causal_task(template="[{note}]")
    records = CAUSAL.records(task, table(tmp_path / "a.jsonl", [{"note": "tsh 3 age 4 low"}, {"note": "age 7"}]))
    inputs = CAUSAL.inputs(model, task, folders / "gpt2", records, tmp_path / "cache", "cpu")
    targets = CAUSAL.targets(model, task, folders / "gpt2", records)
    losses = CAUSAL.top(model, task, folders / "gpt2").record_losses(inputs, targets)
    decoder, tokenizer = load_decoder(folders / "gpt2"), load_tokenizer(folders / "gpt2")
    for text, loss in zip(records.texts, losses, strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        assert float(decoder(input_ids=ids, labels=ids).loss) == pytest.approx(float(loss.detach()), abs=1e-5)


# --- images -----------------------------------------------------------------------------------------------------------


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


GREY = np.arange(64, dtype=np.uint8).reshape(8, 8)


def one_image(tmp_path: Path, name: str, data: bytes, **row: object):
    """The source with this image and a good one; and what reads the first."""
    (tmp_path / "good.png").write_bytes(png(GREY))
    (tmp_path / Path(name).name).write_bytes(data)
    rows = [{"image": name, "target": "-", **row}, {"image": "good.png", "target": "K", **row}]
    return table(tmp_path / "t.jsonl", rows)


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        (f"{NAME}.png", b"no image", "RSD-2332"),
        (f"{NAME}.png", png(GREY)[:50], "RSD-2332"),
        (f"{NAME}.png", b"", "RSD-2332"),
        (f"{NAME}.png", npy(GREY), "RSD-2332"),
        (f"{NAME}.npy", png(GREY), "RSD-2332"),
        (f"{NAME}.npy", npy(np.array([{"a": 1}], dtype=object)), "RSD-2332"),
        (f"{NAME}.npy", npy(GREY.astype(np.int64)), "RSD-2332"),
        (f"{NAME}.npy", npy(np.zeros(64, np.uint8)), "RSD-2332"),
        (f"{NAME}.npy", npy(np.zeros((8, 8, 4), np.uint8)), "RSD-2332"),
        (f"{NAME}.npy", npy(np.zeros((0, 8), np.uint8)), "RSD-2334"),
        (f"{NAME}.npy", npy(np.full((8, 8), np.nan, np.float32)), "RSD-2334"),
        (f"{NAME}.npy", npy(np.full((8, 8), 2.0, np.float32)), "RSD-2334"),
        (f"{NAME}.gif", png(GREY), "RSD-2331"),
        (f"../{NAME}.png", png(GREY), "RSD-2331"),
        ("", png(GREY), "RSD-2331"),
    ],
)
def test_images_that_are_none_are_refused(tmp_path, name, data, code):
    folder = tmp_path / "inner"
    folder.mkdir()
    if name.startswith("../"):
        (tmp_path / Path(name).name).write_bytes(data)
    source = one_image(folder, name or "x.png", data)
    if not name:
        source = table(folder / "t.jsonl", [{"image": "", "target": "-"}, {"image": "good.png", "target": "K"}])
    error = refused(lambda: [IMAGES.records(image_task(), source).image(i, 3) for i in (0, 1)])
    assert error.code == code


class Code:
    """What a pickle of it does when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def test_a_pickle_in_an_image_is_never_loaded(tmp_path):
    mark = tmp_path / "ran"
    source = one_image(tmp_path, "a.npy", npy(np.array([[Code(mark)]], dtype=object)))
    assert refused(lambda: IMAGES.records(image_task(), source).image(0, 3)).code == "RSD-2332"
    assert not mark.exists()


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(png(GREY))
    source = one_image(folder, "a.png", png(GREY))
    (folder / "a.png").unlink()
    (folder / "a.png").symlink_to(tmp_path / "secret.png")
    assert refused(lambda: IMAGES.records(image_task(), source)).code == "RSD-2331"
    assert refused(lambda: IMAGES.records(image_task(image_column="target"), source)).code == "RSD-2331"


def test_an_image_that_changed_is_refused(tmp_path):
    source = one_image(tmp_path, "a.png", png(GREY), digest="0" * 64)
    assert refused(lambda: IMAGES.records(image_task(sha256_column="digest"), source)).code == "RSD-2333"
    records = IMAGES.records(image_task(), source)
    (tmp_path / "a.png").write_bytes(png(GREY[::-1].copy()))
    assert refused(lambda: records.image(0, 3)).code == "RSD-2333"


def test_png_and_npy_of_the_same_pixels_are_the_same_image(tmp_path):
    colour = np.random.default_rng(1).integers(0, 255, (8, 6, 3), dtype=np.uint8)
    deep = (GREY.astype(np.uint16) * 257, (GREY / 255).astype(np.float32))
    for name, data in (("a.png", png(colour)), ("b.npy", npy(colour))):
        (tmp_path / name).write_bytes(data)
    for name, array in zip(("c.npy", "d.npy"), deep, strict=True):
        (tmp_path / name).write_bytes(npy(array))
    (tmp_path / "e.png").write_bytes(png(deep[0]))
    source = table(tmp_path / "t.jsonl", [{"image": n, "target": t} for n, t in zip(
        ("a.png", "b.npy", "c.npy", "d.npy", "e.png"), "-K-K-", strict=True)])  # fmt: skip
    records = IMAGES.records(image_task(), source)
    a, b, c, d, e = (records.image(i, 3) for i in range(5))
    assert np.array_equal(a, b)
    assert a.shape == (3, 8, 6)
    for grey in (c, d, e):
        assert grey.shape == (3, 8, 8)
        assert np.abs(grey[0] - GREY / np.float32(255)).max() < 1e-6
    assert read_image(records.files[0], 1).shape == (1, 8, 6)


@pytest.mark.parametrize("name", ["a\0b.png", "a\ud800.png", "a" * 5000 + ".png", "circle.png"])
def test_a_name_that_no_file_can_have_is_refused(tmp_path, name):
    (tmp_path / "circle.png").symlink_to(tmp_path / "circle.png")
    assert refused(lambda: image_files(tmp_path, [name], None)).code == "RSD-2331"


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_with_transparency_is_read_as_without_it(tmp_path, mode, channels):
    """Pillow warns of a palette with transparency while it converts, not while it opens."""
    whole = np.random.default_rng(2).integers(0, 255, (8, 6, 3), dtype=np.uint8)
    picture = Image.fromarray(whole).convert(mode)
    hidden = {"P": bytes([0, 128, 255]), "L": 3, "RGB": (1, 2, 3)}[mode]
    picture.save(tmp_path / "plain.png")
    picture.save(tmp_path / "clear.png", transparency=hidden)
    with Image.open(tmp_path / "clear.png") as opened:
        assert "transparency" in opened.info
    plain, clear = (read_image(f, channels) for f in image_files(tmp_path, ["plain.png", "clear.png"], None))
    assert np.array_equal(plain, clear)


def test_whatever_pillow_warns_of_while_it_decodes_is_a_refusal(tmp_path, monkeypatch):
    def warned(*_: object) -> None:
        warnings.warn("a value of the picture", UserWarning, stacklevel=1)

    (tmp_path / "a.png").write_bytes(png(GREY))
    (file,) = image_files(tmp_path, ["a.png"], None)
    monkeypatch.setattr(images, "_planes", warned)
    error = refused(lambda: read_image(file, 1))
    assert (error.code, error.found) == ("RSD-2332", "ValueError")


def pixel_rows(*changes: object) -> list[dict[str, object]]:
    rows = [{f"p{i}": i % 255 for i in range(64)} | {"target": t} for t in ("-", "K", "-")]
    for change in changes:
        rows[1]["p7"] = change
    return rows


def test_pixels_may_stand_in_columns(folders, tmp_path):
    task = image_task(image_column=None, pixel_prefix="p", pixel_side=8)
    records = IMAGES.records(task, table(tmp_path / "t.jsonl", pixel_rows()))
    assert np.abs(records.image(0, 3)[2] - np.arange(64).reshape(8, 8) / 255).max() < 1e-6
    inputs = IMAGES.inputs(model_of(folders / "vit"), task, folders / "vit", records, tmp_path / "c", "cpu")
    assert inputs["hidden"].shape == (3, 1, 16)


@pytest.mark.parametrize("value", [None, NAME, -1, 256, "nan", float("inf")])
def test_pixels_that_are_none_are_refused(tmp_path, value):
    task = image_task(image_column=None, pixel_prefix="p", pixel_side=8)
    path = tmp_path / "t.csv"
    pd.DataFrame(pixel_rows(value)).to_csv(path, index=False)
    assert refused(lambda: IMAGES.records(task, TableFile(path))).code == "RSD-2334"


# --- models -----------------------------------------------------------------------------------------------------------


def test_a_model_of_another_task_is_refused(folders, tmp_path):
    source = one_image(tmp_path, "a.png", png(GREY))
    records = IMAGES.records(image_task(), source)
    words = TOKENS.records(token_task(), table(tmp_path / "w.jsonl", [{"words": "age low", "tags": "O B-lab"}]))

    def images(name, **changes):
        task = image_task(**changes)
        return IMAGES.inputs(model_of(folders / name), task, folders / name, records, tmp_path / "c", "cpu")

    assert refused(lambda: images("bert")).code == "RSD-2335"
    assert refused(lambda: images("vit", side=16)).code == "RSD-2336"
    grey = (Scaling(mean_milli=0, deviation_milli=1000),)
    assert refused(lambda: images("vit", scaling=grey)).code == "RSD-2336"
    vit = model_of(folders / "vit", pooling="none")
    error = refused(lambda: TOKENS.inputs(vit, token_task(), folders / "vit", words, tmp_path / "c", "cpu"))
    assert error.code == "RSD-2335"
    bert = model_of(folders / "bert", pooling="none", feature_norm_milli=None, adapters=adapters("query"))
    assert refused(lambda: CAUSAL.top(bert, causal_task(), folders / "bert")).code == "RSD-2335"


def test_batch_norm_is_refused_and_the_conversion_is_offered(folders, tmp_path):
    error = refused(lambda: load_encoder(folders / "resnet"))
    assert error.code == "RSD-2330"
    assert "residency agent model convert" in error.next
    model = load_encoder(convert(folders / "resnet", tmp_path / "gn", 2))
    kinds = {type(m).__name__ for m in model.modules()}
    assert "GroupNorm" in kinds
    assert not any("BatchNorm" in k for k in kinds)
    assert refused(lambda: convert(folders / "resnet", tmp_path / "gn3", 3)).code == "RSD-2336"
    assert refused(lambda: convert(folders / "vit", tmp_path / "v", 2)).code == "RSD-2335"
    assert refused(lambda: convert(folders / "resnet", tmp_path / "gn", 2)).code == "RSD-2009"
    config = json.loads((tmp_path / "gn" / "config.json").read_text())
    (tmp_path / "gn" / "config.json").write_text(json.dumps({**config, "residency_groups": 3}))
    assert refused(lambda: load_encoder(tmp_path / "gn")).code == "RSD-2336"


def test_the_conversion_keeps_every_weight(folders, tmp_path):
    from safetensors.torch import load_file

    before = load_file(folders / "resnet" / "model.safetensors")
    after = load_encoder(convert(folders / "resnet", tmp_path / "gn", 2)).state_dict()
    kept = {k: t for k, t in before.items() if "running" not in k and "num_batches" not in k}
    assert set(after) == set(kept)
    assert all(torch.equal(after[k], t) for k, t in kept.items())

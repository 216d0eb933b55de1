"""Building: deterministic, whole or not at all; model files that other programs read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load

from compliance.adapter_init import frozen_a
from compliance.canonical import canonical
from compliance.errors import EnvironmentFault, InputError, Refused, ResidencyError
from compliance.identity import seal
from compliance.release.build import build_bundle, model_digest
from compliance.release.bundle_folder import read_folder, write_folder
from compliance.release.case import Contents
from compliance.release.model_files import (
    LayoutFile,
    check_layout,
    model_files,
    released_mean,
    safetensors_bytes,
    snapshot,
)
from compliance.study import Study
from tests.world import LAYOUT, LORA, Plan, build_world, resealed, world


def test_the_same_run_gives_the_same_bytes() -> None:
    first, second = world().bundle, world().bundle
    assert first == second
    assert model_digest(first) == model_digest(second)


def test_the_model_is_read_by_the_safetensors_library() -> None:
    files = world().bundle
    flat = np.mean([np.frombuffer(world().run[f"snapshots/round-00{r}.f32"], "<f4") for r in (1, 2)], axis=0)
    head, adapter = load(files["model/head.safetensors"]), load(files["model/adapter_model.safetensors"])
    np.testing.assert_array_equal(head["head.weight"], flat[:6].reshape(2, 3).astype("<f4"))
    np.testing.assert_array_equal(head["head.bias"], flat[6:8].astype("<f4"))
    np.testing.assert_array_equal(adapter[LORA], flat[8:].reshape(4, 2).astype("<f4"))
    base = LORA.removesuffix(".lora_B.weight")
    np.testing.assert_array_equal(adapter[f"{base}.lora_A.weight"], frozen_a(7, base, 2, 4))


def test_peft_accepts_the_adapter_configuration(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    (tmp_path / "adapter_config.json").write_bytes(world().bundle["model/adapter_config.json"])
    config = peft.PeftConfig.from_pretrained(str(tmp_path))
    assert (config.r, config.lora_alpha, config.bias) == (2, 4, "none")
    assert set(config.target_modules) == {"encoder.layer.0.attention.self.query"}


@given(st.lists(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=3, max_size=3), min_size=1))
def test_the_mean_is_finite_arithmetic_in_a_fixed_order(rows: list[list[float]]) -> None:
    globals_ = [np.array(r, dtype="<f4") for r in rows]
    found = released_mean(globals_)
    assert found.dtype == np.dtype("<f4")
    wide = np.stack(globals_).astype(np.float64)
    bound = np.abs(wide).sum(axis=0) * 1e-12 + np.spacing(np.abs(found).astype("<f4"))
    assert np.all(np.abs(found.astype(np.float64) - wide.mean(axis=0)) <= bound)
    if len(rows) == 1:
        np.testing.assert_array_equal(found, globals_[0])


@given(st.dictionaries(st.text("abc.", min_size=1), st.lists(st.floats(width=32), min_size=1, max_size=5), min_size=1))
def test_safetensors_round_trip(tensors: dict[str, list[float]]) -> None:
    given_ = {name: np.array(v, dtype="<f4") for name, v in tensors.items()}
    read = load(safetensors_bytes(given_))
    assert read.keys() == given_.keys()
    assert all(read[n].tobytes() == given_[n].tobytes() for n in given_)


@pytest.mark.parametrize(
    "bad", [b"\0" * 60, np.full(16, np.nan, "<f4").tobytes(), np.full(16, np.inf, "<f4").tobytes()]
)
def test_a_snapshot_that_does_not_fit_is_refused(bad: bytes) -> None:
    with pytest.raises(InputError) as caught:
        snapshot(bad, Contents(world().run).layout, "round-002")
    assert caught.value.code == "RSD-9042"


def test_only_a_finished_run_is_released_and_only_by_the_operator() -> None:
    made = world()
    failed = canonical({**json.loads(made.run["result.json"]), "outcome": "failed"})
    with pytest.raises(Refused) as caught:
        build_bundle({**made.run, "result.json": failed}, made.operator, made.anchor)
    assert caught.value.code == "RSD-9022"
    with pytest.raises(Refused) as caught:
        build_bundle(made.run, made.keys["site-a", "agent"], made.anchor)
    assert caught.value.code == "RSD-6008"


@pytest.mark.parametrize("path", ["study.json", "layout.json", "snapshots/round-002.f32", "result.json"])
def test_what_is_missing_is_named(path: str) -> None:
    made = world()
    run = {p: d for p, d in made.run.items() if p != path}
    with pytest.raises(InputError, match=path) as caught:
        build_bundle(run, made.operator, made.anchor)
    assert caught.value.code == "RSD-9040"


def test_answers_are_sorted_by_what_they_are_not_by_their_names() -> None:
    made = world()
    run = {p.replace("answers/", "answers/from-mail-"): d for p, d in made.run.items()}
    policy = seal(
        {
            "schema": "residency.advice/1", "subject": "policy", "digest": "0" * 64, "site": "site-a",
            "at": "2026-11-22T00:00:00Z", "favourable": True, "text": "x",
        },
        made.keys["site-a", "dpo"],
    )  # fmt: skip
    run["answers/about-the-policy.json"] = policy.encode()
    assert build_bundle(run, made.operator, made.anchor) == made.bundle
    key = made.keys["site-a", "dpo"]
    run["answers/again.json"] = resealed(run["answers/from-mail-site-a.advice.json"], lambda p: p.update(text="y"), key)
    with pytest.raises(InputError) as caught:
        build_bundle(run, made.operator, made.anchor)
    assert caught.value.code == "RSD-9043"


def test_packs_that_no_decision_names_stay_out() -> None:
    made = world()
    bundle = build_bundle({**made.run, "packs/cn.yaml": b"id: cn\n"}, made.operator, made.anchor)
    assert "packs/cn.yaml" not in bundle


def test_a_head_alone_has_no_adapter_files() -> None:
    contents = Contents(world().run)
    study = contents.study.model_copy(update={"model": contents.study.model.model_copy(update={"adapters": None})})
    layout = contents.layout.model_copy(update={"entries": contents.layout.entries[:2]})
    check_layout(layout, study)
    assert set(model_files(study, layout, np.zeros(8, "<f4"))) == {"model/head.safetensors"}
    with pytest.raises(InputError):
        check_layout(contents.layout, study)


HEAD_ENTRIES, QUERY = LAYOUT["entries"][:2], LAYOUT["entries"][2]


def _in(layer: int, module: str = "query") -> dict[str, object]:
    return {**QUERY, "name": LORA.replace("layer.0", f"layer.{layer}").replace("query", module)}


@pytest.mark.parametrize(
    ("layers", "lora", "found"),
    [
        (2, [_in(4), _in(5)], ""),
        (1, [_in(0), _in(0, "self.query")], ""),
        (2, [_in(0)], "not those of the study"),
        (1, [_in(0), _in(1)], "not those of the study"),
        (2, [_in(3), _in(5)], "not those of the study"),
        (2, [_in(0), _in(1), _in(1, "self.query")], "differ in their modules"),
    ],
)
def test_the_layers_of_a_layout(layers: int, lora: list[dict[str, object]], found: str) -> None:
    study = Contents(world().run).study
    adapters = study.model.adapters.model_copy(update={"layers": layers})  # type: ignore[union-attr]
    changed = study.model_copy(update={"model": study.model.model_copy(update={"adapters": adapters})})
    if found:
        _refused_layout([*HEAD_ENTRIES, *lora], changed, found)
    else:
        check_layout(_layout([*HEAD_ENTRIES, *lora]), changed)


def test_the_head_of_a_layout_comes_first() -> None:
    study = Contents(world().run).study
    _refused_layout([QUERY, *HEAD_ENTRIES], study, "does not come first")
    _refused_layout([*reversed(HEAD_ENTRIES), QUERY], study, "does not come first")
    bare = {k: v for k, v in QUERY.items() if k != "a_width"}
    with pytest.raises(InputError):
        _layout([*HEAD_ENTRIES, bare])


def _layout(entries: list[dict[str, object]]) -> LayoutFile:
    return Contents({"layout.json": canonical({**LAYOUT, "entries": entries})}).layout


def _refused_layout(entries: list[dict[str, object]], study: Study, found: str) -> None:
    with pytest.raises(InputError, match=found) as caught:
        check_layout(_layout(entries), study)
    assert caught.value.code == "RSD-9042"


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "bundle"

    def refuse(_: dict[str, bytes]) -> None:
        raise InputError("RSD-9040", "no")

    with pytest.raises(InputError):
        write_folder(out, {"a/b.json": b"x"}, refuse)
    assert list(tmp_path.iterdir()) == []
    seen: list[dict[str, bytes]] = []
    write_folder(out, {"a/b.json": b"x"}, seen.append)
    assert seen == [{"a/b.json": b"x"}]
    assert read_folder(out) == seen[0]
    with pytest.raises(InputError):
        write_folder(out, {}, seen.append)
    assert read_folder(out) == seen[0]
    with pytest.raises(EnvironmentFault):
        write_folder(out / "a/b.json/c", {"x": b""}, seen.append)


def test_links_are_no_part_of_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"")
    (tmp_path / "y").symlink_to("/etc/passwd")
    with pytest.raises(ResidencyError) as caught:
        read_folder(tmp_path)
    assert caught.value.exit_code == 1
    with pytest.raises(InputError):
        read_folder(tmp_path / "nothing")


def test_the_card_says_nothing_that_is_not_known() -> None:
    text = world().bundle["model/README.md"].decode()
    for words in (
        "DRAFT, no counsel",
        "Measured lower bound: not measured",
        "add",
        "No accuracy is stated",
        "no finding",
    ):
        assert words in text
    assert "compliant" not in text.lower()
    assert "complies" not in text.lower()


def test_markup_in_a_study_does_not_reach_the_card() -> None:
    made = world()
    evil = "fine\n---\n# GDPR approved <script>|x|"
    study = made.study.model_copy(update={"description": evil})
    from compliance.release.card import card

    signed = seal(study.as_json(), made.operator).encode() + b"\n"
    text = card(Contents({**made.bundle, "study.json": signed})).decode()
    assert "<script>" not in text
    assert "\n# GDPR" not in text


def test_worlds_are_told_apart() -> None:
    assert build_world(replace(Plan(), rounds=2)).study_digest == world().study_digest

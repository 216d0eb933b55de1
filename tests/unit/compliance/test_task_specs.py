"""What a study may say about its task: every mistake by its field and line, whatever the kind."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from client.tasks.base import task_of
from compliance.study import Study, study_mistakes
from compliance.study_file import check_file
from compliance.study_template import kinds, template
from compliance.task_spec import labels_of
from compliance.validation import load_model, try_model


def raw_of(kind: str) -> dict[str, Any]:
    """The template's study of this kind as the operator's file holds it."""
    value: dict[str, Any] = yaml.safe_load(template(kind))
    return value


def written(tmp_path: Path, kind: str, change: tuple[str, ...], value: Any) -> Path:
    """The template with one field changed (None: removed), and its papers."""
    raw = raw_of(kind)
    inner = raw
    for part in change[:-1]:
        inner = inner[part]
    if value is None:
        del inner[change[-1]]
    else:
        inner[change[-1]] = value
    (tmp_path / "papers").mkdir()
    for name in ("dpia", "art6", "art9", "ethics", "adequacy"):
        (tmp_path / "papers" / f"{name}.txt").write_text("x")
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return path


def test_each_kind_has_a_template_and_a_task() -> None:
    found = kinds()
    assert found[0] == "sequence_classification"
    assert set(found) >= {"token_classification", "causal_lm", "image_classification"}
    for kind in found:
        raw = raw_of(kind)
        assert raw["task"]["kind"] == kind
        assert study_mistakes(raw) == []
        assert task_of(kind)
        assert list(raw) == list(raw_of(found[0])), "the same fields in the same order"
    with pytest.raises(KeyError):
        template("speech")


@pytest.mark.parametrize(
    ("kind", "change", "value", "field", "message"),
    [
        ("token_classification", ("task", "kind"), "ner", "task.kind", "must be one of"),
        ("token_classification", ("task", "kind"), None, "task.kind", "missing"),
        ("token_classification", ("task", "tags_column"), None, "task.tags_column", "missing"),
        ("token_classification", ("task", "tags_column"), "words", "task", "the same column"),
        ("token_classification", ("task", "labels"), ["O", "B x"], "task", "a tag has no space"),
        ("token_classification", ("task", "labels"), ["O", "O"], "task", "listed twice"),
        ("token_classification", ("task", "template"), "{a}", "task.template", "unknown field"),
        ("token_classification", ("model", "pooling"), "mean", "model.pooling", "each token"),
        ("image_classification", ("model", "pooling"), "none", "model.pooling", "one vector"),
        ("image_classification", ("task", "image_column"), None, "task", "image_column or pixel_prefix"),
        ("image_classification", ("task", "pixel_prefix"), "p", "task", "image_column or pixel_prefix"),
        (
            "image_classification",
            ("task", "scaling"),
            [{"mean_milli": 5}],
            "task.scaling[0].deviation_milli",
            "missing",
        ),
        ("image_classification", ("task", "label_values"), {"0": "x"}, "task", "labels does not list"),
        ("image_classification", ("model", "whole_layers"), 1, "model", "choose one"),
        ("causal_lm", ("model", "adapters"), "null", "model.adapters", "adapters"),
        ("causal_lm", ("model", "feature_norm_milli"), 4000, "model.feature_norm_milli", "adapters alone"),
        ("causal_lm", ("task", "max_tokens"), 4, "task.max_tokens", "greater than or equal to 8"),
        ("causal_lm", ("task", "labels"), ["a", "b"], "task.labels", "unknown field"),
    ],
)
def test_a_mistake_is_told_with_its_field_and_line(
    tmp_path: Path, kind: str, change: tuple[str, ...], value: Any, field: str, message: str
) -> None:
    path = written(tmp_path, kind, change, value)
    if value == "null":
        path.write_text(path.read_text().replace("adapters: 'null'", "adapters: null"))
    mistakes, study = check_file(path)
    assert study is None
    found = [m for m in mistakes if m.field == field and message in m.message]
    assert found, [str(m) for m in mistakes]
    line = path.read_text().splitlines()[(found[0].line or 0) - 1]
    own = field.rsplit(".", maxsplit=1)[-1]
    assert any(part in line for part in (own, "task:", "mean_milli")), "the field, or what holds it"


@pytest.mark.parametrize("kind", kinds())
def test_a_signed_study_of_each_kind_reads_back_the_same(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, kind, ("name",), "some-study")
    mistakes, study = check_file(path)
    assert mistakes == []
    assert study is not None
    value = json.loads(json.dumps(study.as_json()))
    again = load_model(Study, value, "RSD-2007", "study")
    assert again == study
    assert type(again.task) is type(study.task)
    assert bool(labels_of(again.task)) == (kind != "causal_lm")
    spoilt = copy.deepcopy(value)
    spoilt["task"]["kind"] = "speech"
    assert [m.field for m in try_model(Study, spoilt)[0]] == ["task.kind"]

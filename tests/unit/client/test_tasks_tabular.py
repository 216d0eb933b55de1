"""Tables of numbers and categories: cells from public constants, a record apart from all others, bad input."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load

from client.doctor_stores import unprovided
from client.home import Registry
from client.prepared import find_prepared
from client.tasks.base import task_of
from client.tasks.tabular import load_records
from client.training.dpsgd import Engine
from client.training.examples import Examples
from client.training.session import prepare, resume
from client.work import WorkSpec
from compliance.canonical import sha256_hex
from compliance.errors import InputError
from compliance.messages import LayoutEntry
from compliance.release.case import Contents
from compliance.release.model_files import NETWORK_CONFIG, NETWORK_FILE, LayoutFile, check_layout, model_files
from compliance.study import study_mistakes
from compliance.task_spec import Categorical, Numeric, Tabular
from compliance.training_spec import BuiltIn, ModelSpec
from compliance.validation import load_model, try_model
from tests.tiny_bert import SeededStream, tiny_round
from tests.tiny_models import moved, record_gradients
from tests.world import world

TASK = Tabular(
    kind="tabular",
    labels=("no", "yes"),
    label_column="sick",
    label_values={"0": "no"},
    label_other="yes",
    ranges_source="a textbook",
    numeric=(
        Numeric(column="age", centre_micro=50_000_000, half_width_micro=25_000_000),
        Numeric(column="chol", centre_micro=200_000_000, half_width_micro=100_000_000, missing_micro=(0,)),
        Numeric(column="age", centre_micro=80_000_000, half_width_micro=10_000_000),
    ),
    categorical=(Categorical(column="pain", categories=("1", "2", "true")),),
)
CELLS = ("age around 50", "age missing", "chol around 200", "chol missing", "age around 80", "pain 1", "pain 2",
         "pain true", "pain other")  # fmt: skip
LOGISTIC = BuiltIn(kind="logistic_regression", start_bias_micro=(500_000, -250_000))
MLP = BuiltIn(kind="mlp", hidden=(5, 4), activation="tanh", init_seed=3)


def model(built_in: BuiltIn, norm_milli: int | None = None) -> ModelSpec:
    return ModelSpec(
        name="small", sha256=built_in.sha256, pooling="none", adapters=None, features=None,
        feature_norm_milli=norm_milli, built_in=built_in,
    )  # fmt: skip


@dataclass(frozen=True)
class Rows:
    """A table in memory as a `DataSource`."""

    frame: pd.DataFrame

    def table(self, columns):
        """See `DataSource.table`."""
        return self.frame[list(columns)]


def frame(rows: int = 12) -> pd.DataFrame:
    rng = np.random.default_rng(2)
    return pd.DataFrame(
        {
            "age": rng.integers(20, 95, rows).astype(float),
            "chol": rng.integers(120, 400, rows),
            "pain": rng.integers(1, 4, rows),
            "sick": rng.integers(0, 3, rows),
        }
    )


def examples(table: pd.DataFrame) -> Examples:
    records = load_records(TASK, Rows(table))
    return Examples({"cells": torch.from_numpy(records.cells)}, torch.from_numpy(records.labels))


def test_cells_are_the_public_constants_applied():
    table = pd.DataFrame({"age": [75, None, 10, 85], "chol": [250, 0, None, 900], "pain": [2, 9, None, 1],
                          "sick": [0, 2, 1, 0]})  # fmt: skip
    found = load_records(TASK, Rows(table))
    assert TASK.cells == CELLS
    assert found.cells.tolist() == [
        [1.0, 0.0, 0.5, 0.0, -0.5, 0.0, 1.0, 0.0, 0.0],
        [0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0],
        [-1.0, 0.0, 0.0, 1.0, -1.0, 0.0, 0.0, 0.0, 1.0],
        [1.0, 0.0, 1.0, 0.0, 0.5, 1.0, 0.0, 0.0, 0.0],
    ]
    assert found.labels.tolist() == [0, 1, 1, 0]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 11), st.booleans())
def test_the_cells_of_a_row_do_not_depend_on_other_rows(seed, row, alone):
    """No statistic of the site's rows goes into a cell: other rows, whatever they hold, change nothing."""
    rng, table = np.random.default_rng(seed), frame()
    before = load_records(TASK, Rows(table))
    others = table.sample(frac=1, random_state=seed).reset_index(drop=True) * rng.choice([0, 1, 1e6])
    both = table.iloc[[row]] if alone else pd.concat([table.iloc[[row]], others], ignore_index=True)
    after = load_records(TASK, Rows(both))
    assert after.cells[0].tobytes() == before.cells[row].tobytes()
    assert after.labels[0] == before.labels[row]


@pytest.mark.parametrize(("cell", "alone"), [("1.0", 1.0), ("TRUE", True), (" 2 ", 2), ("true", True)])
def test_a_category_is_the_same_beside_rows_that_make_its_column_text(cell, alone):
    one = pd.DataFrame({"age": [50], "chol": [200], "pain": [alone], "sick": [0]})
    mixed = pd.DataFrame({"age": [50, 50], "chol": [200, 200], "pain": [cell, "severe"], "sick": [0, 0]})
    assert load_records(TASK, Rows(one)).cells[0].tolist() == load_records(TASK, Rows(mixed)).cells[0].tolist()


@pytest.mark.parametrize("built_in", [LOGISTIC, MLP])
def test_a_record_yields_the_same_whatever_stands_beside_it(built_in):
    """Invariant: each record's loss and gradient depend on that record alone."""
    data = examples(frame())
    top = moved(task_of("tabular").top(model(built_in, 2000), TASK, None))
    losses, grads = record_gradients(top, data, list(range(12)))
    assert (grads.norm(dim=1) > 1e-4).all()
    for rows in ([4], [4, 0], [4, 7, 1]):
        some, some_grads = record_gradients(top, data, rows)
        assert abs(float(some[0] - losses[4])) <= 1e-6
        assert float((some_grads[0] - grads[4]).abs().max()) <= 1e-6 * max(1.0, float(grads[4].norm()))


def test_vectors_are_scaled_to_the_public_length():
    data = examples(frame())
    seen = []
    for norm in (2000, None):
        top = task_of("tabular").top(model(MLP, norm), TASK, None)
        top.hidden[0].register_forward_pre_hook(lambda _m, args: seen.append(args[0].norm(dim=1)))
        top(data.inputs)
    scaled, plain = seen
    assert torch.allclose(scaled, torch.full((12,), 2.0))
    assert torch.equal(plain, data.inputs["cells"].norm(dim=1))


@pytest.mark.parametrize("bad", ["much", "2,5", "inf", "2020-01-01", float("inf"), True])
def test_what_is_no_number_is_refused_without_being_told(bad):
    table = frame()
    table["chol"] = [bad, *(str(v) for v in table["chol"][1:])] if isinstance(bad, str) else [bad, *table["chol"][1:]]
    if bad is True:
        assert load_records(TASK, Rows(table)).cells[0, 2] == -1.0
        return
    with pytest.raises(InputError, match="RSD-2350") as caught:
        load_records(TASK, Rows(table))
    told = str(caught.value)
    assert "chol" in told
    assert str(bad) not in told.replace("infinite", "")
    assert not {str(v) for v in table["age"]} & set(told.split())


def test_dates_are_no_numbers():
    table = frame()
    table["chol"] = pd.date_range("2020-01-01", periods=len(table))
    with pytest.raises(InputError, match="RSD-2350"):
        load_records(TASK, Rows(table))


def test_a_site_with_one_class_takes_part_and_an_unknown_class_is_refused():
    """Refusing it would tell the counts of its classes, and a federation learns from it."""
    table = frame()
    table["sick"] = 0
    data = examples(table)
    assert data.targets.tolist() == [0] * 12
    top = task_of("tabular").top(model(LOGISTIC), TASK, None)
    out = Engine(top, data, torch.device("cpu")).train(
        tiny_round(), np.zeros(top.get_flat().size, np.float32), SeededStream(1)
    )
    assert out.delta.any()
    assert out.non_finite == 0
    closed = TASK.model_copy(update={"label_other": None})
    with pytest.raises(InputError, match="RSD-2304"):
        load_records(closed, Rows(frame()))
    table.loc[3, "sick"] = None
    with pytest.raises(InputError, match="RSD-2304"):
        load_records(TASK, Rows(table))


def test_a_weight_that_makes_losses_infinite_trains_nothing_and_is_counted():
    data = examples(frame())
    data.inputs["cells"][3] = float("nan")
    top = task_of("tabular").top(model(LOGISTIC), TASK, None)
    spec = tiny_round(sample_numerator=1, sample_denominator=1)
    out = Engine(top, data, torch.device("cpu")).train(spec, np.zeros(top.get_flat().size, np.float32), SeededStream(1))
    assert np.isfinite(out.delta).all()
    assert out.non_finite >= 1


@pytest.mark.parametrize("built_in", [LOGISTIC, MLP])
def test_it_begins_where_the_study_says_and_the_flat_vector_at_zero(built_in):
    top = task_of("tabular").top(model(built_in), TASK, None)
    assert not top.get_flat().any()
    values = {n: p.detach() for n, p in top.trained()}
    assert not values["head.weight"].any()
    if built_in is LOGISTIC:
        assert values["head.bias"].tolist() == [0.5, -0.25]
    else:
        assert torch.allclose(values["hidden.0.weight"].norm(dim=1), torch.ones(5))
        assert not values["hidden.1.bias"].any()


def spec_of(root, built_in: BuiltIn) -> WorkSpec:
    table = root / "table.csv"
    frame(40).to_csv(table, index=False)
    return WorkSpec(
        task=TASK, model=model(built_in), model_dir=None, table=str(table), threads=1,
        table_sha256=sha256_hex(table.read_bytes()), cache_dir=str(root / "cache"),
        first_round=tiny_round(physical_batch=16),
    )  # fmt: skip


@pytest.mark.parametrize("built_in", [LOGISTIC, MLP])
def test_a_study_without_a_model_folder_is_prepared_trained_and_purged(tmp_path, built_in):
    spec = spec_of(tmp_path, built_in)
    prepared = prepare(spec)
    out = resume(spec).train(tiny_round(), np.zeros(prepared.d, np.float32), SeededStream(3))
    assert out.delta.any()
    assert all(out.conformance.values())
    (before,) = (tmp_path / "cache").glob("trunk-*")
    assert before.stat().st_mode & 0o077 == 0
    without = spec.model_copy(update={"excluded": (5,)})
    prepare(without)
    assert len(resume(without).examples) == 39
    assert find_prepared(spec) is None
    assert not before.exists()


def test_a_site_needs_no_model_for_it():
    study = Contents(world().run).study
    assert any(missing.startswith("model ") for missing in unprovided(study, Registry()))
    table = study.model_copy(update={"task": TASK, "model": model(LOGISTIC)})
    assert unprovided(table, Registry()) == [f"dataset {study.dataset}"]


def test_a_model_with_a_folder_does_not_serve_a_table_and_the_study_says_so():
    folder = ModelSpec(name="b", sha256="0" * 64, pooling="none", adapters=None, features=None, feature_norm_milli=None)
    with pytest.raises(InputError, match="RSD-2351"):
        task_of("tabular").top(folder, TASK, None)
    raw = Contents(world().run).study.as_json() | {"task": TASK.model_dump(mode="json")}
    assert [m.field for m in study_mistakes(raw)] == ["model.built_in"]
    raw["model"] = model(BuiltIn(kind="logistic_regression", start_bias_micro=(1,))).model_dump(mode="json")
    assert [m.field for m in study_mistakes(raw)] == ["model.built_in.start_bias_micro"]
    raw["model"] = model(LOGISTIC).model_dump(mode="json")
    assert study_mistakes(raw) == []


def test_the_digest_of_a_built_in_model_is_that_of_its_description():
    raw = model(MLP).model_dump(mode="json")
    assert load_model(ModelSpec, raw, "RSD-2007", "model").sha256 == MLP.sha256
    raw["built_in"]["hidden"] = [5, 3]
    mistakes, loaded = try_model(ModelSpec, raw)
    assert loaded is None
    assert BuiltIn(kind="mlp", hidden=(5, 3), activation="tanh", init_seed=3).sha256 in mistakes[0].message
    for wrong in ({"kind": "mlp"}, {"kind": "logistic_regression", "hidden": [3]}):
        assert try_model(BuiltIn, wrong)[1] is None


@pytest.mark.parametrize("columns", [{"numeric": TASK.numeric + TASK.numeric[:1]}, {"label_column": "pain"},
                                     {"numeric": (), "categorical": ()}])  # fmt: skip
def test_columns_that_cannot_be(columns):
    raw = TASK.model_copy(update=columns).model_dump(mode="json")
    assert try_model(Tabular, raw)[1] is None


@pytest.mark.parametrize("built_in", [LOGISTIC, MLP])
def test_the_release_holds_the_whole_network_and_its_layout_follows_from_the_study(built_in):
    study = Contents(world().run).study.model_copy(update={"task": TASK, "model": model(built_in)})
    top = moved(task_of("tabular").top(study.model, TASK, None))
    entries = tuple(e.model_dump(mode="json", exclude_none=True) for e in top.layout())
    layout = LayoutFile.model_validate_json(json.dumps({"schema": "residency.layout/1", "entries": entries}))
    check_layout(layout, study)
    files = model_files(study, layout, top.get_flat())
    assert set(files) == {NETWORK_FILE, NETWORK_CONFIG}
    released = load(files[NETWORK_FILE])
    for name, value in top.state_dict().items():
        assert torch.allclose(released[name], value, atol=1e-6)
    assert json.loads(files[NETWORK_CONFIG])["cells"] == list(CELLS)
    for wrong in (layout.entries[::-1], layout.entries[:1], (*layout.entries, LayoutEntry(name="x", shape=(1,)))):
        other = layout.model_copy(update={"entries": wrong})
        with pytest.raises(InputError, match="RSD-9042"):
            check_layout(other, study)

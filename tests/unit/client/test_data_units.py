"""Which rows are one person's, from the file to the engine."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.data.identity import subject_keys
from client.data.table import TableFile
from client.data.units import patient_units
from client.prepared import prepared_key
from client.training.session import prepare, resume
from compliance.canonical import sha256_hex
from compliance.errors import EnvironmentFault, InputError, InternalBug
from tests.tiny_bert import SeededStream, save_tiny_bert, tiny_round, tiny_work

IDS = st.one_of(st.integers(-5, 30), st.sampled_from(["7", "007", " 7 ", "7.0", "'7'", "ab", "AB", "x y", "12.50"]))


@given(st.lists(IDS, min_size=1, max_size=40))
def test_units_are_the_people_of_the_registration_numbered_without_gaps(values):
    units = patient_units(values)
    keys = subject_keys(bytes(32), pd.DataFrame({"p": values}, dtype=object), ["p"])
    assert [(units[i] == units[j]) for i in range(len(values)) for j in range(i)] == [
        (keys[i] == keys[j]) for i in range(len(values)) for j in range(i)
    ]
    assert units.dtype == np.int64
    firsts = list(dict.fromkeys(units.tolist()))
    assert firsts == list(range(len(firsts)))


@pytest.mark.parametrize("empty", ["", "  ", None, float("nan"), "''", "\ufeff", pd.NA])
def test_a_row_of_nobody_is_refused_without_a_count_or_a_value(empty):
    with pytest.raises(InputError) as error:
        patient_units(["k-4711", empty, "k-4712", empty])
    assert error.value.code == "RSD-2414"
    text = f"{error.value} {error.value.next}"
    assert "k-47" not in text
    assert not set(text.replace("RSD-2414", "")) & set("0123456789")


def test_identifiers_are_read_as_they_were_registered(tmp_path):
    """As numbers these two would be one person; a missing column has its own error."""
    path = tmp_path / "t.csv"
    path.write_text("patient,x\n12345678901234567890,1\n12345678901234567891,2\n")
    found = TableFile(path).table(["patient"])["patient"].tolist()
    assert patient_units(found).tolist() == [0, 1]
    with pytest.raises(InputError, match="RSD-2303"):
        TableFile(path).table(["person"])


# --- through a prepared study ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("model") / "model")


def _grouped(tmp_path, folder, written=lambda i: str(i // 3)):
    """A work specification over a table in which every patient has up to three rows."""
    spec = tiny_work(tmp_path, folder)
    path = Path(spec.table)
    lines = path.read_text().splitlines()
    rows = [f"{line.rsplit(',', 1)[0]},{written(i)}" for i, line in enumerate(lines[1:])]
    path.write_text("\n".join([lines[0], *rows]) + "\n")
    return spec.model_copy(update={"table_sha256": sha256_hex(path.read_bytes()), "group_column": "patient_id"})


def test_a_prepared_study_keeps_whose_each_record_is(tmp_path, folder):
    spec = _grouped(tmp_path, folder, lambda i: ("00" if i % 2 else "") + str(90 - i // 3))
    prepare(spec)
    examples = resume(spec).examples
    assert examples.units is not None
    assert examples.units.tolist() == [i // 3 for i in range(40)]
    Path(spec.table).unlink()
    assert resume(spec).examples.units is not None


def test_withdrawn_rows_take_their_unit_with_them(tmp_path, folder):
    spec = _grouped(tmp_path, folder)
    prepare(spec)
    without = spec.model_copy(update={"excluded": (3, 4, 5, 7)})
    prepare(without)
    units = resume(without).examples.units
    assert units is not None
    assert units.tolist() == [0, 0, 0, 1, 1, *(n for n in range(2, 12) for _ in range(3)), 12]


def test_what_was_prepared_for_records_is_not_taken_for_patients(tmp_path, folder):
    spec = _grouped(tmp_path, folder)
    records = spec.model_copy(update={"group_column": None})
    assert prepared_key(spec) != prepared_key(records)
    prepare(records)
    assert resume(records).examples.units is None
    with pytest.raises(InternalBug, match="RSD-4512"):
        resume(spec)


def test_kept_units_that_do_not_fit_are_damage(tmp_path, folder):
    from safetensors.torch import load_file, save_file

    spec = _grouped(tmp_path, folder)
    prepare(spec)
    path = Path(spec.cache_dir) / "top.safetensors"
    size = path.stat().st_size
    tensors = load_file(path)
    tensors["unitz"] = tensors.pop("units")
    save_file(tensors, path)
    assert path.stat().st_size == size
    with pytest.raises(EnvironmentFault, match="RSD-4623"):
        resume(spec)


def test_a_null_in_the_group_column_stops_the_preparation(tmp_path, folder):
    spec = _grouped(tmp_path, folder, lambda i: "" if i == 17 else str(i))
    with pytest.raises(InputError, match="RSD-2414"):
        prepare(spec)


def test_a_prepared_study_trains_patients(tmp_path, folder):
    spec = _grouped(tmp_path, folder)
    size = prepare(spec).d
    engine = resume(spec)
    done = engine.train(tiny_round(unit="patient", records_per_unit=2), np.zeros(size, np.float32), SeededStream(3))
    assert done.delta.any()
    assert all(done.conformance.values())

"""What preparing a study leaves behind, and what a task that trains takes of it."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest
import torch

from client.prepared import find_prepared, prepared_key
from client.stop_file import StopFile, stop_mark
from client.tasks import classification
from client.training.dpsgd import Engine, Round
from client.training.encoder_top import build_top
from client.training.examples import Examples
from client.training.session import prepare, resume
from client.training.trunk import cached_trunk
from compliance.canonical import sha256_hex
from compliance.errors import EnvironmentFault, InputError, InternalBug, RunFailed
from tests.tiny_bert import SeededStream, save_tiny_bert, tiny_engine, tiny_examples, tiny_model, tiny_round, tiny_work


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def spec(tmp_path, folder):
    return tiny_work(tmp_path, folder)


def texts_and_labels(spec):
    from client.data.table import TableFile
    from client.tasks.classification import load_records

    records = load_records(spec.task, TableFile(Path(spec.table)))
    return list(records.texts), records.labels


def test_training_from_what_was_kept_is_training_from_the_model_bit_for_bit(spec, folder, tmp_path):
    prepared = prepare(spec)
    texts, labels = texts_and_labels(spec)
    trunk = cached_trunk(spec.model, spec.task, folder, texts, tmp_path / "other")
    direct = Engine(build_top(spec.model, folder, 2), Examples(trunk, torch.from_numpy(labels)), torch.device("cpu"))
    kept = resume(spec)
    start = np.random.default_rng(1).normal(size=prepared.d).astype(np.float32)
    for attempt in (1, 2):
        one, two = (e.train(tiny_round(attempt=attempt), start, SeededStream(attempt)) for e in (direct, kept))
        assert one.delta.tobytes() == two.delta.tobytes()
        assert one.delta.any()


def test_a_model_without_adapters_is_kept_as_well(spec, folder):
    head = spec.model_copy(update={"model": tiny_model(folder, adapters=False)})
    prepared = prepare(head)
    assert resume(head).train(tiny_round(), np.zeros(prepared.d, np.float32), SeededStream(1)).delta.any()


def test_training_reads_neither_table_nor_model(spec, folder, monkeypatch):
    prepare(spec)
    Path(spec.table).unlink()
    gone = spec.model_copy(update={"model_dir": "/nowhere"})
    monkeypatch.setattr(classification, "cached_trunk", None)
    monkeypatch.setattr(classification, "build_top", None)
    assert len(resume(gone).examples) == 40


def test_excluded_rows_are_not_loaded_and_their_cache_is_gone(spec):
    prepare(spec)
    whole = {p.name for p in Path(spec.cache_dir).glob("trunk-*")}
    _, labels = texts_and_labels(spec)
    out = (0, 1, 7, 39)
    without = spec.model_copy(update={"excluded": out})
    assert find_prepared(without) is None
    with pytest.raises(InternalBug, match="RSD-4512"):
        resume(without)
    prepare(without)
    examples = resume(without).examples
    assert examples.targets.tolist() == np.delete(labels, out).tolist()
    assert examples.inputs["hidden"].shape[0] == 36
    assert find_prepared(spec) is None
    assert not whole & {p.name for p in Path(spec.cache_dir).glob("*")}


def test_positions_that_are_no_rows_are_refused(spec):
    with pytest.raises(InputError, match="RSD-4622"):
        prepare(spec.model_copy(update={"excluded": (0, 40)}))
    assert find_prepared(spec) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda _: {"excluded": (1,)},
        lambda _: {"table_sha256": "0" * 64},
        lambda s: {"model": s.model.model_copy(update={"sha256": "0" * 64})},
        lambda s: {"task": s.task.model_copy(update={"max_tokens": 11})},
        lambda s: {"model": s.model.model_copy(update={"feature_norm_milli": 2999})},
        lambda _: {"threads": 2},
        lambda s: {"first_round": s.first_round.model_copy(update={"physical_batch": 32})},
    ],
)
def test_a_cache_of_another_spec_is_never_found(spec, change):
    prepare(spec)
    other = spec.model_copy(update=change(spec))
    assert prepared_key(other) != prepared_key(spec)
    assert find_prepared(other) is None
    assert find_prepared(spec.model_copy(update={"stop_file": "x"})) is not None


def test_another_table_under_the_same_name_is_refused(spec):
    prepare(spec)
    table = Path(spec.table)
    table.write_text(table.read_text().replace("9039", "9040"))
    with pytest.raises(InputError, match="RSD-4621"):
        prepare(spec)


def test_a_part_of_the_files_is_nothing(spec):
    prepare(spec)
    (trunk,) = Path(spec.cache_dir).glob("trunk-*")
    trunk.write_bytes(trunk.read_bytes()[:-1])
    assert find_prepared(spec) is None
    prepare(spec)
    assert find_prepared(spec) is not None


def test_damaged_files_are_told_and_removed(spec):
    prepare(spec)
    top = Path(spec.cache_dir) / "top.safetensors"
    top.write_bytes(b"\xff" * top.stat().st_size)
    with pytest.raises(EnvironmentFault) as fault:
        resume(spec)
    assert fault.value.code == "RSD-4623"
    assert list(Path(spec.cache_dir).iterdir()) == []
    prepare(spec)
    resume(spec)


def test_only_the_owner_reads_what_was_kept_and_foreign_files_stay(spec):
    cache = Path(spec.cache_dir)
    cache.mkdir()
    (cache / "withdrawal").write_text("3")
    prepare(spec)
    prepare(spec.model_copy(update={"excluded": (2,)}))
    assert (cache / "withdrawal").read_text() == "3"
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    ours = [p for p in cache.iterdir() if p.name != "withdrawal"]
    assert len(ours) == 4
    assert {stat.S_IMODE(p.stat().st_mode) for p in ours} == {0o600}


# --- withdrawals ------------------------------------------------------------------------------------------------------


def test_no_batch_is_drawn_once_something_speaks_against_it(folder, monkeypatch):
    engine = tiny_engine(folder, tiny_examples())
    read, asked = [], []
    real = Round._backward
    monkeypatch.setattr(Round, "_backward", lambda run, piece: (read.append(piece), real(run, piece)))

    def may_draw():
        asked.append(len(read))
        if len(read) == 5:
            raise RunFailed("RSD-4620", "a subject was withdrawn")

    with pytest.raises(RunFailed, match="RSD-4620"):
        engine.train(tiny_round(steps=50), np.zeros(2 * 32 + 2 + 3 * 64, np.float32), SeededStream(1), may_draw)
    assert len(read) == 5
    assert set(range(6)) == set(asked), "asked before each piece"


def test_a_withdrawal_after_the_last_batch_ends_the_attempt_too(folder):
    stops = iter([None] * 100)
    engine = tiny_engine(folder, tiny_examples())
    calls = []

    def may_draw():
        calls.append(next(stops))

    start = np.zeros(2 * 32 + 2 + 3 * 64, np.float32)
    engine.train(tiny_round(steps=1, physical_batch=4096), start, SeededStream(1), may_draw)
    assert len(calls) == 3, "before the step, before its one piece, and at the end"


def test_the_stop_file_is_compared_by_content(tmp_path):
    path = tmp_path / "stop"
    held = StopFile(str(path))
    held.check()
    path.write_text("")
    held.check()  # no file means empty
    path.write_text("1")
    with pytest.raises(RunFailed, match="RSD-4620"):
        held.check()
    StopFile(str(path)).check()
    StopFile(str(path), sha256_hex(b"1")).check()
    with pytest.raises(RunFailed, match="RSD-4620"):
        StopFile(str(path), stop_mark("")).check()
    path.unlink()
    path.mkdir()
    with pytest.raises(RunFailed, match="RSD-4620"):
        held.check()


def test_a_withdrawal_while_preparing_leaves_nothing(spec, tmp_path, monkeypatch):
    stop = tmp_path / "stop"
    watched = spec.model_copy(update={"stop_file": str(stop)})
    real = classification.build_top

    def withdrawn(*args):
        stop.write_text("1")
        return real(*args)

    monkeypatch.setattr(classification, "build_top", withdrawn)
    with pytest.raises(RunFailed, match="RSD-4620"):
        prepare(watched)
    assert list(Path(spec.cache_dir).iterdir()) == []

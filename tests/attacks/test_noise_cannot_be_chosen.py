"""Attempts to seed, weaken or repeat the noise and the sampling from outside (invariant 2)."""

from __future__ import annotations

import ast
import inspect
import multiprocessing
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from client.training.keystream import Keystream, poisson_mask
from client.training.lattice import RoundedGaussian
from client.warm import Warm, worker_environment
from client.worker import TrainingWorker
from compliance.training_spec import TrainingSpec
from tests.tiny_bert import save_tiny_bert, tiny_engine, tiny_round

ROOT = Path(__file__).resolve().parents[2]
PRODUCTION = [p for folder in ("client", "server", "strategies") for p in (ROOT / folder).rglob("*.py")]


def noise_under_seeds() -> bytes:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    return RoundedGaussian(5000.0).sample(Keystream.fresh(), 100).tobytes()


def test_seeding_every_generator_changes_nothing():
    assert noise_under_seeds() != noise_under_seeds()
    random.seed(1)
    torch.manual_seed(1)
    one = poisson_mask(Keystream.fresh(), 1000, 1, 2)
    random.seed(1)
    torch.manual_seed(1)
    assert (one != poisson_mask(Keystream.fresh(), 1000, 1, 2)).any()


def test_no_environment_variable_makes_two_rounds_alike(tmp_path, monkeypatch):
    folder = save_tiny_bert(tmp_path / "model")
    for name in ("SEED", "RESIDENCY_SEED", "PYTHONHASHSEED", "TORCH_SEED", "PL_GLOBAL_SEED", "RESIDENCY_TEST"):
        monkeypatch.setenv(name, "1")
    size = (
        tiny_engine(folder).train(tiny_round(), np.zeros(2 * 32 + 2 + 3 * 64, np.float32), Keystream.fresh()).delta.size
    )
    start = np.zeros(size, np.float32)
    one, two = (tiny_engine(folder).train(tiny_round(), start, Keystream.fresh()).delta for _ in range(2))
    assert not np.isclose(one, two).all()
    assert np.count_nonzero(one == two) < size / 4


def test_the_production_stream_takes_no_key_and_no_seed():
    assert list(inspect.signature(Keystream).parameters) == []
    assert list(inspect.signature(Keystream.fresh).parameters) == []
    assert not {"seed", "key", "stream", "generator"} & set(inspect.signature(TrainingWorker.train).parameters)
    assert not {"seed", "key", "stream", "generator"} & set(inspect.signature(TrainingWorker).parameters)
    assert not {"seed", "key", "stream", "generator"} & set(inspect.signature(Warm.run).parameters)


def calls_in(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_production_builds_one_kind_of_stream_and_reads_no_variable_in_training():
    makers = {}
    for path in PRODUCTION:
        for name, node in calls_in(path):
            if name.endswith(("Keystream", "Keystream.fresh")):
                makers[path.relative_to(ROOT).as_posix()] = name
                assert not node.args
                assert not node.keywords
    assert makers == {"client/worker_main.py": "Keystream.fresh"}
    for path in (ROOT / "client" / "training").glob("*.py"):
        text = path.read_text()
        for word in ("manual_seed", "random.seed", "torch.rand", "torch.normal", "secure_mode", "getenv"):
            assert word not in text, (path.name, word)
        if path.name != "model_folder.py":  # which sets the offline switches and reads nothing else
            assert "environ" not in text, path.name


def test_the_worker_gets_no_variable_of_the_agent_that_is_not_named():
    outer = {f"VARIABLE_{i}": "1" for i in range(50)} | {"PYTHONHASHSEED": "0", "PYTHONSTARTUP": "x.py"}
    assert not set(outer) & set(worker_environment(outer, 1))


@pytest.mark.parametrize(
    "field", ["seed", "noise_seed", "generator", "key", "stream", "sigma", "secure_mode", "noise", "sampling", "mask"]
)
def test_a_round_or_a_study_with_a_seed_is_refused(field):
    with pytest.raises(ValueError, match="extra"):
        tiny_round(**{field: 1})
    good = {"rounds": 1, "steps": 1, "head_rate_milli": 1, "adapter_rate_milli": 0, "physical_batch": 1}
    TrainingSpec(**good)
    with pytest.raises(ValueError, match="extra"):
        TrainingSpec(**good, **{field: 1})


def _prefix(queue) -> None:
    stream = Keystream.fresh()
    queue.put((stream.mark, stream.words(8).tobytes(), os.getpid()))


def test_forked_children_of_one_parent_draw_different_streams():
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    children = [context.Process(target=_prefix, args=(queue,)) for _ in range(4)]
    for child in children:
        child.start()
    seen = [queue.get() for _ in children]
    for child in children:
        child.join()
    assert len({mark for mark, _, _ in seen}) == len({words for _, words, _ in seen}) == 4

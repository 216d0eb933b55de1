"""A real child process: prepares, trains, dies, is started again; keeps nothing of the agent's environment."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys

import numpy as np
import pytest

from client import framing
from client.worker import TrainingWorker, worker_environment
from compliance.errors import EnvironmentFault, InputError, ResidencyError
from tests.tiny_bert import save_tiny_bert, tiny_round, tiny_work


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    root = tmp_path_factory.mktemp("worker")
    return tiny_work(root, save_tiny_bert(root / "model"))


@pytest.fixture(scope="module")
def worker(spec):
    with TrainingWorker(spec, timeout_s=200) as it:
        yield it


def test_it_prepares_and_trains(worker):
    prepared = worker.prepare()
    assert prepared.device in {"cpu", "cuda", "mps"}
    assert prepared.d == sum(int(np.prod(shape)) for shape in (e.shape for e in prepared.layout))
    start = np.zeros(prepared.d, np.float32)
    delta, trained = worker.train(tiny_round(), start)
    assert delta.dtype == np.float32
    assert delta.any()
    assert set(trained.conformance) == {
        "noise_variance", "clip_norm", "batch_size", "step_correlation", "fresh_stream",
    }  # fmt: skip
    assert all(trained.conformance.values())
    assert trained.tv_error_femto >= 1
    again, other = worker.train(tiny_round(attempt=2), start)
    assert other.stream != trained.stream
    assert not np.allclose(again, delta), "the same round with fresh randomness"


def test_an_error_of_the_child_comes_back_as_itself(worker, spec):
    prepared = worker.prepare()
    with pytest.raises(InputError, match="RSD-4501"):
        worker.train(tiny_round(), np.zeros(prepared.d + 1, np.float32))
    worker.train(tiny_round(attempt=3), np.zeros(prepared.d, np.float32))
    broken = spec.model_copy(update={"table": "/nowhere/table.csv"})
    with TrainingWorker(broken) as other, pytest.raises(InputError) as caught:
        other.prepare()
    assert caught.value.code == "RSD-2300"
    assert caught.value.next


def test_a_killed_child_is_an_environment_fault_and_is_started_again(worker):
    prepared = worker.prepare()
    start = np.zeros(prepared.d, np.float32)
    first = worker.pid
    os.kill(first, signal.SIGKILL)
    with pytest.raises(EnvironmentFault, match="RSD-4510"):
        worker.train(tiny_round(), start)
    assert worker.pid is None
    delta, trained = worker.train(tiny_round(attempt=2), start)
    assert worker.pid not in {None, first}
    assert delta.any()
    assert trained.conformance["fresh_stream"]


def test_a_deadline_ends_the_child(spec):
    with TrainingWorker(spec, timeout_s=0.05) as slow, pytest.raises(EnvironmentFault, match="RSD-4515"):
        slow.prepare()


def test_the_child_sees_no_variable_that_is_not_named():
    outer = {"PATH": "/bin", "FLWR_TOKEN": "x", "RESIDENCY_SEED": "1", "HF_TOKEN": "x", "CUDA_VISIBLE_DEVICES": "0"}
    inner = worker_environment(outer, 3)
    assert {"FLWR_TOKEN", "RESIDENCY_SEED", "HF_TOKEN"}.isdisjoint(inner)
    assert inner["HF_HUB_OFFLINE"] == inner["TRANSFORMERS_OFFLINE"] == "1"
    assert inner["OMP_NUM_THREADS"] == "3"
    assert inner["CUDA_VISIBLE_DEVICES"] == "0"


def test_the_handle_imports_no_torch():
    code = "import sys, client.worker, client.worker_main; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def talk_to_child():
    ours, theirs = socket.socketpair()
    with theirs:
        child = subprocess.Popen(
            [sys.executable, "-m", "client.worker_main", str(theirs.fileno())], pass_fds=[theirs.fileno()]
        )
    ours.settimeout(60)
    return ours, child


def test_the_child_refuses_what_it_does_not_know_and_ends_with_its_agent():
    sock, child = talk_to_child()
    with sock:
        for header, code in (
            ({"do": "eval"}, "RSD-4511"),
            ({"do": "train", "spec": tiny_round().model_dump(mode="json")}, "RSD-4512"),
            ({"do": "train", "spec": {**tiny_round().model_dump(mode="json"), "seed": 1}}, "RSD-4502"),
            (
                {"do": "train", "spec": {**tiny_round().model_dump(mode="json"), "noise_multiplier_micro": 0}},
                "RSD-4502",
            ),
            ({"do": "prepare", "spec": {}}, "RSD-4502"),
        ):
            framing.send(sock, header, np.zeros(3, np.float32))
            reply, _ = framing.receive(sock)
            assert reply["ok"] is False
            assert reply["error"]["code"] == code
    assert child.wait(timeout=20) == 0


def test_frames_are_bounded_and_strict():
    left, right = socket.socketpair()
    with left, right:
        framing.send(left, {"a": 1}, np.array([1.5, -2.0], np.float32))
        header, array = framing.receive(right)
        assert header == {"a": 1}
        assert array.tolist() == [1.5, -2.0]
        left.sendall(struct.pack(">II", 1 << 31, 0))
        with pytest.raises(ValueError, match="longer"):
            framing.receive(right)
        body = json.dumps([1]).encode()
        left.sendall(struct.pack(">II", len(body), 0) + body)
        with pytest.raises(ValueError, match="no JSON object"):
            framing.receive(right)
        left.sendall(struct.pack(">II", 7, 0) + b'{"a":1,')
        with pytest.raises(ResidencyError, match="RSD-2002"):
            framing.receive(right)
        left.close()
        with pytest.raises(framing.Closed):
            framing.receive(right)

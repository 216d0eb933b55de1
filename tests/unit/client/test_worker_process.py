"""Real warm processes and tasks: they prepare, train, misbehave and die; the agent goes on."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from client import framing
from client.fingerprints import Fingerprints
from client.limits import Limits, isolation
from client.prepared import find_prepared
from client.stop_file import stop_mark
from client.warm import Warm, worker_environment
from client.worker import TrainingWorker
from compliance.errors import EnvironmentFault, InputError, ResidencyError, RunFailed
from tests.tiny_bert import save_tiny_bert, tiny_round, tiny_work
from tests.zygote_tasks import BROKEN, LIGHT, PROGRAM

AMPLE = Limits(memory_mib=4096, cpu_s=600)
ZERO = np.zeros(2 * 32 + 2 + 3 * 64, np.float32)


@pytest.fixture(scope="module")
def warm():
    it = Warm(PROGRAM)
    yield it
    it.close()


@pytest.fixture
def light():
    it = Warm(LIGHT)
    yield it
    it.close()


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    root = tmp_path_factory.mktemp("worker")
    return tiny_work(root, save_tiny_bert(root / "model"))


@pytest.fixture(scope="module")
def worker(warm, spec):
    return TrainingWorker(spec, warm, memory_mib=4096, prepare_s=200, train_s=200)


def run(warm, do, limits=AMPLE, deadline_s=60.0, **fields):
    return warm.run({"do": do, **fields}, None, limits, deadline_s)[0]


def children(pid):
    """The processes whose parent is `pid`."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


def alive(pid):
    """Whether `pid` runs; a zombie does not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def wait(done, what, limit_s=60):
    end = time.monotonic() + limit_s
    while not (found := done()):
        assert time.monotonic() < end, what
        time.sleep(0.01)
    return found


def in_background(action):
    """Run `action` in a thread; its error, or None, once it has ended."""
    out = []

    def work():
        try:
            action()
            out.append(None)
        except ResidencyError as e:
            out.append(e)

    thread = threading.Thread(target=work)
    thread.start()

    def result():
        thread.join(60)
        assert out, "still running"
        return out[0]

    return result


# --- prepare and train ----------------------------------------------------------------------------------------------


def test_it_prepares_and_trains(worker, spec):
    prepared = worker.prepare()
    assert prepared.device in {"cpu", "cuda", "mps"}
    assert prepared.d == ZERO.size == sum(int(np.prod(shape)) for shape in (e.shape for e in prepared.layout))
    delta, trained = worker.train(tiny_round(), ZERO)
    assert delta.dtype == np.float32
    assert delta.any()
    assert set(trained.conformance) == {
        "noise_variance", "clip_norm", "batch_size", "batch_variation", "batch_overlap", "step_correlation",
        "noise_repetition", "release", "record_independence", "sum_error", "fresh_stream", "fresh_noise",
        "fresh_sampling",
    }  # fmt: skip
    assert all(trained.conformance.values())
    assert trained.tv_error_femto >= 1
    again, other = worker.train(tiny_round(attempt=2), ZERO)
    assert not np.allclose(again, delta), "the same round with fresh randomness"
    for name, some in trained.marks.items():
        assert some
        assert not {*some} & {*other.marks[name]}


def test_an_error_of_the_task_comes_back_as_itself(worker, spec, warm):
    with pytest.raises(InputError, match="RSD-4501"):
        worker.train(tiny_round(), np.zeros(ZERO.size + 1, np.float32))
    broken = spec.model_copy(update={"table": "/nowhere/table.csv", "table_sha256": "0" * 64})
    with pytest.raises(InputError) as caught:
        TrainingWorker(broken, warm, 4096, 60, 60).prepare()
    assert caught.value.code == "RSD-2300"
    assert caught.value.next


def test_what_is_not_prepared_for_exactly_this_work_is_prepared_before_training(worker, spec, warm, tmp_path):
    other = spec.model_copy(update={"excluded": (0, 3), "cache_dir": str(tmp_path / "cache")})
    assert find_prepared(other) is None
    delta, _ = TrainingWorker(other, warm, 4096, 60, 60).train(tiny_round(), ZERO)
    assert delta.any()
    assert find_prepared(other) is not None
    assert find_prepared(other.model_copy(update={"excluded": (0,)})) is None


def test_a_task_that_trains_loads_no_pandas(warm):
    seen = run(warm, "look")
    assert seen["torch_was_there"]
    assert not seen["pandas"]


def test_a_withdrawal_ends_the_attempt(worker, spec, warm, tmp_path):
    stop = tmp_path / "stop"
    one = spec.model_copy(update={"stop_file": str(stop), "stop_mark": stop_mark(str(stop))})
    held = TrainingWorker(one, warm, 4096, 60, 60)
    held.train(tiny_round(), ZERO)  # nobody was withdrawn
    result = in_background(lambda: held.train(tiny_round(steps=10_000), ZERO))
    wait(lambda: children(warm.pid), "a child")
    stop.write_text("1")
    failed = result()
    assert isinstance(failed, RunFailed)
    assert failed.code == "RSD-4620"
    with pytest.raises(RunFailed, match="RSD-4620"):
        held.prepare()


# --- limits -----------------------------------------------------------------------------------------------------------


def test_a_task_is_bounded(warm):
    seen = run(warm, "look", Limits(memory_mib=3000, cpu_s=77, open_files=99))
    assert seen["core"] == [0, 0]
    assert seen["files"] == [99, 99]
    assert seen["cpu"] == [77, 82]
    assert seen["no_new_privileges"] == "1"
    assert seen["oom"] == "1000"
    assert seen["descriptors"] <= 8, "nothing of the agent or the warm process is open"
    assert seen["cuda"] is False
    if isolation()["memory_limit"]:
        assert seen["data"] == [3000 << 20, 3000 << 20]


@pytest.mark.skipif(not isolation()["network_namespace"], reason="this system grants no network namespace")
def test_a_task_reaches_no_socket_of_the_loopback(warm):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            server.accept()[0].close()
        assert run(warm, "connect", port=port)["errno"] != 0
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.skipif(not isolation()["memory_limit"], reason="no bound on memory beside a GPU")
@pytest.mark.parametrize("by", ["torch", "python"])
def test_a_task_that_eats_memory_is_a_known_out_of_memory(warm, by):
    run(warm, "nothing")
    before = warm.pid
    with pytest.raises(EnvironmentFault) as fault:
        run(warm, "eat", Limits(memory_mib=1500, cpu_s=600), by=by)
    assert fault.value.code == "RSD-4513"
    assert run(warm, "nothing") == {}
    assert warm.pid == before


def test_a_deadline_ends_the_task_and_nothing_else(warm):
    run(warm, "nothing")
    before = warm.pid
    with pytest.raises(EnvironmentFault) as fault:
        run(warm, "hang", deadline_s=0.3)
    assert fault.value.code == "RSD-4515"
    assert children(before) == []
    assert run(warm, "nothing") == {}
    assert warm.pid == before


def test_the_limit_of_processor_time_is_a_deadline_too(warm):
    with pytest.raises(EnvironmentFault) as fault:
        run(warm, "spin", Limits(memory_mib=4096, cpu_s=1))
    assert fault.value.code == "RSD-4515"
    assert run(warm, "nothing") == {}


def test_what_the_system_killed_for_want_of_memory_is_known(warm, monkeypatch):
    run(warm, "nothing")
    counts = iter((3, 4))
    monkeypatch.setattr("client.warm.oom_kills", lambda: next(counts))
    result = in_background(lambda: run(warm, "hang"))
    (child,) = wait(lambda: children(warm.pid), "a child")
    os.kill(child, signal.SIGKILL)
    assert result().code == "RSD-4513"


# --- deaths -----------------------------------------------------------------------------------------------------------


def test_a_task_killed_while_it_trains_costs_its_attempt_only(worker, warm):
    worker.prepare()
    before = warm.pid
    result = in_background(lambda: worker.train(tiny_round(steps=10_000), ZERO))
    (child,) = wait(lambda: children(warm.pid), "a child")
    os.kill(child, signal.SIGKILL)
    failed = result()
    assert (failed.code, failed.found) == ("RSD-4510", "signal SIGKILL")
    delta, trained = worker.train(tiny_round(attempt=2), ZERO)
    assert delta.any()
    assert trained.conformance["fresh_stream"]
    assert warm.pid == before


def test_a_task_that_ends_without_an_answer_is_a_dead_one(warm):
    with pytest.raises(EnvironmentFault) as fault:
        run(warm, "leave")
    assert (fault.value.code, fault.value.found) == ("RSD-4510", "exit status 7")
    assert run(warm, "nothing") == {}


def test_a_warm_process_killed_at_work_takes_its_task_along_and_is_started_again(light):
    run(light, "nothing")
    before = light.pid
    result = in_background(lambda: run(light, "hang"))
    (child,) = wait(lambda: children(before), "a child")
    os.kill(before, signal.SIGKILL)
    failed = result()
    assert failed.code == "RSD-4510"
    wait(lambda: not alive(child), "the child's end")
    assert light.pid is None
    assert run(light, "nothing") == {}, "a new one"
    idle = light.pid
    os.kill(idle, signal.SIGKILL)
    wait(lambda: not alive(idle), "the idle one's end")
    assert run(light, "nothing") == {}, "killed when idle it costs nothing"
    assert light.pid not in {None, before, idle}


def test_nobody_is_left_when_the_agent_is_killed():
    code = (
        f"from client.limits import Limits; from client.warm import Warm; w = Warm({LIGHT}); w.start();"
        "print(w.pid, flush=True); w.run({'do': 'hang'}, None, Limits(memory_mib=4096, cpu_s=600), 600)"
    )
    agent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    with agent:
        warm = int(agent.stdout.readline())
        (child,) = wait(lambda: children(warm), "a child")
        os.kill(warm, signal.SIGTERM)  # only the agent ends it
        os.kill(agent.pid, signal.SIGKILL)
        wait(lambda: not alive(warm) and not alive(child), "the end of both", 10)


def test_closing_from_another_thread_ends_the_task(light):
    run(light, "nothing")
    result = in_background(lambda: run(light, "hang"))
    wait(lambda: children(light.pid), "a child")
    light.close()
    assert result().code == "RSD-4510"


def test_a_warm_process_that_cannot_start_is_told_apart():
    broken = Warm(("-m", "client.no_such_module"))
    with pytest.raises(EnvironmentFault) as fault:
        run(broken, "nothing")
    assert (fault.value.code, fault.value.found) == ("RSD-4603", "ended 2 times")
    assert broken.pid is None
    incomplete = Warm(BROKEN)
    with pytest.raises(EnvironmentFault) as fault:
        run(incomplete, "nothing")
    assert (fault.value.code, fault.value.found) == ("RSD-4603", "ModuleNotFoundError torch")
    assert incomplete.pid is None


WARMED = """
import sys, threading, torch
def asked(*_): raise SystemExit("CUDA was asked for")
for name in ("is_available", "device_count", "init", "_lazy_init", "get_device_name", "current_device"):
    setattr(torch.cuda, name, asked)
from client import zygote
zygote.warm_up()
assert not torch.cuda.is_initialized()
print(*sorted({m.partition(".")[0] for m in sys.modules} & {"pandas", "pyarrow"}), flush=True)
def refused():
    try: zygote.warm_up()
    except Exception as e: return e.code, e.found
torch.cuda.is_initialized = lambda: True
assert refused() == ("RSD-4603", "1 threads, CUDA on"), refused()
torch.cuda.is_initialized = lambda: False
threading.Thread(target=threading.Event().wait, daemon=True).start()
assert refused() == ("RSD-4603", "2 threads, CUDA off"), refused()
import os; os._exit(0)
"""


@pytest.fixture(scope="module")
def warmed():
    """How that program ended: it warms up in an interpreter of its own."""
    return subprocess.run(
        [sys.executable, "-c", WARMED], env=worker_environment(dict(os.environ), 1), capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip


def test_the_warm_process_touches_no_cuda_and_has_one_thread(warmed):
    """An import that asks for a device, or leaves a thread behind, must show."""
    assert warmed.returncode == 0, warmed.stderr


def test_the_warm_process_imports_no_table_library(warmed):
    """pandas brings pyarrow, whose allocators start threads: no agent could fork (RSD-4603)."""
    assert warmed.stdout == "\n", warmed.stderr


# --- randomness, environment, frames ----------------------------------------------------------------------------------


def test_two_children_of_one_warm_process_share_no_randomness(warm):
    one, two, three = (run(warm, "draw") for _ in range(3))
    for name in ("mark", "words", "random", "numpy", "torch"):
        drawn = [json.dumps(r[name]) for r in (one, two, three)]
        assert len(set(drawn)) == 3, name


def test_what_was_drawn_before_is_refused(spec, warm, tmp_path):
    """A task that answers what an earlier one drew, also after a restart of the agent."""
    answers = []

    class Replay(Warm):
        def run(self, *request):
            answers.append(answers[0] if answers else warm.run(*request))
            return answers[-1]

    for again in (False, True):
        drawn = Fingerprints(tmp_path / "drawn", lambda: b"k" * 32)
        replaying = TrainingWorker(spec, Replay(), 4096, 60, 60, drawn=drawn)
        if again:
            with pytest.raises(RunFailed, match="RSD-4500") as caught:
                replaying.train(tiny_round(), ZERO)
            assert caught.value.found == "fresh_noise, fresh_sampling, fresh_stream"
        else:
            replaying.train(tiny_round(), ZERO)


def test_the_child_sees_no_variable_that_is_not_named():
    outer = {"PATH": "/bin", "FLWR_TOKEN": "x", "RESIDENCY_SEED": "1", "HF_TOKEN": "x", "CUDA_VISIBLE_DEVICES": "0"}
    inner = worker_environment(outer, 3)
    assert {"FLWR_TOKEN", "RESIDENCY_SEED", "HF_TOKEN"}.isdisjoint(inner)
    assert inner["HF_HUB_OFFLINE"] == inner["TRANSFORMERS_OFFLINE"] == "1"
    assert inner["OMP_NUM_THREADS"] == "3"
    assert inner["CUDA_VISIBLE_DEVICES"] == "0"


def test_the_agent_imports_no_torch():
    code = (
        "import sys, client.app, client.node, client.session, client.site, client.workbench, client.limits;"
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'pandas', 'opacus', 'scipy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_task_refuses_what_it_does_not_know(warm, spec):
    round_, work = tiny_round().model_dump(mode="json"), spec.model_dump(mode="json")
    for header, code in (
        ({"do": "eval"}, "RSD-4511"),
        ({"do": "train", "work": {**work, "cache_dir": "/nowhere"}, "spec": round_}, "RSD-4512"),
        ({"do": "train", "work": work, "spec": {**round_, "seed": 1}}, "RSD-4502"),
        ({"do": "train", "work": work, "spec": {**round_, "noise_multiplier_micro": 0}}, "RSD-4502"),
        ({"do": "prepare", "work": {}}, "RSD-4502"),
    ):
        with pytest.raises(ResidencyError) as refused:
            warm.run(header, np.zeros(3, np.float32), AMPLE, 60)
        assert refused.value.code == code


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
        with pytest.raises(TimeoutError):
            framing.receive(right, time.monotonic() + 0.01)
        left.close()
        with pytest.raises(framing.Closed):
            framing.receive(right)


def test_a_frame_that_nobody_reads_meets_its_deadline():
    left, right = socket.socketpair()
    with left, right, pytest.raises(TimeoutError):
        framing.send(left, {}, np.zeros(1 << 22, np.float32), time.monotonic() + 0.05)

"""Small parts of the demo: the folder, the attack's bundle, the clean room, the tail, the constants."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from client.bundle_guard import check_bundle
from compliance.errors import InputError, Refused
from demo.attacks import EVIL_FILE, evil_bundle
from demo.calibrate import MIN_DEVIATION, constants
from demo.command import refuse_filled
from demo.crew import Crew
from demo.federation import Tail
from demo.governance import free_ports
from demo.measuring import average
from demo.memory import MemoryWatch
from demo.recipe import FULL, PLAIN
from server.bundle_build import build_bundle


def test_a_filled_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    refuse_filled(tmp_path)
    refuse_filled(tmp_path / "new")
    (tmp_path / "mine").write_text("x")
    for path in (tmp_path, tmp_path / "mine"):
        with pytest.raises(InputError, match="RSD-8900") as e:
            refuse_filled(path)
        assert "rm " not in e.value.next  # what is there is somebody's
    assert (tmp_path / "mine").read_text() == "x"


def test_the_command_refuses_it_with_one_error(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    done = subprocess.run(
        [sys.executable, "-m", "residency", "demo", "--out", str(tmp_path), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert '"RSD-8900"' in done.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine"]


def test_a_site_refuses_the_attacks_bundle_for_its_code(tmp_path: Path) -> None:
    data = evil_bundle(tmp_path / "evil.zip").read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    with pytest.raises(Refused, match="RSD-1103") as e:
        check_bundle(digest, data, frozenset({digest}))
    assert EVIL_FILE in e.value.found
    good, good_digest = build_bundle()
    assert check_bundle(good_digest, good, frozenset({good_digest})).sha256 == good_digest


def test_the_clean_room_has_no_training_library() -> None:
    for name in ("torch", "flwr"):
        code = f"import sys; from demo import blocked; sys.meta_path.insert(0, blocked.Blocker()); import {name}"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "(blocked)" in done.stderr


def test_the_clean_room_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "demo.blocked", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "verify" in done.stdout


def test_the_tail_leaves_half_a_line_for_later(tmp_path: Path) -> None:
    path, tail = tmp_path / "events.jsonl", Tail()
    assert list(tail.new(path)) == []
    path.write_text('{"event":"a"}\n{"event":')
    assert [e["event"] for e in tail.new(path)] == ["a"]
    with path.open("a") as f:
        f.write('"b"}\n')
    assert [e["event"] for e in tail.new(path)] == ["b"]
    assert list(tail.new(path)) == []


def test_constants_are_micro_and_never_zero() -> None:
    told = constants(torch.tensor([[1.0, 5.0], [3.0, 5.0]]), "public")
    assert told["mean_micro"] == [2_000_000, 5_000_000]
    assert told["deviation_micro"] == [round(2**0.5 * 1e6), round(MIN_DEVIATION * 1e6)]


def test_the_released_mean_is_taken_in_double() -> None:
    flats = [np.array([1.0, 2.0], np.float32), np.array([2.0, 4.0], np.float32)]
    assert average(flats).dtype == np.float32
    assert average(flats).tolist() == [1.5, 3.0]


def test_free_ports_are_free_and_different() -> None:
    ports = free_ports(3)
    assert len(set(ports)) == 3
    assert all(1024 < port < 65536 for port in ports)


@pytest.mark.parametrize("recipe", [PLAIN, FULL])
def test_recipes_are_within_bounds(recipe: object) -> None:
    assert recipe.average_last_rounds <= recipe.rounds  # type: ignore[attr-defined]
    assert recipe.batch(70) >= 1  # type: ignore[attr-defined]


def test_memory_counts_children(tmp_path: Path) -> None:
    with Crew(tmp_path) as crew, MemoryWatch(interval_s=0.05) as memory:
        before = memory.peak_mib
        code = "b = bytearray(b'x') * (200 << 20); print('up', flush=True); import time; time.sleep(20)"
        _, out, _ = crew.start("big", ["-c", code])
        while "up" not in out.read_text():
            time.sleep(0.05)
        time.sleep(1.0)
    assert memory.peak_mib > before + 150

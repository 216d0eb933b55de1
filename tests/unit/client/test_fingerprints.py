"""What a site drew before is known again, over restarts, up to a bound; the file tells nothing without the key."""

from __future__ import annotations

import hashlib

import pytest

from client import fingerprints
from client.fingerprints import Fingerprints
from compliance.errors import EnvironmentFault

KEY = b"k" * 32


def at(path, key=KEY):
    return Fingerprints(path, lambda: key)


def test_a_mark_is_fresh_once_for_its_check_also_after_a_restart(tmp_path):
    file = tmp_path / "drawn.marks"
    assert at(file).judge({"fresh_noise": ("a", "b"), "fresh_stream": ("c",)}) == {
        "fresh_noise": True, "fresh_stream": True,
    }  # fmt: skip
    one = at(file)
    assert one.judge({"fresh_noise": ("d", "b"), "fresh_stream": ("a",)}) == {
        "fresh_noise": False, "fresh_stream": True,
    }  # fmt: skip
    assert at(file).judge({"fresh_noise": ("d",)}) == {"fresh_noise": False}, "what a failed round drew is kept as well"
    assert one.judge({"fresh_noise": ("d",)}) == {"fresh_noise": False}
    assert one.judge({"fresh_noise": ()}) == {"fresh_noise": True}
    assert one.judge({"fresh_noise": ("e", "e")}) == {"fresh_noise": False}


def test_the_file_is_keyed_private_and_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprints, "_MOST", 3)
    file = tmp_path / "drawn.marks"
    for mark in "abcde":
        assert at(file).judge({"fresh_noise": (mark,)})["fresh_noise"]
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(file.read_bytes()) == 3 * 12
    assert hashlib.sha256(b"e").digest()[:12] not in file.read_bytes()
    assert not at(file).judge({"fresh_noise": ("c",)})["fresh_noise"], "the last three are held"
    assert at(file).judge({"fresh_noise": ("a",)})["fresh_noise"], "the oldest went"
    assert at(file, b"x" * 32).judge({"fresh_noise": ("e",)})["fresh_noise"], "another key, another site"


def test_a_damaged_file_is_told(tmp_path):
    (tmp_path / "drawn.marks").write_bytes(b"x" * 13)
    with pytest.raises(EnvironmentFault, match="RSD-4503"):
        at(tmp_path / "drawn.marks").judge({"fresh_noise": ("a",)})

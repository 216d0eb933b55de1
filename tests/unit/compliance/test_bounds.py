"""Bounds on what is read, and the one set of bounds on noise and steps."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from client.training.lattice import MAX_SIGMA, MIN_SIGMA, Lattice
from client.work import RoundSpec
from compliance.canonical import MOST_NESTED, parse_json
from compliance.errors import InputError
from compliance.files import read_bytes
from compliance.privacy.events import LEAST_NOISE_MICRO, MOST_NOISE_MICRO, MOST_STEPS, PrivacyEvent
from compliance.study import Study
from compliance.study_event import study_event
from compliance.study_file import check_file
from compliance.validation import try_model
from tests.desk import full_study, study_raw, write_yaml

OPENING = st.sampled_from(["[", '{"a":'])


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def refused(data: bytes) -> InputError:
    with pytest.raises(InputError) as e:
        parse_json(data, "it")
    assert e.value.code == "RSD-2002"
    return e.value


def test_json_is_nested_at_most_64_deep() -> None:
    assert parse_json(nested(MOST_NESTED), "it")
    error = refused(nested(MOST_NESTED + 1))
    assert (error.found, error.limit) == ("65 levels", "64 levels")
    refused(b'{"a":' * 65 + b"1" + b"}" * 65)
    refused(nested(200_000))


@given(st.lists(OPENING, min_size=1, max_size=120), st.text(max_size=20))
def test_the_depth_is_that_of_the_parsed_value(opening: list[str], text: str) -> None:
    closing = "".join("]" if o == "[" else "}" for o in reversed(opening))
    data = ("".join(opening) + json.dumps("[{" + text + "]}") + closing).encode()
    if len(opening) > MOST_NESTED:
        assert f"found {len(opening)} levels" in str(refused(data))
        return
    value = parse_json(data, "it")
    for _ in opening:
        value = value[0] if isinstance(value, list) else value["a"]
    assert value == "[{" + text + "]}"


def test_brackets_in_a_text_are_no_depth() -> None:
    many = "[{" * 500
    assert parse_json(json.dumps({"a": [many, f'"{many}', f"\\{many}"]}).encode(), "it") == {
        "a": [many, f'"{many}', f"\\{many}"]
    }


def test_the_depth_is_found_in_linear_time() -> None:
    start = time.process_time()
    for data in (b'"\\' * 1_000_000, b'"' * 1_000_001, b'["' * 1_000_000, b"[" * 2_000_000):
        refused(data)
    assert time.process_time() - start < 10


def test_half_a_character_is_no_text() -> None:
    assert parse_json(b'"\\ud83d\\ude00"', "it") == "\U0001f600"
    assert "surrogates" in refused(b'{"a":"\\ud83d"}').message


@pytest.mark.timeout(20)
def test_only_plain_files_of_bounded_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    for name in ("fifo", "zero", "folder", "missing", "a\0b", "n" * 300):
        with pytest.raises(InputError) as e:
            read_bytes(tmp_path / name, "the file")
        assert e.value.code == "RSD-2005"
    (tmp_path / "link").symlink_to(tmp_path / "five")
    (tmp_path / "five").write_bytes(b"12345")
    assert read_bytes(tmp_path / "link", "the file", most=5) == b"12345"
    with pytest.raises(InputError, match="more than 4 bytes"):
        read_bytes(tmp_path / "five", "the file", most=4)
    with (tmp_path / "large").open("wb") as f:
        f.truncate((64 << 20) + 1)
    with pytest.raises(InputError, match="more than 67108864 bytes"):
        read_bytes(tmp_path / "large", "the file")


def test_a_document_with_an_impossible_name_is_a_mistake(tmp_path: Path) -> None:
    raw = study_raw()
    raw["documents"][0]["file"] = "a\0b"
    mistakes, _ = check_file(write_yaml(tmp_path / "study.yaml", raw))
    assert [m.field for m in mistakes if "file" in m.field] == ["documents[0].file"]


def of(sigma_micro: int, steps: int, rounds: int, spare: int) -> dict[str, Any]:
    raw = full_study()
    raw["training"] |= {"steps": steps, "rounds": rounds}
    raw["privacy"] |= {"spare_rounds": spare}
    raw["sites"] = [{**s, "noise_multiplier_micro": sigma_micro} for s in raw["sites"]]
    return raw


SIGMAS = st.one_of(
    st.integers(1, 2 * 10**9),
    st.sampled_from([LEAST_NOISE_MICRO - 1, LEAST_NOISE_MICRO, MOST_NOISE_MICRO, MOST_NOISE_MICRO + 1]),
)


@given(SIGMAS, st.integers(1, 10_000), st.integers(1, 1000), st.integers(0, 100))
def test_what_the_study_allows_event_lattice_and_worker_allow(sigma: int, steps: int, rounds: int, spare: int) -> None:
    mistakes, study = try_model(Study, of(sigma, steps, rounds, spare))
    fits = LEAST_NOISE_MICRO <= sigma <= MOST_NOISE_MICRO and steps * (rounds + spare) <= MOST_STEPS
    assert (study is not None) == fits == (not mistakes)
    if study is None:
        return
    terms = study.sites[0]
    assert study_event(study, terms, study.charged_rounds).steps == steps * (rounds + spare)
    Lattice(study.privacy.clip_micro / 1e6, 4000, sigma / 1e6)
    RoundSpec(
        round=rounds,
        attempt=1 + spare,
        steps=steps,
        sample_numerator=terms.batch,
        sample_denominator=terms.records_public,
        expected_batch=terms.batch,
        clip_micro=study.privacy.clip_micro,
        noise_multiplier_micro=sigma,
        physical_batch=study.training.physical_batch,
        head_rate_milli=study.training.head_rate_milli,
        adapter_rate_milli=study.training.adapter_rate_milli,
    )


def test_the_bounds_are_the_same_everywhere() -> None:
    assert MIN_SIGMA * 10**6 <= LEAST_NOISE_MICRO
    assert MAX_SIGMA * 10**6 == MOST_NOISE_MICRO
    assert (LEAST_NOISE_MICRO, MOST_NOISE_MICRO, MOST_STEPS) == (200_000, 100_000_000, 100_000)
    event = {"sample_numerator": 1, "sample_denominator": 4, "unit": "record"}
    for sigma, steps in ((199_999, 1), (100_000_001, 1), (10**6, 100_001)):
        with pytest.raises(ValidationError):
            PrivacyEvent(noise_multiplier_micro=sigma, steps=steps, **event)  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize("sigma", [199_999, 100_000_001, 10**9])
def test_noise_beyond_the_lattice_is_a_located_mistake(tmp_path: Path, sigma: int) -> None:
    raw = study_raw()
    raw["sites"][1]["noise_multiplier_micro"] = sigma
    mistakes, study = check_file(write_yaml(tmp_path / "study.yaml", raw))
    assert study is None
    assert [(m.field, m.line is not None) for m in mistakes] == [("sites[1].noise_multiplier_micro", True)]


def test_steps_beyond_the_event_are_a_located_mistake(tmp_path: Path) -> None:
    raw = study_raw()
    raw["training"] |= {"steps": 1000, "rounds": 100}  # 100 rounds and a spare one
    (mistake,), study = check_file(write_yaml(tmp_path / "study.yaml", raw))
    assert study is None
    assert (mistake.field, mistake.line is not None) == ("training.steps", True)
    assert "101000" in mistake.message
    assert "100000" in mistake.message


@pytest.mark.parametrize(("steps", "epsilon_milli"), [(1, 10), (10_000, 1)])
def test_noise_that_no_lattice_has_is_never_filled_in(tmp_path: Path, steps: int, epsilon_milli: int) -> None:
    """An eps that needs a sigma above 100 is a mistake of the eps, not a study that nobody can open."""
    raw = study_raw()
    raw["training"] |= {"steps": steps, "rounds": 9}
    raw["sites"][0] |= {"batch": 1000, "epsilon_milli": epsilon_milli}
    for site in raw["sites"][1:]:
        site |= {"batch": 1, "noise_multiplier_micro": 50_000_000}
    mistakes, study = check_file(write_yaml(tmp_path / "study.yaml", raw))
    assert study is None
    assert [m.field for m in mistakes] == ["sites[0].epsilon_milli"]
    assert "up to 100 " in mistakes[0].message

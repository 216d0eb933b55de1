"""Whatever an operator puts into a bundle and signs: the answer is a failed step, never a traceback."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compliance.canonical import canonical
from compliance.identity import parse_envelope, seal
from compliance.release import manifest
from tests.world import world

JSON_FILES = (
    "study.json", "layout.json", "privacy.json", "rosters/", "answers/", "evidence/", "bom.cdx.json", "model/model.sig",
)  # fmt: skip
JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**53) + 1, 2**53 - 1), st.text(max_size=8), st.just([]), st.just({}),
    st.just("0" * 64), st.just("9999-12-31T23:59:59Z"), st.lists(st.integers(0, 3), max_size=3),
)  # fmt: skip


@cache
def honest() -> dict[str, bytes]:
    return world().bundle


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path to a value inside JSON."""
    found = [at] if at else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*at, key))
    return found


def put(value: Any, at: tuple[Any, ...], junk: Any, *, remove: bool) -> None:
    for key in at[:-1]:
        value = value[key]
    if remove:
        del value[at[-1]]
    else:
        value[at[-1]] = junk


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_one_changed_field_in_a_resigned_bundle_never_crashes_the_verifier(data: st.DataObject) -> None:
    made, files = world(), dict(honest())
    path = data.draw(st.sampled_from([p for p in sorted(files) if p.startswith(JSON_FILES)]))
    record = json.loads(files[path])
    signed = "payloadType" in record
    value = json.loads(parse_envelope(files[path], path).payload) if signed else record
    at = data.draw(st.sampled_from(places(value)))
    put(value, at, data.draw(JUNK), remove=data.draw(st.booleans()))
    if not signed:
        files[path] = canonical(value) + b"\n"
    elif isinstance(value.get("schema"), str):
        files[path] = seal(value, *made.keys.values()).encode() + b"\n"
    else:
        return
    report = made.verify(made.resigned(files))
    assert report.error is None or report.error.exit_code == 1
    if report.error is None:  # nothing was changed, or a field that is only reported
        assert files[path] == honest()[path] or path.startswith(("rosters/", "study", "answers/", "evidence/"))


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["study", "trust", "run", "created", "files"]), JUNK)
def test_any_manifest_that_the_operator_signs(field: str, junk: Any) -> None:
    made, files = world(), dict(honest())
    statement = json.loads(parse_envelope(files[manifest.PATH], "manifest").payload) | {field: junk}
    files[manifest.PATH] = seal(statement, made.operator).encode() + b"\n"
    report = made.verify(files)
    assert report.error is not None
    assert report.error.exit_code == 1


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(p for p in world().bundle if p != manifest.PATH)), st.binary(max_size=200))
def test_any_bytes_in_place_of_a_file(path: str, junk: bytes) -> None:
    report = world().verify(world().resigned({**honest(), path: junk}))
    assert report.error is not None
    assert report.error.exit_code == 1

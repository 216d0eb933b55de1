"""Whatever single value of a dossier is changed, dropped or doubled: verification refuses it and does not crash."""

from __future__ import annotations

from functools import cache
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from compliance.canonical import canonical, parse_canonical
from tests.dossiers import dossier, failed, verdict

JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(0, 60), st.text(max_size=4), st.just([]), st.just({}), st.just("0" * 64),
    st.just("2026-11-22T10:00:00Z"), st.just("counted"), st.just("evidence shown"),
)  # fmt: skip


@cache
def honest() -> bytes:
    return dossier("gdpr", "site-a").encode()


@st.composite
def edits(draw: st.DrawFn) -> bytes:
    """The dossier with one change: a walk from the top to some value, then another value, none, or twice."""
    raw = parse_canonical(honest().rstrip(b"\n"), "dossier")
    inside: Any = raw
    while True:
        keys = sorted(inside) if isinstance(inside, dict) else list(range(len(inside)))
        key = draw(st.sampled_from(keys))
        value = inside[key]
        if not isinstance(value, dict | list) or not value or draw(st.integers(0, 9)) == 0:
            break
        inside = value
    act = draw(st.sampled_from(("change", "edit", "drop", "double")))
    if act == "drop":
        del inside[key]
    elif act == "double" and isinstance(inside, list):
        inside.insert(key, value)
    elif act == "edit" and isinstance(value, str) and value:
        at = draw(st.integers(0, len(value) - 1))
        inside[key] = value[:at] + ("A" if value[at] != "A" else "B") + value[at + 1 :]
    else:
        inside[key] = draw(JUNK)
    return canonical(raw) + b"\n"


@given(edits())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_any_single_change_is_refused(data: bytes) -> None:
    assume(data != honest())
    assert failed(verdict(data))[0] > 0


def test_unchanged_it_is_sound() -> None:
    assert failed(verdict(honest())) == (0, "")

"""`is_canonical` takes exactly what `parse_canonical` takes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compliance.canonical import canonical, is_canonical, parse_canonical
from compliance.errors import InputError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
ODD = [
    b"",
    b" {}",
    b"{} ",
    b'{"a":1,"a":1}',
    b'{"b":1,"a":1}',
    b'{"a": 1}',
    b'{"a":1.5}',
    b'{"a":1.0}',
    b'{"a":1e3}',
    b'{"a":-0}',
    b'{"a":01}',
    b'{"a":NaN}',
    b'{"a":Infinity}',
    b'{"a":9007199254740992}',
    b'{"a":-9007199254740991}',
    b'{"a":"\\u0041"}',
    b'{"a":"\\u001f"}',
    b'{"a":"\\n"}',
    b'{"a":"\\/"}',
    b'{"a":"\\ud800"}',
    b'{"a":"\x7f"}',
    '{"é":"ü"}'.encode(),
    '{"\U0001f600":1,"\ufb33":2}'.encode(),
    '{"\ufb33":1,"\U0001f600":2}'.encode(),
    b"[" * 64 + b"]" * 64,
    b"[" * 65 + b"]" * 65,
    b'{"a":"' + b"[" * 70 + b'"}',
    b"\xff",
    b'"a"',
    b"[1,2",
    b"1.5",
    b"12345678901234567890",
    b"[-1.5]",
    b"[1234567890123456]",
]


def _taken(data: bytes) -> bool:
    try:
        parse_canonical(data, "it")
    except InputError:
        return False
    return True


@pytest.mark.parametrize("data", ODD, ids=range(len(ODD)))
def test_odd_forms(data: bytes) -> None:
    assert is_canonical(data) == _taken(data)


@settings(max_examples=200, deadline=None)
@given(value=VALUES, other=st.sampled_from(["indent", "ascii", "order", "same"]))
def test_any_value_in_any_form(value: Any, other: str) -> None:
    forms = {
        "indent": json.dumps(value, indent=1).encode(),
        "ascii": json.dumps(value, separators=(",", ":"), sort_keys=True).encode(),
        "order": json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace"),
        "same": canonical(value),
    }
    assert is_canonical(forms[other]) == _taken(forms[other])
    assert is_canonical(forms["same"])

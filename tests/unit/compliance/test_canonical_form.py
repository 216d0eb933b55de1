"""`parse_canonical` takes exactly what is its own form by the library of RFC 8785, whichever way it reads it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from compliance.canonical import canonical, is_canonical, parse_canonical, parse_json
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
    b"[9007199254740993,1.5]",
    b'{"a":{"c":1,"b":2}}',
    b'{"a":"\xed\xa0\x80"}',
    b'{"a":"\\u2028"}',
    '{"a":"\u2028\x7f"}'.encode(),
    b'{"a":"\\b\\f\\r\\t\\"\\\\"}',
    b'{"a":"\\u001F"}',
    b'{"a":true,"b":null,"c":[]}',
]


def _expected(data: bytes) -> bool:
    """Strict reading and the library's writing, without any quicker way."""
    try:
        value = parse_json(data, "it")
        return rfc8785.dumps(value) == data and not _floats(value)
    except (InputError, rfc8785.CanonicalizationError):
        return False


def _floats(value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, float) or any(map(_floats, inner))


def _check(data: bytes) -> None:
    expected = _expected(data)
    assert is_canonical(data) == expected
    if expected:
        assert parse_canonical(data, "it") == parse_json(data, "it")
    else:
        with pytest.raises(InputError):
            parse_canonical(data, "it")


@pytest.mark.parametrize("data", ODD, ids=range(len(ODD)))
def test_odd_forms(data: bytes) -> None:
    _check(data)


@settings(max_examples=200, deadline=None)
@given(value=VALUES, other=st.sampled_from(["indent", "ascii", "order", "same"]))
def test_any_value_in_any_form(value: Any, other: str) -> None:
    forms = {
        "indent": json.dumps(value, indent=1).encode(),
        "ascii": json.dumps(value, separators=(",", ":"), sort_keys=True).encode(),
        "order": json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace"),
        "same": canonical(value),
    }
    _check(forms[other])
    assert is_canonical(forms["same"])

"""Canonical JSON against the library of RFC 8785, value by value, and strict reading against what it must refuse."""

from __future__ import annotations

from typing import Any

import pytest
import rfc8785
from hypothesis import example, given, settings
from hypothesis import strategies as st

from compliance.canonical import MOST_NESTED, canonical, parse_canonical, parse_json
from compliance.errors import InputError

# Keys on both sides of the places where UTF-16 code units and code points sort apart, and whatever is escaped.
CHARACTERS = st.sampled_from(
    'aZ09"\\/\b\f\n\r\t\x00\x1f\x7f\u0080é\u2028\u20ac\ud7ff\ue000\ufb33\uffff\U0001f600'
) | st.characters(exclude_categories=["Cs"])
TEXTS = st.text(CHARACTERS, max_size=12)
INTEGERS = st.integers(-(2**53) + 1, 2**53 - 1)
LEAVES = st.none() | st.booleans() | INTEGERS | TEXTS
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=6), max_leaves=30
)


@settings(max_examples=400, deadline=None)
@example({"\ufb33": 1, "\U0001f600": 2, "\u20ac": 3, "1": 4, "\u00f6": 5, "\r": 6, "\u0080": 7})  # RFC 8785, 3.2.3
@example({"10": 1, "9": 2, "a": {"B": [], "b": {}}})
@given(VALUES)
def test_the_same_bytes_as_the_library_of_the_standard(value: Any) -> None:
    data = canonical(value)
    assert data == rfc8785.dumps(value)
    assert parse_canonical(data, "a value") == value


@settings(max_examples=200, deadline=None)
@given(VALUES)
def test_a_tuple_is_a_list(value: Any) -> None:
    def tupled(one: Any) -> Any:
        if isinstance(one, dict):
            return {k: tupled(v) for k, v in one.items()}
        return tuple(tupled(v) for v in one) if isinstance(one, list) else one

    assert canonical(tupled(value)) == canonical(value)


@pytest.mark.parametrize(
    "value",
    [
        1.0,
        [{"a": 0.5}],
        2**53,
        -(2**53),
        {"a": [2**70]},
        {1: 2},
        {"a": b"x"},
        "\ud800",
        {"\udfff": 1},
        object(),
        {1, 2},
    ],
    ids=[
        "float",
        "inner float",
        "large",
        "small",
        "huge",
        "key",
        "bytes",
        "surrogate",
        "key surrogate",
        "object",
        "set",
    ],
)
def test_what_has_no_canonical_form(value: Any) -> None:
    with pytest.raises(InputError, match=r"canonical JSON form|is a float"):
        canonical(value)


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1,"a":1}', b'{"b":{"a":1,"a":2}}', b'{"a":NaN}', b'"\\ud800"', b"[1", b"\xff",
        b"[" * (MOST_NESTED + 1) + b"]" * (MOST_NESTED + 1),
    ],
    ids=["twice", "twice inside", "NaN", "surrogate", "cut", "no UTF-8", "deep"],
)  # fmt: skip
def test_what_is_not_read(data: bytes) -> None:
    with pytest.raises(InputError) as refused:
        parse_json(data, "a value")
    assert refused.value.code == "RSD-2002"


def test_brackets_in_texts_are_no_depth() -> None:
    assert parse_json(b'["' + b"[" * 500 + b'"]', "a value") == ["[" * 500]
    assert parse_json(b"[" + b"[],{}," * 500 + b"1]", "a value")[-1] == 1


@pytest.mark.parametrize("data", [b'{"b":1,"a":2}', b"[1, 2]", b'"\\u0061"', b"1.0", b'"\\/"', b"-0"])
def test_another_form_of_the_same_value(data: bytes) -> None:
    with pytest.raises(InputError):
        parse_canonical(data, "a value")

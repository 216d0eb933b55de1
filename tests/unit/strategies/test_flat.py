"""Layouts: one order, one digest, there and back."""

from __future__ import annotations

import numpy as np
import pytest

from compliance.errors import InputError
from strategies.flat import Layout, flat_bytes

LAYOUT = Layout((("head.weight", (2, 3)), ("head.bias", (2,)), ("scale", ())))


def test_split_and_join_are_inverse_and_split_copies_nothing() -> None:
    flat = np.arange(9, dtype="<f4")
    parts = LAYOUT.split(flat)
    assert {k: v.shape for k, v in parts.items()} == {"head.weight": (2, 3), "head.bias": (2,), "scale": ()}
    assert np.shares_memory(parts["head.bias"], flat)
    assert not parts["head.bias"].flags.writeable
    assert LAYOUT.join(parts).tobytes() == flat.tobytes()
    assert LAYOUT.join(dict(reversed(parts.items()))).tobytes() == flat.tobytes()


def test_the_digest_is_fixed_and_sees_everything() -> None:
    assert LAYOUT.sha256 == "913fe50725f677ea59600a5bc712fee4785c84c5f59c16532cac33fa0766bc90"
    assert LAYOUT.sha256 == "bc1" or len(LAYOUT.sha256) == 64
    others = [
        Layout(tuple(reversed(LAYOUT.entries))),
        Layout((("head.weight", (3, 2)), *LAYOUT.entries[1:])),
        Layout((("head.w", (2, 3)), *LAYOUT.entries[1:])),
    ]
    assert len({LAYOUT.sha256, *(o.sha256 for o in others)}) == 4


@pytest.mark.parametrize("entries", [(), (("a", (1,)), ("a", (2,))), (("", (1,)),), (("a", (0,)),), (("a", (2, -1)),)])
def test_impossible_layouts(entries: tuple[tuple[str, tuple[int, ...]], ...]) -> None:
    with pytest.raises(InputError, match="RSD-8401"):
        Layout(entries)


def test_arrays_that_do_not_fit() -> None:
    good = LAYOUT.split(np.zeros(9, "<f4"))
    for flat in (np.zeros(8, "<f4"), np.zeros((9, 1), "<f4"), np.zeros(9, "<f8")):
        with pytest.raises(InputError, match="RSD-8402"):
            LAYOUT.split(flat)
    for parts in ({}, {**good, "more": good["scale"]}, {**good, "scale": np.zeros(1, "<f4")}):
        with pytest.raises(InputError, match="RSD-8402"):
            LAYOUT.join(parts)


def test_flat_bytes_are_little_endian_float32_whatever_the_array() -> None:
    plain = np.arange(6, dtype="<f4")
    expected = plain.tobytes()
    assert bytes(flat_bytes(plain)) == expected
    for other in (plain.astype(">f4"), plain.astype(np.float64), np.repeat(plain, 2)[::2]):
        assert bytes(flat_bytes(other)) == expected
    assert bytes(flat_bytes(np.empty(0, "<f4"))) == b""
    shared = flat_bytes(plain)
    plain[0] = 7
    assert bytes(shared) == plain.tobytes()  # not a copy

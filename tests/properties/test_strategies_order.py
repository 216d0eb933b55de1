"""The mean of a round does not depend on the order of arrival, and is the exact mean but for the last rounding."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.fedavg import Accumulator
from strategies.flat import Layout

VALUES = st.floats(-(2.0**22), 2.0**22, width=32) | st.floats(-(2.0**-10), 2.0**-10, width=32)
SITES = ("a", "b", "c", "d")


@settings(max_examples=200, deadline=None)
@given(
    updates=st.lists(st.lists(VALUES, min_size=3, max_size=3), min_size=2, max_size=4),
    weights=st.lists(st.integers(1, 2**18), min_size=4, max_size=4),
    data=st.data(),
)
def test_every_order_gives_the_same_bytes_and_the_exact_mean(
    updates: list[list[float]], weights: list[int], data: st.DataObject
) -> None:
    arrays = {s: np.array(u, "<f4") for s, u in zip(SITES, updates, strict=False)}
    weight = dict(zip(SITES, weights, strict=True))
    means = []
    for order in (tuple(arrays), data.draw(st.permutations(tuple(arrays)))):
        acc = Accumulator(weight, 3)
        for site in order:
            acc.add(site, arrays[site])
        means.append(acc.mean())
    assert means[0].delta.tobytes() == means[1].delta.tobytes()
    whole = sum(weight[s] for s in arrays)
    for i, found in enumerate(means[0].delta):
        exact = sum(Fraction(float(arrays[s][i])) * weight[s] for s in arrays) / whole
        last = Fraction(float(np.spacing(np.abs(found)))) + Fraction(1, 2**60)
        assert abs(Fraction(float(found)) - exact) <= last


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(1, 4), max_size=3), min_size=1, max_size=5))
def test_split_and_join_are_inverse(shapes: list[list[int]]) -> None:
    layout = Layout(tuple((f"p{i}", tuple(shape)) for i, shape in enumerate(shapes)))
    flat = np.random.default_rng(0).normal(size=layout.size).astype("<f4")
    assert layout.join(layout.split(flat)).tobytes() == flat.tobytes()

"""What does not pass the gate, and how the refusal names it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from compliance.errors import Refused
from strategies.gate import check_update

D = 1000


def good() -> npt.NDArray[np.float32]:
    return np.full(D, 0.1, "<f4")  # norm 3.1623


def spoiled(value: float) -> npt.NDArray[np.float32]:
    array = good()
    array[D - 1] = value
    return array


@pytest.mark.parametrize(
    ("array", "code", "found"),
    [
        (good().astype(np.float64), "RSD-8410", "<f8"),
        (good().astype(">f4"), "RSD-8410", ">f4"),
        (good().astype(np.uint32), "RSD-8410", "<u4"),
        (good()[:-1], "RSD-8411", "[999]"),
        (good().reshape(10, 100), "RSD-8411", "[10, 100]"),
        (spoiled(float("nan")), "RSD-8412", "1 of 1000 values"),
        (spoiled(float("inf")), "RSD-8412", "1 of 1000 values"),
        (spoiled(float("-inf")), "RSD-8412", "1 of 1000 values"),
        (spoiled(4.0), "RSD-8413", "L2 norm 5.09804"),
    ],
)
def test_refused_by_name(array: npt.NDArray[np.generic], code: str, found: str) -> None:
    with pytest.raises(Refused) as refused:
        check_update("charite", array, D, clip=4.0)
    assert (refused.value.code, refused.value.found) == (code, found)
    assert "charite" in refused.value.message
    assert refused.value.limit


def test_a_good_update_passes_untouched() -> None:
    array = good()
    assert np.shares_memory(check_update("charite", array, D, clip=3.163), array)
    assert check_update("charite", array, D) is not None
    assert check_update("charite", np.full(D, 3e38, "<f4"), D).size == D  # float64 sums: no overflow to infinity


@pytest.mark.parametrize("clip", [float("nan"), float("inf"), 0.0, -1.0])
def test_a_limit_that_is_none_lets_nothing_pass(clip: float) -> None:
    with pytest.raises(Refused, match="RSD-8413"):
        check_update("charite", good(), D, clip=clip)


def test_the_norm_of_many_small_values_is_exact() -> None:
    array = np.full(2_000_000, 1e-3, "<f4")
    exact = float(np.float32(1e-3)) * 2_000_000**0.5
    check_update("charite", array, 2_000_000, clip=exact * (1 + 1e-12))
    with pytest.raises(Refused, match="RSD-8413"):
        check_update("charite", array, 2_000_000, clip=exact * (1 - 1e-12))

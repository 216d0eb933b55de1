"""Which rows are one person's: the privacy unit of a study that protects patients."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from client.data.identity import canonical_id
from compliance.errors import InputError


def patient_units(column: Collection[object]) -> npt.NDArray[np.int64]:
    """The unit of each row, int64 (n,): people are numbered from 0 by their first row.

    Two identifiers that the registration takes for one person are one unit here too (`canonical_id`). Raises InputError
    RSD-2414 for a row without an identifier: whose it is decides what is clipped together.
    """
    numbers: dict[str, int] = {}
    units = [numbers.setdefault(canonical_id(value), len(numbers)) for value in column]
    if "" in numbers:
        raise InputError(
            "RSD-2414", "the group column has rows without an identifier", rule="every row belongs to one patient",
            found="empty cells", limit="a value in every row",
            next="export the identifier for every row, and register the extract again",
        )  # fmt: skip
    return np.array(units, dtype=np.int64)

"""The gate before aggregation: an array that is not a finite update of the right shape and size never gets in."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from compliance.errors import Refused
from strategies.flat import FLOAT32, Flat

_BLOCK = 1 << 18


def check_update(site: str, array: npt.NDArray[np.generic], d: int, clip: float | None = None) -> Flat:
    """`array` itself, if it is a finite float32[d] whose L2 norm is at most `clip` (None: any norm).

    Refused, naming the site: RSD-8410 dtype (big-endian included), RSD-8411 shape, RSD-8412 NaN or infinity, RSD-8413
    norm above the limit or a limit that is not a positive number. The norm is summed in float64.
    """
    if array.dtype != FLOAT32:
        raise _refused("RSD-8410", site, "has the wrong number format", array.dtype.str, FLOAT32.str)
    if array.shape != (d,):
        raise _refused("RSD-8411", site, "has the wrong shape", list(array.shape), [d])
    flat: Flat = array.view(FLOAT32)
    bad = d - sum(int(np.isfinite(flat[i : i + _BLOCK]).sum()) for i in range(0, d, _BLOCK))
    if bad:
        raise _refused("RSD-8412", site, "holds NaN or infinity", f"{bad} of {d} values", "finite values")
    if clip is not None:
        norm = math.sqrt(sum(_square(flat[i : i + _BLOCK]) for i in range(0, d, _BLOCK)))
        if not (math.isfinite(clip) and clip > 0 and norm <= clip):
            raise _refused("RSD-8413", site, "is too large", f"L2 norm {norm:.6g}", f"{clip:.6g}")
    return flat


def _square(part: Flat) -> float:
    wide = part.astype(np.float64)
    return float(wide @ wide)


def _refused(code: str, site: str, what: str, found: object, limit: object) -> Refused:
    return Refused(
        code,
        f"the update of site {site} {what}",
        rule="only finite float32 updates of the agreed shape and size are aggregated",
        found=found,
        limit=limit,
        next=f"record {site} as failed in the roster and tell its engineer",
    )

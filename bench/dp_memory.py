"""The memory that one mode's steps add to a process: `python -m bench.dp_memory MODE CASE`, MiB on stdout."""

from __future__ import annotations

import json
import resource
import sys
from typing import Final

import opacus  # noqa: F401 - what is imported before the baseline is taken is not the mode's
import peft as _peft  # noqa: F401 - as above
import psutil
import torch
import transformers.models.bert.modeling_bert  # noqa: F401 - as above

from bench.dp import modes
from bench.dp_cases import Case

_STEPS: Final = 3


def main() -> None:
    """Build the mode, take three steps, print the peak above what the imports took."""
    torch.set_num_threads(1)
    case = Case(*json.loads(sys.argv[2]))
    before = psutil.Process().memory_info().rss
    step = modes(case)[sys.argv[1]]()
    for _ in range(_STEPS):
        step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(round((peak - before) / 2**20, 1))  # noqa: T201 - the answer


if __name__ == "__main__":
    main()

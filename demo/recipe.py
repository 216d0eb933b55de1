"""What the demo's study trains and how: one place for every number, with the reason for it.

Chosen (shared measurements of 2026-11): mean pooling, publicly standardised features of one length, a head that starts
at zero, plain SGD with a large rate at clip 1, large Poisson batches and few steps. Stock recipes (Adam, CLS pooling,
batch 128) end at the majority class at the same epsilon.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MODEL_NAME: Final = "all-MiniLM-L6-v2"
LABELS: Final = ("no_finding", "finding")
LABEL_COLUMN: Final = "target"
LABEL_VALUES: Final = {"-": "no_finding"}
TEMPLATE: Final = "[TSH {TSH} ][T3 {T3} ][TT4 {TT4} ][uptake {T4U} ][FTI {FTI}]"
MAX_TOKENS: Final = 24  # holds all but a handful of the texts whole; each more costs every layer of every row
EPSILON_MILLI: Final = 8000
INVERSE_DELTA: Final = 100_000
LEDGER_LIMIT_MILLI: Final = 12_000


@dataclass(frozen=True)
class Recipe:
    """The training part of the study. Rates in thousandths; `adapters` is False for the head alone.

    Each record is drawn into a batch with probability `sample_milli` / 1000.
    """

    rounds: int
    steps: int
    sample_milli: int
    spare_rounds: int
    head_rate_milli: int
    adapter_rate_milli: int
    physical_batch: int
    average_last_rounds: int
    feature_norm_milli: int = 3_000
    rank: int = 4
    layers: int = 1
    scale_milli: int = 250
    targets: tuple[str, ...] = ("attention.self.value", "output.dense")
    init_seed: int = 1
    adapters: bool = True

    def batch(self, records: int) -> int:
        """The public expected batch of a site that declares `records`."""
        return max(1, records * self.sample_milli // 1000)


PLAIN: Final = Recipe(
    rounds=3,
    steps=4,
    sample_milli=200,
    spare_rounds=1,
    head_rate_milli=14_000,
    adapter_rate_milli=1_000,
    physical_batch=64,
    average_last_rounds=1,
)
FULL: Final = Recipe(
    rounds=16,
    steps=4,
    sample_milli=100,
    spare_rounds=1,
    head_rate_milli=14_000,
    adapter_rate_milli=1_000,
    physical_batch=64,
    average_last_rounds=2,
)


def task() -> dict[str, object]:
    """The `task` part of the study file."""
    return {
        "kind": "sequence_classification",
        "labels": list(LABELS),
        "label_column": LABEL_COLUMN,
        "label_values": dict(LABEL_VALUES),
        "label_other": "finding",
        "template": TEMPLATE,
        "max_tokens": MAX_TOKENS,
    }

"""What `residency bench dp` times: models, what is trained, token counts and batches. Public constants."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any, Final, Literal

QV: Final = ("query", "value")
ALL_LINEAR: Final = ("query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense")
RANK: Final = 8

Model = Literal["bert-4x256", "minilm-l6"]
Trained = Literal["lora-qv", "lora-all", "full"]


@dataclass(frozen=True)
class Shape:
    """A BERT: layers, width, heads, width of the feed-forward part, words."""

    layers: int
    width: int
    heads: int
    inner: int
    words: int = 30_522


SHAPES: Final[dict[Model, Shape]] = {
    "bert-4x256": Shape(4, 256, 4, 1024),
    "minilm-l6": Shape(6, 384, 12, 1536),
}


@dataclass(frozen=True)
class Case:
    """One setting. `layers`: how many of the last layers are trained (all of them: 0). `cached`: the frozen layers'
    output is computed beforehand. `than_all`: also against peft on all layers, not only on these."""

    model: Model
    trained: Trained
    tokens: int
    batch: int
    layers: int = 0
    cached: bool = False

    @property
    def name(self) -> str:
        """A line's beginning in the table."""
        part = f" last {self.layers}{' cached' if self.cached else ''}" if self.layers else ""
        return f"{self.model} {self.trained}{part} T{self.tokens} B{self.batch}"

    @property
    def targets(self) -> tuple[str, ...]:
        """peft's target modules."""
        return QV if self.trained == "lora-qv" else ALL_LINEAR


@dataclass(frozen=True)
class Job:
    """So many steps of a mode of a case, whose memory is to be taken."""

    case: Case
    mode: str
    steps: int

    def written(self) -> list[Any]:
        """As JSON has it."""
        return [astuple(self.case), self.mode, self.steps]

    @classmethod
    def read(cls, written: list[Any]) -> Job:
        """The inverse."""
        case, mode, steps = written
        return cls(Case(*case), mode, steps)


CASES: Final = (
    Case("bert-4x256", "lora-qv", 64, 32),
    Case("bert-4x256", "lora-all", 64, 32),
    Case("bert-4x256", "lora-all", 32, 8),
    Case("bert-4x256", "full", 64, 32),
    Case("minilm-l6", "lora-qv", 64, 32),
    Case("minilm-l6", "lora-all", 64, 32),
    Case("minilm-l6", "lora-all", 64, 32, layers=2),
    Case("minilm-l6", "lora-all", 64, 32, layers=2, cached=True),
)
SHORT: Final = (Case("bert-4x256", "lora-all", 16, 4), Case("bert-4x256", "full", 16, 4))

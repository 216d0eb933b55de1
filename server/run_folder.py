"""The folder of one run at the operator: everything that a release is built from, each file whole or absent."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from compliance.canonical import Json, canonical, parse_canonical
from compliance.clock import now, rfc3339
from compliance.files import read_bytes, write_durably
from compliance.messages import LayoutEntry

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class RunFolder:
    """Paths and writers below one run's folder."""

    path: Path

    @property
    def run(self) -> str:
        """The run's name."""
        return self.path.name

    def study(self) -> bytes:
        """The signed study."""
        return read_bytes(self.path / "study.json", "study")

    def answers(self) -> tuple[str, ...]:
        """All signed answers, as text, in the order of their file names."""
        return tuple(p.read_text(encoding="utf-8").rstrip("\n") for p in sorted((self.path / "answers").glob("*.json")))

    def nodes(self) -> dict[str, int]:
        """Site name -> node number, as registered when the run was started."""
        found: dict[str, str] = parse_canonical(read_bytes(self.path / "nodes.json", "nodes"), "nodes.json")
        return {name: int(number) for name, number in found.items()}

    def write_json(self, name: str, value: Json) -> None:
        """Write one canonical JSON file below the folder."""
        write_durably(self.path / name, canonical(value))

    def write_layout(self, layout: tuple[LayoutEntry, ...]) -> None:
        """What the flat array holds."""
        entries = [e.model_dump(mode="json", exclude_none=True) for e in layout]
        self.write_json("layout.json", {"schema": "residency.layout/1", "entries": entries})

    def write_snapshot(self, round_: int, flat: Vector) -> None:
        """The global model after `round_` (0: before the first)."""
        write_durably(self.path / "snapshots" / f"round-{round_:03d}.f32", flat.astype("<f4").tobytes())

    def write_roster(self, round_: int, envelope: bytes) -> None:
        """A round's roster with all signatures so far."""
        write_durably(self.path / "rosters" / f"round-{round_:03d}.json", envelope + b"\n")

    def write_evidence(self, member: str, text: str) -> None:
        """The evidence of one member's log."""
        write_durably(self.path / "evidence" / f"{member}.json", text.encode("utf-8"))

    def event(self, name: str, **fields: Json) -> None:
        """Append one line to events.jsonl, for whoever watches the run."""
        line = json.dumps({"event": name, "at": rfc3339(now()), **fields}, ensure_ascii=False) + "\n"
        fd = os.open(self.path / "events.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(fd, line.encode("utf-8"))
        finally:
            os.close(fd)

    def result(self) -> dict[str, Json] | None:
        """result.json, None while the run goes on."""
        file = self.path / "result.json"
        if not file.exists():
            return None
        value: dict[str, Json] = parse_canonical(read_bytes(file, "result"), "result.json")
        return value


def active_run(home: Path, study: str) -> RunFolder:
    """The run that was started last for a study."""
    name = read_bytes(home / "studies" / study[:16] / "run", "the study's run").decode("ascii").strip()
    return RunFolder(home / "runs" / name)

"""The studies that an agent's folder holds: which dataset each uses, and which rounds were trained for it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from client.home import AgentHome
from compliance.canonical import parse_canonical
from compliance.files import read_bytes
from compliance.identity import parse_envelope


@dataclass(frozen=True)
class HeldStudy:
    """A study's folder. `name`, `dataset`, `ends` are empty if it was never joined: its message was not kept."""

    digest: str
    folder: Path
    name: str
    dataset: str
    ends: str

    def rounds(self) -> list[Path]:
        """The folders of its rounds, in order."""
        return sorted(p for p in (self.folder / "rounds").glob("[0-9]*") if p.is_dir())


def held_studies(home: AgentHome) -> list[HeldStudy]:
    """All studies of this home, by digest."""
    return [_read(folder) for folder in sorted((home.path / "studies").glob("*")) if folder.is_dir()]


def studies_of(home: AgentHome, datasets: Collection[str]) -> list[HeldStudy]:
    """Those that use one of `datasets`, and those of which it is not known: their join was cut short."""
    return [s for s in held_studies(home) if s.dataset in datasets or not s.dataset]


def _read(folder: Path) -> HeldStudy:
    file = folder / "study.json"
    if not file.exists():
        return HeldStudy(folder.name, folder, "", "", "")
    payload = parse_canonical(parse_envelope(read_bytes(file, "study"), "study").payload, "study")
    return HeldStudy(folder.name, folder, *(str(payload[k]) for k in ("name", "dataset", "ends")))

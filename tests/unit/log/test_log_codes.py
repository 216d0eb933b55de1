"""Every code that the log raises is explained, and none other."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[3] / "compliance"


def _explained(name: str) -> set[str]:
    codes = yaml.safe_load((ROOT / "codes" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert all(set(c) == {"title", "meaning", "next"} for c in codes.values())
    return set(codes)


def _raised(pattern: str, *folders: Path) -> set[str]:
    source = "".join(p.read_text(encoding="utf-8") for folder in folders for p in folder.rglob("*.py"))
    return set(re.findall(rf'"({pattern})"', source))


def test_codes_and_explanations_agree() -> None:
    assert _raised(r"RSD-5(?:0\d|1[78])\d", ROOT / "log") == _explained("log")


def test_codes_of_witnesses_and_alarms_and_their_explanations_agree() -> None:
    folders = (ROOT / "log", ROOT / "commands", ROOT / "law", ROOT.parent / "server")
    assert _raised(r"RSD-51[012]\d", *folders) == _explained("witness")

"""Every code that the log raises is explained, and none other."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[3] / "compliance"


def test_codes_and_explanations_agree() -> None:
    codes = yaml.safe_load((ROOT / "codes" / "log.yaml").read_text(encoding="utf-8"))
    source = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "log").glob("*.py"))
    assert set(re.findall(r'"(RSD-5\d{3})"', source)) == set(codes)
    assert all(set(c) == {"title", "meaning", "next"} for c in codes.values())

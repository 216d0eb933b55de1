"""Small JSON files of the harness. Measurements are decimals, so these are not signed and not canonical."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from compliance.canonical import parse_json
from compliance.files import read_bytes, write_durably


def write_json(path: Path, value: Any) -> None:
    """Write `value` whole."""
    write_durably(path, json.dumps(value, indent=1, ensure_ascii=False, default=str).encode("utf-8") + b"\n")


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read an object that `write_json` wrote."""
    value = parse_json(read_bytes(path, what), str(path))
    return value if isinstance(value, dict) else {}

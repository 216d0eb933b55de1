"""In the place of the coordinator: sends the messages in attacks.json, one by one, and keeps what came back."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict

from server.grid import FastGrid, read_answer
from server.run_folder import active_run

_LIMIT_S = 15.0


def run(grid: FastGrid, home: Path, study: str) -> None:
    """Attack every site of the list, then end the run."""
    folder = active_run(home, study)
    with folder.coordinating():
        nodes = folder.nodes()
        answers = []
        for attack in json.loads((home / "attacks.json").read_text()):
            error = _send(grid._grid, nodes[attack["site"]], attack)
            answers.append({"name": attack["name"], **error})
            folder.event("attacked", attack=attack["name"], code=error["code"])
        (home / "answers.tmp").write_text(json.dumps(answers))
        (home / "answers.tmp").rename(home / "answers.json")
        folder.finish("failed", 0, None)


def _send(grid: Any, node: int, attack: dict[str, Any]) -> dict[str, Any]:
    fields = {"kind": attack["kind"], "json": base64.b64decode(attack["body"]), **attack.get("fields", {})}
    if "values" in attack:  # a small array travels in the body
        fields["flat"] = np.full(attack["values"], 0.0, dtype="<f4").tobytes()
    message = Message(RecordDict({"body": ConfigRecord(fields)}), node, attack["type"], ttl=_LIMIT_S)
    (sent,) = grid.push_messages([message])
    end = time.monotonic() + _LIMIT_S
    while time.monotonic() < end:
        for reply in grid.pull_messages([sent]):
            answer = read_answer(attack["site"], reply)
            return {"code": getattr(answer, "code", ""), "message": str(answer)[:300]}
        time.sleep(0.1)
    return {"code": "no answer", "message": ""}

"""Does what the study's plan in the home says, and writes what it saw beside it."""

import json
import os
import time
from pathlib import Path

import numpy as np

from compliance.canonical import canonical
from compliance.errors import ResidencyError
from strategies.wire import Request


def run(grid, home, study):
    plan = json.loads((home / f"{study}.plan").read_text())
    nodes = _wait(grid, plan["nodes"])
    result = {"study": study, "nodes": list(nodes), "pid": os.getpid(), "rounds": [], "answers": []}
    for kind in plan["kinds"]:
        asked = {node: Request(kind, canonical({"kind": kind})) for node in nodes}
        answers = grid.ask(asked, plan["kinds"][kind])
        result["answers"] += [{"kind": kind, "node": node, **_told(answer)} for node, answer in answers]
    for number in range(plan["rounds"]):
        array = np.random.default_rng(number).standard_normal(plan["size"]).astype(np.float32)
        started, total = time.monotonic(), np.zeros(plan["size"], np.float32)
        asked = {node: Request("round", canonical({"round": number}), array) for node in nodes}
        for node, answer in grid.ask(asked, 30):
            if isinstance(answer, ResidencyError):
                result["answers"].append({"kind": "round", "node": node, **_told(answer)})
            else:
                total += answer.array
        right = bool(np.allclose(total, array * sum(1 + node % 7 for node in nodes), rtol=1e-4, atol=1e-5))
        result["rounds"].append({"seconds": time.monotonic() - started, "right": right})
    result["rss_mib"] = _rss()
    (home / f"{study}.result").write_text(json.dumps(result))


def _wait(grid, count):
    end = time.monotonic() + 30
    while len(nodes := grid.node_ids()) < count:
        if time.monotonic() > end:
            raise RuntimeError(f"{len(nodes)} of {count} nodes")
        time.sleep(0.1)
    return nodes


def _told(answer):
    if isinstance(answer, ResidencyError):
        return {"error": type(answer).__name__, "exit": answer.exit_code, **answer.as_json()}
    return {"error": None, "body": answer.body.decode()}


def _rss():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS"))

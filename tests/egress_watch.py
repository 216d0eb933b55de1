"""Runs `residency ARGS` and notes, before each thing that this agent sends, what it is and how long its log is then.

`python tests/egress_watch.py REPORT ARGS...`: one JSON object a line goes to REPORT.
"""

from __future__ import annotations

import importlib
import json
import sys
from functools import wraps
from pathlib import Path
from typing import Any

REPORT = Path(sys.argv[1])
HOME = Path(sys.argv[sys.argv.index("--home") + 1])
sys.path.insert(0, str(Path(__file__).parent.parent))
EGRESS = importlib.import_module("egress")  # of this folder, which a script has first on its path


NOTED: set[str] = set()


def note(what: str) -> None:
    """Add one line to the report; of Flower's own calls, a dozen a second, only the first."""
    if what == "fleet" and what in NOTED:
        return
    NOTED.add(what)
    with REPORT.open("a") as out:
        out.write(json.dumps({"what": what, "size": EGRESS.log_size(HOME)}) + "\n")


def watch() -> None:
    """Put a look before each of the two clients' ways out."""
    from client import fleet, governance

    def before(owner: Any, name: str, what: Any) -> None:
        real = getattr(owner, name)

        @wraps(real)
        def looked(*args: Any, **more: Any) -> Any:
            note(what(*args))
            return real(*args, **more)

        setattr(owner, name, looked)

    before(fleet.Fleet, "send", lambda _, reply: _kind(reply))
    before(fleet.Fleet, "_call", lambda *_: "fleet")
    before(governance._Calls, "call", lambda _, method, *__: method)


def _kind(reply: Any) -> str:
    """The schema of a reply's body; `error` for a refusal."""
    if reply.has_error():
        return "error"
    from strategies.wire import decode_reply

    return str(json.loads(decode_reply(reply.content).body)["schema"])


if __name__ == "__main__":
    watch()
    importlib.import_module("stem").adopt()
    from residency import main

    sys.argv = ["residency", *sys.argv[2:]]
    main()

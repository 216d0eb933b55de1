"""The way from the operator's commands to the running server: where its private door is, and the token for it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from compliance.canonical import parse_json
from compliance.clock import now
from compliance.errors import PeerUnreachable
from compliance.files import read_bytes
from compliance.trust.home import OperatorHome
from compliance.trust.root import load_anchor
from server.control import Control
from server.flower_files import read_token
from server.nodes import normal_public_key

READY: Final = "flower/ready.json"


def open_control(home: Path) -> Control:
    """A client of the running server's private door. Raises PeerUnreachable RSD-6106 when none was started."""
    file = home / READY
    if not file.exists():
        raise PeerUnreachable(
            "RSD-6106",
            "no server runs in this home",
            found=f"no {READY}",
            limit="a started server",
            next="residency server start --home FOLDER",
        )
    ready = parse_json(read_bytes(file, "the server's ports"), str(file))
    return Control(f"127.0.0.1:{int(ready['private_port'])}", home / "tls" / "ca.crt", read_token(home))


def connected_sites(home: Path, control: Control) -> dict[str, bool]:
    """Site name -> whether its agent is connected now."""
    anchor = load_anchor(OperatorHome(home).trust_file, now())
    online = {n.public_key for n in control.nodes() if n.online}
    return {s.name: normal_public_key(s.node_key.encode("ascii")) in online for s in anchor.trust.sites if s.node_key}

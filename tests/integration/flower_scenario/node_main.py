"""node_main.py ADDRESS CA CERTIFICATE KEY HOME APPROVED: a real node process with the installed app."""

import signal
import sys
import threading
from pathlib import Path

from client.app import app
from client.node import NodeConfig, run_node

address, ca, certificate, key, home, approved = sys.argv[1:]
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
config = NodeConfig(
    address,
    Path(ca),
    Path(certificate),
    Path(key),
    Path(home),
    lambda: frozenset(approved.split(",")),
    lambda error: error,
    poll_idle_s=0.3,
    active_for_s=5,
)
run_node(config, app, stop, lambda s: sys.stderr.write(f"{s}\n"))

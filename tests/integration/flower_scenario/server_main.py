"""server_main.py HOME PUBLIC_PORT PRIVATE_PORT: a real server process."""

import sys
from pathlib import Path

from compliance.errors import ResidencyError
from compliance.tls import tls_files
from server.launcher import ServerConfig, serve

home = Path(sys.argv[1])
try:
    serve(ServerConfig(home, tls_files(home / "tls"), "127.0.0.1", int(sys.argv[2]), int(sys.argv[3])))
except ResidencyError as e:
    sys.stderr.write(f"{e}\n")
    sys.exit(e.exit_code)

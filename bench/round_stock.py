"""The stock side of `residency bench round`: Flower's own programs with their default settings, on loopback.

What is measured: flower-superlink (state in memory: its default) with TLS and SuperNode authentication, process
isolation with a flower-superexec beside it, and two flower-supernodes with subprocess isolation (their default). The
ServerApp is FedAvg without evaluation, one array, Flower's default polling; each message starts a new ClientApp
process, which imports torch, transformers and opacus.
"""

from __future__ import annotations

import hashlib
import io
import secrets
import sys
import zipfile
from pathlib import Path
from typing import Final

import psutil
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from bench.round_gate import GATE, Gate
from bench.round_processes import Processes
from compliance.errors import PeerUnreachable
from compliance.files import write_durably
from compliance.tls import TlsFiles
from demo.governance import free_ports
from server.control import Control

SITES: Final = ("hospital-1", "hospital-2")
WHO: Final = ("stock",)
_PROJECT: Final = """\
[project]
name = "stock-round"
version = "0.1.0"
description = "Measures Flower as it comes"
license = { text = "Apache License 2.0" }
dependencies = ["flwr>=1.41.0,<1.42"]

[tool.flwr.app]
publisher = "residency"
fab-include = ["README.md"]

[tool.flwr.app.components]
serverapp = "bench.round_stock_server:app"
clientapp = "bench.round_stock_client:app"
"""


class Stock:
    """The running deployment. `server` and `sites` are the processes of the server and of each site."""

    def __init__(self, processes: Processes, folder: Path, tls: TlsFiles, gate: Gate) -> None:
        self._processes, self._folder, self._tls, self.gate = processes, folder, tls, gate
        self._address = f"127.0.0.1:{free_ports(1)[0]}"
        self.sites: list[psutil.Process] = []
        self.server: list[psutil.Process] = []
        self._names: list[str] = []

    def start(self) -> None:
        """Start everything, admit both nodes, and start the run that waits at the gate."""
        secret = self._folder / "superexec.secret"
        write_durably(secret, secrets.token_bytes(32), private=True)
        self.server = [
            self._start("stock-superlink", "flower-superlink", *self._superlink(secret)),
            self._start(
                "stock-superexec", "flower-superexec", "--root-certificates", self._tls.ca,
                "--runtime-api-address", self._address, "--superexec-auth-secret-file", secret,
            ),
        ]  # fmt: skip
        keys = [self._node_key(site) for site in SITES]
        with Control(self._address, self._tls.ca, "none") as control:
            self._processes.wait(lambda: _answers(control), "flower-superlink", 60)
            for key in keys:
                control.register_node(key)
            self.sites = [self._supernode(site) for site in SITES]
            self._processes.wait(lambda: sum(n.online for n in control.nodes()) == len(SITES), "both SuperNodes", 60)
            control.start_run(bundle(), {})

    def stop(self) -> None:
        """End the deployment."""
        self._processes.stop(*reversed(self._names))

    def _superlink(self, secret: Path) -> tuple[str | Path, ...]:
        host, port = self._address.split(":")
        return (
            *("--host", host, "--port", port, "--ssl-ca-certfile", self._tls.ca),
            *("--ssl-certfile", self._tls.certificate, "--ssl-keyfile", self._tls.key),
            *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
            *("--isolation", "process", "--superexec-auth-secret-file", secret),
        )

    def _supernode(self, site: str) -> psutil.Process:
        return self._start(
            f"stock-{site}", "flower-supernode", "--superlink", self._address,
            "--root-certificates", self._tls.ca, "--auth-supernode-private-key", self._folder / site,
            "--host", "127.0.0.1", "--port", str(free_ports(1)[0]), "--node-config", f'site="{site}"',
        )  # fmt: skip

    def _start(self, name: str, program: str, *args: str | Path) -> psutil.Process:
        self._names.append(name)
        home = self._folder / name
        home.mkdir()
        script = Path(sys.executable).parent / program
        settings = {"FLWR_HOME": str(home), GATE: str(self.gate.path)}
        return self._processes.start(name, (sys.executable, script, *args), **settings)

    def _node_key(self, site: str) -> bytes:
        key = ec.generate_private_key(ec.SECP384R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        write_durably(self._folder / site, pem, private=True)
        return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _answers(control: Control) -> bool:
    try:
        control.nodes()
    except PeerUnreachable:
        return False
    return True


def bundle() -> bytes:
    """The stock app's bundle: like Residency's it names installed modules, which makes no difference to the time."""
    files = {"pyproject.toml": _PROJECT.encode(), "README.md": b"# Stock round\n"}
    listing = "\n".join(f"{name},{hashlib.sha256(data).hexdigest()},{8 * len(data)}" for name, data in files.items())
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in {**files, ".info/CONTENT": listing.encode()}.items():
            archive.writestr(name, data)
    return out.getvalue()

"""A real server process whose governance doors are attacked, and what the attackers use."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc

from client import enrolment
from client.governance import GovernanceClient, judged
from compliance.canonical import canonical
from compliance.errors import ResidencyError
from compliance.governance import SERVICE
from compliance.identity import load_public, new_signer, save_signer
from compliance.trust.consortium import Consortium as Config
from compliance.trust.enrol import invited, make_invitation, open_invitation
from compliance.validation import load_model
from tests import programs
from tests.federation import day, environment, scratch
from tests.governance import Hub, people


@dataclass
class Server:
    """A server process and the homes around it."""

    hub: Hub
    process: subprocess.Popen[bytes]

    def alive(self) -> bool:
        """A good client is answered, quickly."""
        began = time.monotonic()
        with self.hub.client("e") as good:
            good.status()
        return self.process.poll() is None and time.monotonic() - began < 5

    def proc(self, field: str) -> int:
        """A number of /proc/PID/status."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(x.split()[1] for x in lines if x.startswith(f"{field}:")))

    def raw(self, site: str) -> grpc.Channel:
        """A channel with the site's own certificate, without our client's manners."""
        home = self.hub.home(site).path
        parts = [(home / p).read_bytes() for p in ("ca.crt", "keys/node.key", "certs/site.crt")]
        return grpc.secure_channel(f"127.0.0.1:{self.hub.ports[0]}", grpc.ssl_channel_credentials(*parts))


@contextmanager
def serving() -> Iterator[Server]:
    """`residency server start` on a copy of the consortium."""
    root = Path(shutil.copytree(people().root, scratch("attacked") / "world"))
    hub = Hub(replace(people(), root=root))
    hub.log().close()  # `consortium init` begins it, and the server starts on a whole home only
    output = root / "server.log"
    programs.start()
    with output.open("wb") as out:
        process = programs.Forked(
            [sys.executable, "-m", "residency", "server", "start", "--home", str(hub.made.hub), "--host", "127.0.0.1"],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment(), start_new_session=True,
        )  # fmt: skip
    try:
        end = time.monotonic() + 60
        while b'"ready": true' not in output.read_bytes():
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < end, output.read_text()
            time.sleep(0.05)
        config = json.loads((hub.made.hub / "consortium.json").read_text())
        hub.ports = tuple(int(config[d].rpartition(":")[2]) for d in ("governance", "enrolment"))  # type: ignore[assignment]
        yield Server(hub, process)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def client_with(server: Server, certificate: bytes, key: Any, ca: bytes | None = None) -> GovernanceClient:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    own = (server.hub.home("a").path / "ca.crt").read_bytes()
    return GovernanceClient(f"127.0.0.1:{server.hub.ports[0]}", ca or own, pem, certificate)


def refusal_of(channel: grpc.Channel, name: str, body: bytes, timeout: float | None = 5.0) -> ResidencyError | str:
    """What the server makes of raw bytes: our error, or gRPC's own word."""
    try:
        channel.unary_unary(f"/{SERVICE}/{name}")(body, timeout=timeout)
    except grpc.RpcError as e:
        error: Any = e
        return judged("x", error) if str(error.details()).startswith("{") else str(error.code().name)
    return "answered"


def invitation(server: Server, site: str, folder: Path, days: int = 14) -> tuple[Any, bytes]:
    """What `consortium invite` leaves at the operator, and a request that answers it."""
    hub = server.hub.made
    config = load_model(Config, json.loads((hub.hub / "consortium.json").read_text()), "RSD-6019", "consortium")
    envelope = make_invitation(config, hub.operator, site, "DE", (hub.hub / "tls" / "ca.crt").read_text(), days=days)
    file = folder / f"{site}.invitation.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(envelope.encode() + b"\n")
    made = open_invitation(envelope.encode())
    kept = hub.hub / "invitations" / f"{made.digest}.json"
    kept.parent.mkdir(exist_ok=True)
    kept.write_bytes(canonical(invited(made).as_json()))
    return made, request(file, folder / "home", site)


def request(file: Path, home: Path, site: str) -> bytes:
    publics = []
    for role in ("signatory", "dpo"):
        signer = new_signer(role, site, day(-1), day(300))  # type: ignore[arg-type]
        publics.append(load_public(save_signer(signer, home.with_name(f"{home.name}-office"))[1]))
    return enrolment.enrol(home, file, publics[0], publics[1], day(300))


def connect(server: Server, door: int, site: str | None) -> ssl.SSLSocket:
    home = server.hub.home("a").path
    context = ssl.create_default_context(cafile=str(home / "ca.crt"))
    context.set_alpn_protocols(["h2"])
    if site is not None:
        own = server.hub.home(site).path
        context.load_cert_chain(own / "certs" / "site.crt", own / "keys" / "node.key")
    plain = socket.create_connection(("127.0.0.1", server.hub.ports[door]), timeout=2)
    return context.wrap_socket(plain, server_hostname="127.0.0.1")

"""The operator's server as a real process with a tiny consortium, and callers at its doors, honest or not."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from client.fleet import fleet_tls
from compliance.canonical import canonical
from compliance.clock import now, rfc3339
from compliance.identity import Signer, new_signer, save_signer, seal
from compliance.log.store import LogStore
from compliance.pki import issue_site_certificate, make_csr, public_pem
from compliance.tls import TlsFiles, make_tls
from compliance.trust.consortium import Consortium
from compliance.trust.draft import draft_trust
from compliance.trust.enrol import check_request, make_invitation, make_request, open_invitation
from compliance.trust.home import OperatorHome
from compliance.trust.root import Anchor, load_anchor
from tests import programs
from tests.federation import free_port

CONSORTIUM, OPERATOR = "flower", "hub"


def node_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A fresh node key, written as the agent writes it."""
    key = ec.generate_private_key(ec.SECP384R1())
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return key


def read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A node key from its file."""
    key = load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


@dataclass(frozen=True)
class Founded:
    """An operator's home whose trust file the sites signed; NAME.key and NAME.crt of each site lie in `base`."""

    base: Path
    home: Path
    tls: TlsFiles
    signatories: dict[str, Signer]

    @property
    def anchor(self) -> Anchor:
        """The installed trust file."""
        return load_anchor(self.home / "trust.json")

    def certify(self, name: str, key: ec.EllipticCurvePrivateKey, as_name: str, days: int = 9) -> Path:
        """A certificate by the consortium's CA that calls `key` by `as_name`, in NAME.crt."""
        csr = make_csr(key, as_name, CONSORTIUM)
        path = self.base / f"{name}.crt"
        path.write_bytes(issue_site_certificate(self.home / "tls", csr, as_name, CONSORTIUM, days))
        return path

    def without(self, site: str) -> bytes:
        """The next trust file, without this site, signed by the others."""
        place = OperatorHome(self.home)
        until = rfc3339(now() + timedelta(days=9))
        draft = draft_trust(place.config(), place.signer().identity, [], self.anchor, until, leaving=site)
        signers = [s for name, s in self.signatories.items() if name != site]
        return seal(json.loads(draft.payload), *signers).encode() + b"\n"


def found(base: Path, home: Path, names: list[str], threshold: int = 1) -> Founded:
    """Keys, certificates and a trust file that all sites signed, by the library's own functions."""
    start, until = rfc3339(now() - timedelta(days=1)), rfc3339(now() + timedelta(days=9))
    server, governance, enrolment = (f"127.0.0.1:{free_port()}" for _ in range(3))
    config = Consortium(
        schema="residency.consortium/1", name=CONSORTIUM, operator={"name": OPERATOR, "jurisdiction": "IE"},
        threshold=threshold, server=server, governance=governance, enrolment=enrolment,
    )  # fmt: skip
    operator = new_signer("operator", OPERATOR, start, until)
    save_signer(operator, home / "keys")
    tls = make_tls(home / "tls")
    (home / "invitations").mkdir()
    (home / "consortium.json").write_bytes(canonical(config.as_json()))
    made, requests = Founded(base, home, tls, {}), []
    for name in names:
        agent, signatory, dpo = (new_signer(role, name, start, until) for role in ("agent", "signatory", "dpo"))
        invited = open_invitation(make_invitation(config, operator, name, "DE", tls.ca.read_text()).encode())
        key = node_key(base / f"{name}.key")
        request = make_request(invited, agent, signatory.identity, dpo.identity, key)
        requests.append(check_request(request.encode(), invited))
        made.certify(name, key, name)
        made.signatories[name] = signatory
    draft = draft_trust(config, operator.identity, requests, None, until)
    (home / "trust.json").write_bytes(seal(json.loads(draft.payload), *made.signatories.values()).encode() + b"\n")
    LogStore.open(home / "log.db", f"residency/{CONSORTIUM}/{OPERATOR}", operator.private).close()
    return made


class Server:
    """`residency server start` as a process."""

    def __init__(self, home: Path, output: Path) -> None:
        self._output = output
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        words = ["server", "start", "--home", str(home), "--host", "127.0.0.1"]
        programs.start()
        with output.open("ab") as out:
            self.process = programs.Forked(
                [sys.executable, "-m", "residency", *words], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                env=environment, start_new_session=True,
            )  # fmt: skip
        wait(lambda: '"ready": true' in self.said() or self.process.poll() is not None, 60)
        self.ready: dict[str, Any] = next(
            (json.loads(line) for line in self.said().splitlines() if line.startswith('{"ready"')), {}
        )
        assert self.ready, self.said()

    def said(self) -> str:
        """What the process printed."""
        return self._output.read_text(errors="replace")

    @property
    def fleet(self) -> str:
        """Address of the public door."""
        return f"127.0.0.1:{self.ready['public_port']}"

    @property
    def private(self) -> str:
        """Address of the private door."""
        return f"127.0.0.1:{self.ready['private_port']}"

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        self.process.terminate()
        try:
            return self.process.wait(20)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


def wait(done: Callable[[], object], limit_s: float) -> None:
    """Return once `done()` is true."""
    end = time.monotonic() + limit_s
    while not done():
        assert time.monotonic() < end, f"not within {limit_s} s"
        time.sleep(0.02)


@dataclass(frozen=True)
class Caller:
    """Whoever calls a door: with a certificate and its key, or without."""

    tls: ssl.SSLContext
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def site(cls, founded: Founded, name: str, certificate: str = "") -> Caller:
        """A site with its own node key, and its own certificate or another's."""
        key = founded.base / f"{name}.key"
        certificate_key = founded.base / f"{certificate or name}.key"
        context = fleet_tls(founded.tls.ca, founded.base / f"{certificate or name}.crt", certificate_key)
        return cls(context, read_key(key))

    def connect(self, address: str) -> http.client.HTTPSConnection:
        """A connection to keep."""
        return http.client.HTTPSConnection(address, context=self.tls, timeout=10)

    def signed(self, at: datetime | None = None) -> dict[str, str]:
        """The headers with which Flower authenticates a node: its key, and its signature of the time."""
        stamp = (at or now()).isoformat()
        signature = self.key.sign(stamp.encode(), ec.ECDSA(hashes.SHA256()))
        return {
            "flwr-public-key": base64.b64encode(public_pem(self.key).encode()).decode(),
            "flwr-timestamp": stamp,
            "flwr-signature": base64.b64encode(signature).decode(),
        }

    def post(
        self,
        connection: http.client.HTTPSConnection,
        path: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
    ) -> tuple[int, str]:
        """One call; its status and the code of the door's refusal."""
        protobuf = {"content-type": "application/protobuf", "accept": "application/protobuf"}
        connection.request("POST", path, body, {**protobuf, **(self.signed() if headers is None else headers)})
        with connection.getresponse() as response:
            response.read()
            return response.status, response.headers.get("residency-refused", "")

    def call(
        self, address: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, str]:
        """`post` on a connection of its own."""
        connection = self.connect(address)
        try:
            return self.post(connection, path, body, headers)
        finally:
            connection.close()

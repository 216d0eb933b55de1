"""The governance service: gRPC over mutual TLS, and the enrolment door beside it. Sites connect; it calls nobody."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import grpc

from compliance.errors import EnvironmentFault, ResidencyError
from compliance.files import read_bytes
from compliance.governance import ENROL, METHODS
from compliance.pki import read_site_certificate
from compliance.tls import TlsFiles, tls_files
from compliance.trust.home import OperatorHome
from server.calls import CallLog
from server.governance.door import OPTIONS, Door
from server.governance.enrolment import Enrolment
from server.governance.limits import Limits
from server.governance.methods import Methods, Stores
from server.members import Members

STOP_S: Final = 2.0
_GRACE_S: Final = 1.0  # for calls under way
_THREADS, _CALLS = 24, 64  # of the governance door: threads, and calls that are accepted at a time
_ENROL_THREADS, _ENROL_CALLS = 4, 8

_Stamp = tuple[tuple[int, int], ...]


class Governance:
    """The two governance doors of one operator's home.

    At the governance door TLS asks for a certificate by the consortium's CA, and `Members.site_of` judges it at every
    call; the enrolment door serves Enrol alone, to anybody. Both take a renewed server certificate from the next
    connection on.
    """

    def __init__(self, home: Path, members: Members, calls: CallLog) -> None:
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # else each broken handshake writes a line to stderr
        self._home, self._members, self._calls = home, members, calls
        self._stores = Stores(OperatorHome(home))
        self._doors: list[tuple[grpc.Server, ThreadPoolExecutor]] = []

    def start(self, host: str, governance_port: int, enrolment_port: int) -> tuple[int, int]:
        """Open both doors on `host`; a port of 0 takes any free one. Returns the ports taken.

        Raises EnvironmentFault RSD-7101 (port in use), InputError RSD-2005 (TLS files).
        """
        limits = Limits(time.monotonic)
        methods = Methods(self._home, self._members, self._stores)
        enrolment = Enrolment(OperatorHome(self._home), limits, self._stores.log)
        governance_door = Door(
            "governance", METHODS, methods.operations(), self._site_of, limits, self._calls, frozenset({"Status"})
        )
        enrolment_door = Door("enrolment", ENROL, {"Enrol": enrolment.enrol}, address_of, limits, self._calls)
        try:
            return (
                self._open(governance_door, host, governance_port, mutual=True, threads=_THREADS, most=_CALLS),
                self._open(
                    enrolment_door, host, enrolment_port, mutual=False, threads=_ENROL_THREADS, most=_ENROL_CALLS
                ),
            )
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Close both doors within `STOP_S` seconds; calls under way get one second to end."""
        closing = [server.stop(_GRACE_S) for server, _ in self._doors]
        end = time.monotonic() + STOP_S
        for closed in closing:
            closed.wait(max(0.0, end - time.monotonic()))
        for _, pool in self._doors:
            pool.shutdown(wait=False, cancel_futures=True)
        self._doors.clear()
        self._stores.close()

    def _open(self, door: Door, host: str, port: int, *, mutual: bool, threads: int, most: int) -> int:
        pool = ThreadPoolExecutor(threads, thread_name_prefix=f"{door.surface}-door")
        server = grpc.server(pool, (door.handler(),), options=OPTIONS, maximum_concurrent_rpcs=most)
        self._doors.append((server, pool))
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            taken: int = server.add_secure_port(address, credentials(tls_files(self._home / "tls"), mutual=mutual))
        except RuntimeError as e:
            raise _no_port(door.surface, address) from e
        server.start()
        return taken

    def _site_of(self, context: grpc.ServicerContext) -> str:
        """The member that calls, by the certificate that TLS has checked. Raises Refused, InputError RSD-6203."""
        shown = context.auth_context().get("x509_pem_cert", [b""])
        return self._members.site_of(read_site_certificate(shown[0]))


def address_of(context: grpc.ServicerContext) -> str:
    """The network address of a stranger, without its port: `ipv4:192.0.2.1`."""
    return str(context.peer()).rpartition(":")[0]


def credentials(files: TlsFiles, *, mutual: bool) -> grpc.ServerCredentials:
    """TLS with the files as they are at each handshake; files that cannot be read leave the last ones in use.

    Raises InputError RSD-2005 if they cannot be read now.
    """
    last = [_stamp(files)]

    def load() -> Any:
        pair = (read_bytes(files.key, "the server's key"), read_bytes(files.certificate, "the server's certificate"))
        ca = read_bytes(files.ca, "the CA certificate") if mutual else None
        return grpc.ssl_server_certificate_configuration([pair], ca)

    def renewed() -> Any:
        try:
            stamp = _stamp(files)
            if stamp == last[0]:
                return None
            configuration = load()
        except (ResidencyError, OSError):
            return None
        last[0] = stamp
        return configuration

    return grpc.dynamic_ssl_server_credentials(load(), renewed, require_client_authentication=mutual)


def _stamp(files: TlsFiles) -> _Stamp:
    found = []
    for path in (files.ca, files.certificate, files.key):
        stat = path.stat() if path.exists() else None
        found.append((stat.st_ino, stat.st_mtime_ns) if stat else (0, 0))
    return tuple(found)


def _no_port(surface: str, address: str) -> EnvironmentFault:
    return EnvironmentFault(
        "RSD-7101",
        f"the {surface} door cannot listen on {address}",
        rule="each door has a port of its own",
        found="port in use, or no such address",
        limit="a free port on an address of this machine",
        next=f"stop the other process (ss -ltnp 'sport = :{address.rpartition(':')[2]}') or choose another port",
    )

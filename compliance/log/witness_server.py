"""The witness's door: HTTP for `witness_protocol`, with bounds on bytes, seconds and connections. Holds no state."""

from __future__ import annotations

import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from compliance.errors import EnvironmentFault, InputError, Refused
from compliance.log.witness_protocol import MOST_REQUEST, PATH, TEXT_TYPE, Answer

LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
LIMIT_S: Final = 15.0  # for a handshake and a request; and for the next one on the same connection
MOST_CONNECTIONS: Final = 64
_MOST_REQUESTS: Final = 100  # of one connection
_DRAIN: Final = 1 << 20  # bytes of a refused body that are read, so that its sender sees the answer


class WitnessDoor(ThreadingHTTPServer):
    """Listens until `shutdown`. A connection that takes too long is cut; one too many is closed at once."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        answer: Callable[[bytes], Answer],
        tls: ssl.SSLContext | None,
        limit_s: float = LIMIT_S,
    ) -> None:
        """Raises EnvironmentFault RSD-5113 if the address cannot be used, Refused RSD-5112 without TLS elsewhere."""
        host, port = address
        if tls is None and host not in LOOPBACK:
            raise Refused(
                "RSD-5112",
                "a witness answers without TLS on the loopback only",
                rule="others reach a witness over TLS",
                found=host,
                limit=", ".join(LOOPBACK),
                next="give --tls-cert and --tls-key, or put a reverse proxy before it",
            )
        self.answer, self._tls, self._limit_s = answer, tls, limit_s
        self._since: dict[Any, float] = {}
        self._lock = threading.Lock()
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _Handler)
        except OSError as e:
            raise no_door(f"{host}:{port}", e) from e

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    def server_bind(self) -> None:
        """As TCPServer's: without asking the name service what this machine is called."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def get_request(self) -> tuple[Any, Any]:
        """A connection; its handshake waits for the thread that serves it."""
        plain, peer = self.socket.accept()
        plain.settimeout(self._limit_s)
        if self._tls is None:
            return plain, peer
        return self._tls.wrap_socket(plain, server_side=True, do_handshake_on_connect=False), peer

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is room for one more connection."""
        del client_address
        with self._lock:
            if len(self._since) >= MOST_CONNECTIONS:
                return False
            self._since[request] = time.monotonic()
        return True

    def again(self, request: Any) -> None:
        """The request was answered: the time for the next one begins."""
        with self._lock:
            self._since[request] = time.monotonic()

    def shutdown_request(self, request: Any) -> None:
        """As TCPServer's; the connection counts no more."""
        with self._lock:
            self._since.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Cut what takes too long: a client that sends a byte now and then never meets the socket's own limit."""
        late = time.monotonic() - self._limit_s
        with self._lock:
            cut = [request for request, since in self._since.items() if since < late]
        for request in cut:
            _cut(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke is its client's trouble; anything else is said."""
        del request, client_address
        error = sys.exception()
        if not isinstance(error, OSError | ValueError):
            print(f"witness: {type(error).__name__} while answering", file=sys.stderr, flush=True)  # noqa: T201


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WitnessDoor
    _served = 0

    def do_POST(self) -> None:
        """The one method there is."""
        length = self.headers.get("Content-Length", "")
        if self.path != PATH:
            self._refuse(Answer(404, "POST /add-checkpoint\n"))
        elif not (length.isascii() and length.isdecimal()) or "Transfer-Encoding" in self.headers:
            self._refuse(Answer(411, "a request says how long it is\n"))
        elif len(length) > 9 or int(length) > MOST_REQUEST:
            self._refuse(Answer(413, f"a request has at most {MOST_REQUEST} bytes\n"), drain=True)
        else:
            body = self.rfile.read(int(length))
            if len(body) == int(length):
                self._send(self.server.answer(body))

    def do_GET(self) -> None:
        """Nothing is published here."""
        self._refuse(Answer(404, "POST /add-checkpoint\n"))

    def _refuse(self, answer: Answer, *, drain: bool = False) -> None:
        self.close_connection = True
        self._send(answer)
        if drain:
            self.rfile.read(_DRAIN)

    def _send(self, answer: Answer) -> None:
        self._served += 1
        self.close_connection = self.close_connection or self._served >= _MOST_REQUESTS
        data = answer.body.encode()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(data)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)
        self.server.again(self.request)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the parser of HTTP refuses: the status alone, and none of the client's words."""
        del message, explain
        self.close_connection = True
        data = b"malformed request\n"
        self.send_response(code)
        self.send_header("Content-Type", TEXT_TYPE)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def version_string(self) -> str:
        """No versions for strangers."""
        return "residency"

    def log_message(self, format: str, *args: Any) -> None:
        """No line for each request: who asks is nobody's business, and a flood would fill the disk."""


def tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.2 or newer with this certificate. Raises InputError RSD-5114."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ValueError) as e:
        raise InputError(
            "RSD-5114",
            f"{certificate} and {key} are no TLS certificate with its key",
            rule="PEM, the certificate first",
            found=getattr(e, "reason", None) or getattr(e, "strerror", None) or type(e).__name__,
            limit="a certificate and its private key",
            next="check both files, and that this user may read them",
        ) from e
    return context


def _cut(request: Any) -> None:
    try:
        request.shutdown(socket.SHUT_RDWR)
    except OSError:
        request.close()  # it was gone before


def no_door(address: str, error: OSError) -> EnvironmentFault:
    """RSD-5113."""
    return EnvironmentFault(
        "RSD-5113",
        f"a witness cannot listen at {address}: {error.strerror or error}",
        rule="one door, one address",
        found=error.strerror or error,
        limit="a free port of this machine",
        next="choose another --host or --port",
    )


__all__ = ["LIMIT_S", "LOOPBACK", "MOST_CONNECTIONS", "WitnessDoor", "no_door", "tls_context"]

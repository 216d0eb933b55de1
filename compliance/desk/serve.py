"""Serving the desk: one socket, bound before anything is printed; no log of what readers ask for."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
from pathlib import Path
from typing import Any, Final

import uvicorn

from compliance.desk.connections import HEAD_S, door
from compliance.desk.guard import App
from compliance.desk.handshakes import Handshakes
from compliance.errors import EnvironmentFault, InputError, UsageError
from compliance.files import read_bytes

HANDSHAKE_S: Final = 10.0  # for a TLS handshake, from the first byte to the last
_NAMES: Final = ("127.0.0.1", "localhost", "[::1]")


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def check_door(host: str, *, token: bool, tls: bool) -> None:
    """Loopback alone may do without a token and TLS. Raises UsageError RSD-9188."""
    if is_loopback(host) or (token and tls):
        return
    lacks = " and ".join(what for what, given in (("--token-file", token), ("--tls-cert, --tls-key", tls)) if not given)
    raise UsageError(
        "RSD-9188",
        f"{host} can be reached by others: the desk needs a token and TLS there",
        rule="without a login the desk is for this machine alone",
        found=f"no {lacks}",
        limit="--token-file FILE --tls-cert FILE --tls-key FILE, or --host 127.0.0.1",
        next="give them, or keep to loopback and use a tunnel",
    )


def check_tls(certificate: Path | None, key: Path | None) -> bool:
    """Whether it is served over TLS: with both files, which fit.

    Raises UsageError RSD-9188, InputError RSD-9192, RSD-2005.
    """
    if certificate is None and key is None:
        return False
    if certificate is None or key is None:
        raise UsageError(
            "RSD-9188",
            "TLS needs a certificate and its key",
            found="--tls-key alone" if certificate is None else "--tls-cert alone",
            limit="--tls-cert FILE --tls-key FILE",
            next="give both, or neither on loopback",
        )
    for path in (certificate, key):
        read_bytes(path, "the desk's certificate or key")  # a pipe is no file, and would be waited for
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: b"")
    except (OSError, ValueError) as e:
        raise InputError(
            "RSD-9192", f"{certificate} and {key} are no certificate with its key", rule="PEM, the key not encrypted",
            found=getattr(e, "reason", None) or str(e), limit="a certificate chain and its private key",
            next="give the files that belong together",
        ) from e  # fmt: skip
    return True


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises EnvironmentFault RSD-9189."""
    bare = host.strip("[]")
    family = socket.AF_INET6 if ":" in bare else socket.AF_INET
    door = socket.socket(family, socket.SOCK_STREAM)
    try:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind((bare, port))
        door.listen(64)
    except OSError as e:
        door.close()
        raise EnvironmentFault(
            "RSD-9189", f"cannot listen on {host}, port {port}: {e.strerror}", found=e.strerror,
            limit="a free port of this machine", next="give another --port, or 0 for any",
        ) from e  # fmt: skip
    return door


def hosts_of(port: int, *, tls: bool) -> frozenset[str]:
    """What a browser on this machine may call the desk at `port`; it leaves the port of its scheme out."""
    bare = _NAMES if port == (443 if tls else 80) else ()
    return frozenset((*(f"{name}:{port}" for name in _NAMES), *bare))


def address_of(host: str, door: socket.socket, *, tls: bool) -> str:
    """Where a reader finds it."""
    bare = host.strip("[]")
    shown = f"[{bare}]" if ":" in bare else bare
    return f"{'https' if tls else 'http'}://{shown}:{door.getsockname()[1]}/"


class Loop(asyncio.SelectorEventLoop):
    """A loop that does not wait a minute for half a TLS handshake, and not for any number of them."""

    async def create_server(self, *args: Any, **given: Any) -> asyncio.Server:
        """As every loop's; over TLS, on the socket `sock`, with HANDSHAKE_S for a handshake, and Handshakes."""
        if given.get("ssl"):
            going_on = Handshakes()
            given |= {"ssl_handshake_timeout": HANDSHAKE_S, "sock": going_on.listen(given["sock"])}
            args = (going_on.tell(args[0]), *args[1:])
        return await super().create_server(*args, **given)


def server(
    app: App, certificate: Path | None = None, key: Path | None = None, *, head_s: float = HEAD_S
) -> uvicorn.Server:
    """What serves it: faults go to stderr in one line, readers' requests nowhere. `head_s`: for a request's head."""
    logging.getLogger("residency.desk").setLevel(logging.ERROR)
    config = uvicorn.Config(
        app, http=door(head_s), access_log=False, log_level="error", server_header=False, lifespan="off", ws="none",
        timeout_keep_alive=5, timeout_graceful_shutdown=3, limit_concurrency=64, h11_max_incomplete_event_size=16_384,
        ssl_certfile=certificate, ssl_keyfile=key, loop=f"{__name__}:{Loop.__name__}",
    )  # fmt: skip
    return uvicorn.Server(config)

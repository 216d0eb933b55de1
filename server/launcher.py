"""The federation server's process: Flower's SuperLink behind two doors of our own.

The public door (TLS) lets only the fleet interface through, and only registered node keys are served. The private door
(TLS, loopback) has the control interface behind a bearer token and the runtime interface behind a shared secret. Flower
keeps its state in memory: it is fast, and what must outlive a crash (node keys, the rounds' committed updates) lies in
files of ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import os
import secrets
import signal
import socket
import ssl
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvicorn

from compliance.clock import now
from compliance.errors import EnvironmentFault
from compliance.files import read_bytes, write_durably
from compliance.tls import TlsFiles, certificate_days_left
from server.control import Control
from server.doors import PRIVATE_PATHS, PUBLIC_PATHS, Door, listen
from server.nodes import remembered_nodes
from server.superexec import SuperExec, superexec_command, superexec_environment
from strategies import flwr_private

_LOOPBACK: Final = "127.0.0.1"
_WATCH_S: Final = 0.5


@dataclass(frozen=True)
class ServerConfig:
    """Where the server keeps its files, and where it listens. A port of 0 takes any free one."""

    home: Path
    tls: TlsFiles
    host: str = "0.0.0.0"  # noqa: S104 - the public door is meant for the sites
    public_port: int = 8443
    private_port: int = 8444
    superexec_poll_s: float = 0.2


@dataclass(frozen=True)
class FlowerFiles:
    """The files that the server keeps for Flower under its home."""

    token: Path
    secret: Path
    nodes: Path
    home: Path


def flower_files(home: Path) -> FlowerFiles:
    """Where the control token, the superexec secret, the node keys and Flower's own files lie."""
    folder = home / "flower"
    return FlowerFiles(folder / "control.token", folder / "superexec.secret", folder / "nodes", folder / "home")


def serve(config: ServerConfig) -> None:
    """Run the server until SIGTERM or SIGINT; call it in the main thread.

    Prints one JSON line {"ready": true, "public_port": ..., "private_port": ..., "nodes": ...} on stdout once both
    doors listen, the remembered node keys are admitted and runs can start. Leaves no process behind. Raises
    EnvironmentFault RSD-7101 (port in use), RSD-7102, RSD-7103 (another Flower), RSD-7104 (TLS material), RSD-7106
    (Flower's programs) and RSD-7108 (a door closed by itself).
    """
    files = prepare(config)
    with contextlib.ExitStack() as stack:
        public = stack.enter_context(listen(config.host, config.public_port, "the public door"))
        private = stack.enter_context(listen(_LOOPBACK, config.private_port, "the private door"))
        address = f"{_LOOPBACK}:{private.getsockname()[1]}"
        command = superexec_command(address, config.tls.ca, files.secret)
        environment = superexec_environment(config.home, files.home, config.superexec_poll_s)
        child = SuperExec(command, environment)
        stack.callback(child.stop)
        app = flower_app(config, files, private.getsockname()[1])
        asyncio.run(_run(config, files, app, (public, private), child))


def prepare(config: ServerConfig) -> FlowerFiles:
    """Make the folders and secrets that are missing, check the TLS files, and turn Flower's reporting off."""
    files = flower_files(config.home)
    files.nodes.mkdir(parents=True, exist_ok=True)
    files.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not files.token.exists():
        write_durably(files.token, secrets.token_urlsafe(32).encode("ascii"), private=True)
    if not files.secret.exists():
        write_durably(files.secret, secrets.token_bytes(32), private=True)
    os.environ.update({**flwr_private.QUIET_ENVIRONMENT, "FLWR_HOME": str(files.home)})
    _check_tls(config.tls)
    return files


def _check_tls(tls: TlsFiles) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.certificate, tls.key)
        left = certificate_days_left(tls.certificate, now())
    except (OSError, ssl.SSLError) as e:
        raise _bad_tls(tls.certificate, f"{type(e).__name__}: {e.strerror}", "a certificate and its key") from e
    if left < 0:
        raise _bad_tls(tls.certificate, f"ended {-left} days ago", "a certificate that is valid today")


def _bad_tls(path: Path, found: str, limit: str) -> EnvironmentFault:
    return EnvironmentFault(
        "RSD-7104",
        f"the server's TLS material at {path} cannot be used",
        rule="both doors speak TLS",
        found=found,
        limit=limit,
        next="make the server's TLS material again and send the new CA to the sites",
    )


def read_token(home: Path) -> str:
    """The control token of the server at `home`. Raises InputError RSD-2005."""
    return read_bytes(flower_files(home).token, "the control token").decode("ascii")


def flower_app(config: ServerConfig, files: FlowerFiles, private_port: int) -> Any:
    """Flower's application with node authentication on, process isolation, and nothing installed or reported."""
    f = flwr_private.superlink()
    logging.getLogger("flwr").setLevel(logging.WARNING)
    tls = config.tls
    certificates = tuple(read_bytes(p, "the TLS material") for p in (tls.ca, tls.certificate, tls.key))
    settings = f.SuperLinkLifespanConfig(
        control_address="",
        health_server_address=None,
        host=_LOOPBACK,
        port=private_port,
        insecure=False,
        certificates=certificates,
        superexec_auth_secret=read_bytes(files.secret, "the superexec secret"),
        authn_plugin=_token_check(files.token.read_bytes()),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type="grpc-rere",  # unused over HTTP, but a field without a default
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=str(tls.ca),
        ssl_certfile=str(tls.certificate),
        ssl_keyfile=str(tls.key),
        database=f.FLWR_IN_MEMORY_DB_NAME,
        isolation="process",
        runtime_dependency_install=False,
    )
    return f.create_app(settings, f.SuperLinkLifespan)


def _token_check(token: bytes) -> Any:
    """Flower's account plugin that admits exactly the holder of `token`."""
    base: Any = flwr_private.superlink().NoOpControlAuthnPlugin

    class TokenAuthn(base):  # type: ignore[misc]
        def validate_tokens_in_metadata(self, metadata: Sequence[tuple[str, str | bytes]]) -> tuple[bool, Any]:
            given = [value.encode() if isinstance(value, str) else value for _, value in metadata]
            if len(given) == 1 and hmac.compare_digest(given[0], token):
                admitted: tuple[bool, Any] = super().validate_tokens_in_metadata(metadata)
                return admitted
            return False, None

    return TokenAuthn()


class _Server(uvicorn.Server):
    """A uvicorn server that leaves the process's signals alone: two of them run in one loop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture nothing."""
        yield


def _door(config: ServerConfig, app: Any, prefixes: tuple[str, ...], *, lifespan: bool) -> _Server:
    return _Server(
        uvicorn.Config(
            Door(app, prefixes),
            lifespan="on" if lifespan else "off",
            access_log=False,
            log_config=None,
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=2,
            ssl_certfile=str(config.tls.certificate),
            ssl_keyfile=str(config.tls.key),
        )
    )


async def _run(
    config: ServerConfig, files: FlowerFiles, app: Any, sockets: tuple[socket.socket, socket.socket], child: SuperExec
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    public, private = sockets
    doors = (_door(config, app, PRIVATE_PATHS, lifespan=True), _door(config, app, PUBLIC_PATHS, lifespan=False))
    tasks = []
    try:
        for door, sock in zip(doors, (private, public), strict=True):
            task = asyncio.create_task(door.serve([sock]))
            tasks.append(task)
            while not door.started and not task.done():  # noqa: ASYNC110 - uvicorn offers a flag, no event
                await asyncio.sleep(0.02)
        port = private.getsockname()[1]
        nodes = await asyncio.to_thread(_admit_remembered, f"{_LOOPBACK}:{port}", config, files)
        child.keep_running()
        ready = {"ready": True, "public_port": public.getsockname()[1], "private_port": port, "nodes": nodes}
        write_durably(config.home / "flower" / "ready.json", json.dumps(ready).encode("ascii"))
        print(json.dumps(ready), flush=True)  # noqa: T201 - the line that whoever started this process waits for
        await _watch(stop, tasks, child)
        if not stop.is_set():
            raise _door_closed()
    finally:
        await asyncio.to_thread(child.stop)
        for door in doors:
            door.should_exit = True
        await asyncio.gather(*tasks, return_exceptions=True)


def _admit_remembered(address: str, config: ServerConfig, files: FlowerFiles) -> int:
    keys = remembered_nodes(files.nodes)
    if keys:
        with Control(address, config.tls.ca, read_token(config.home)) as control:
            for key in keys:
                control.register_node(key)
    return len(keys)


def _door_closed() -> EnvironmentFault:
    return EnvironmentFault(
        "RSD-7108",
        "a door of the server closed by itself",
        rule="both doors listen as long as the server runs",
        found="one door closed",
        limit="two open doors",
        next="read the server's log and start it again",
    )


async def _watch(stop: asyncio.Event, tasks: Sequence[asyncio.Task[None]], child: SuperExec) -> None:
    """Wait for the signal; start the child again when it died; end when a door closed by itself."""
    while not stop.is_set() and not any(task.done() for task in tasks):
        if await asyncio.to_thread(child.keep_running):
            print("flower-superexec had ended and was started again", file=sys.stderr, flush=True)  # noqa: T201
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _WATCH_S)

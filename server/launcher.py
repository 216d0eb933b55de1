"""The federation server's process: Flower's SuperLink behind two doors of our own, and the governance service.

The public door (mutual TLS) lets only the fleet interface through, and only for members of the trust file. The private
door (TLS, loopback) has the control interface behind a bearer token and the runtime interface behind a shared secret.
Flower keeps its state in memory: it is fast, and what must outlive a crash lies in files of ours. Without a trust file
the server runs too, so that sites can enrol; it then admits nobody to the fleet.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import secrets
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import uvicorn

from compliance.errors import EnvironmentFault, ResidencyError
from compliance.files import read_bytes, write_durably
from compliance.tls import TlsFiles
from compliance.trust.home import OperatorHome
from server.calls import CallLog
from server.connections import HANDSHAKE_S, MAX_CONNECTIONS, PeerProtocol
from server.control import Control
from server.door_tls import DoorTls, check_tls
from server.doors import Door, FleetDoor, PrivateDoor, listen
from server.flower_files import FlowerFiles, flower_files, read_token
from server.governance.service import Governance
from server.keeper import RunKeeper
from server.law import check_operator_law
from server.members import Members
from server.nodes import reconcile
from server.superexec import SuperExec, superexec_command, superexec_environment
from server.superlink import flower_app
from strategies import flwr_private, heap

if TYPE_CHECKING:
    import ssl

_LOOPBACK: Final = "127.0.0.1"
_WATCH_S: Final = 0.5
_REST_S: Final = 60.0  # between two times that free memory goes back to the kernel
_MOST_FILES: Final = 65_536  # open at a time; a stranger's connection holds one until its handshake fails


@dataclass(frozen=True)
class ServerConfig:
    """Where the server keeps its files, and where it listens. A port of 0 takes any free one."""

    home: Path
    tls: TlsFiles
    host: str = "0.0.0.0"  # noqa: S104 - the public doors are meant for the sites
    public_port: int = 8443
    private_port: int = 8444
    governance_port: int = 0
    enrolment_port: int = 0
    superexec_poll_s: float = 1.0


@dataclass(frozen=True)
class _Parts:
    """What runs in this process."""

    config: ServerConfig
    app: Any
    tls: DoorTls
    members: Members
    calls: CallLog
    keeper: RunKeeper
    child: SuperExec
    sockets: tuple[socket.socket, socket.socket]
    governance_ports: tuple[int, int]

    @property
    def private_port(self) -> int:
        """The port of the private door."""
        return int(self.sockets[1].getsockname()[1])


def serve(config: ServerConfig) -> None:
    """Run the server until SIGTERM or SIGINT; call it in the main thread.

    Prints one JSON line {"ready": true, "public_port": ..., "private_port": ..., "governance_port": ...,
    "enrolment_port": ..., "nodes": ...} on stdout once all doors listen, the members' node keys are registered and runs
    can start. Leaves no process behind. Raises EnvironmentFault RSD-7101 (port in use), RSD-7102, RSD-7103 (another
    Flower), RSD-7104 (TLS material), RSD-7106 (Flower's programs), RSD-7108 (a door closed by itself), RSD-5030 (calls
    cannot be logged), InputError RSD-6215 (a file of the home is missing) and what `check_operator_law` raises.
    """
    files = prepare(config)
    with contextlib.ExitStack() as stack:
        public = stack.enter_context(listen(config.host, config.public_port, "the public door"))
        private = stack.enter_context(listen(_LOOPBACK, config.private_port, "the private door"))
        port = private.getsockname()[1]
        calls = CallLog(config.home)
        stack.callback(calls.close)
        members = Members(config.home)
        governance = Governance(config.home, members, calls)
        stack.callback(governance.stop)
        governance_ports = governance.start(config.host, config.governance_port, config.enrolment_port)
        command = superexec_command(f"{_LOOPBACK}:{port}", config.tls.ca, files.secret)
        child = SuperExec(command, superexec_environment(config.home, files.home, config.superexec_poll_s))
        stack.callback(child.stop)
        keeper = RunKeeper(config.home)
        stack.callback(keeper.close)
        token, secret = read_bytes(files.token, "the control token"), read_bytes(files.secret, "the superexec secret")
        app = flower_app(config.tls, token, secret, _LOOPBACK, port)
        tls = DoorTls(config.tls)
        parts = _Parts(config, app, tls, members, calls, keeper, child, (public, private), governance_ports)
        asyncio.run(_run(parts))


def prepare(config: ServerConfig) -> FlowerFiles:
    """Make missing folders and secrets, check home, law set and TLS files, silence Flower, allow many open files.

    It makes no key and no certificate: what `consortium init` made and is missing is named (RSD-6215, RSD-7104).
    """
    home = OperatorHome(config.home)
    home.need_whole()
    check_operator_law(home)
    check_tls(config.tls)
    files = flower_files(config.home)
    files.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not files.token.exists():
        write_durably(files.token, secrets.token_urlsafe(32).encode("ascii"), private=True)
    if not files.secret.exists():
        write_durably(files.secret, secrets.token_bytes(32), private=True)
    os.environ.update({**flwr_private.QUIET_ENVIRONMENT, "FLWR_HOME": str(files.home)})
    _allow_files()
    return files


def _allow_files() -> None:
    """As many open files as the system lets this process have, up to `_MOST_FILES`: the usual 1,024 are soon taken."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class _Server(uvicorn.Server):
    """A uvicorn server that leaves the process's signals alone, two of them run in one loop; and bounds handshakes."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's own, for sockets that listen, with a bound for the time of a TLS handshake."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            self.should_exit = True
            return
        loop = asyncio.get_running_loop()
        self.servers = [
            await loop.create_server(
                self._protocol,
                sock=sock,
                ssl=self.config.ssl,
                backlog=self.config.backlog,
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=HANDSHAKE_S,
            )
            for sock in sockets or []
        ]
        self.started = True

    def _protocol(self) -> asyncio.Protocol:
        protocol: asyncio.Protocol = PeerProtocol(self.config, self.server_state, self.lifespan.state)
        return protocol

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture nothing."""
        yield


def _server(door: Door, tls: ssl.SSLContext, *, lifespan: bool) -> _Server:
    config = uvicorn.Config(
        door,
        http=PeerProtocol,
        lifespan="on" if lifespan else "off",
        access_log=False,
        log_config=None,
        ws="none",
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=2,
    )
    config.load()
    config.ssl = tls  # a context of ours: a renewed certificate is loaded into it while the door is open
    return _Server(config)


async def _run(parts: _Parts) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    header = flwr_private.superlink().FLEET_HTTP_PUBLIC_KEY_HEADER
    public, private = parts.sockets
    doors = (
        (_server(PrivateDoor(parts.app, parts.calls), parts.tls.private, lifespan=True), private),
        (_server(FleetDoor(parts.app, parts.calls, parts.members, header), parts.tls.public, lifespan=False), public),
    )
    tasks: list[asyncio.Task[None]] = []
    try:
        for door, sock in doors:
            task = asyncio.create_task(door.serve([sock]))
            tasks.append(task)
            while not door.started and not task.done():  # noqa: ASYNC110 - uvicorn offers a flag, no event
                await asyncio.sleep(0.02)
        keys = frozenset(parts.members.node_keys().values())
        await asyncio.to_thread(_register, parts, keys)
        parts.child.keep_running()
        _say_ready(parts, len(keys))
        tasks.append(asyncio.create_task(_keep_runs(parts.keeper, stop)))
        await _watch(parts, keys, stop, tasks)
    finally:
        stop.set()
        await asyncio.to_thread(parts.child.stop)
        for door, _ in doors:
            door.should_exit = True
        await asyncio.gather(*tasks, return_exceptions=True)


def _say_ready(parts: _Parts, nodes: int) -> None:
    governance, enrolment = parts.governance_ports
    ready = {
        "ready": True,
        "public_port": parts.sockets[0].getsockname()[1],
        "private_port": parts.private_port,
        "governance_port": governance,
        "enrolment_port": enrolment,
        "nodes": nodes,
    }
    write_durably(parts.config.home / "flower" / "ready.json", json.dumps(ready).encode("ascii"))
    print(json.dumps(ready), flush=True)  # noqa: T201 - the line that whoever started this process waits for


def _register(parts: _Parts, keys: frozenset[bytes]) -> None:
    with Control(f"{_LOOPBACK}:{parts.private_port}", parts.config.tls.ca, read_token(parts.config.home)) as control:
        reconcile(control, keys)


async def _keep_runs(keeper: RunKeeper, stop: asyncio.Event) -> None:
    while not stop.is_set():
        await asyncio.to_thread(keeper.look)
        await _pause(stop)


async def _pause(stop: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), _WATCH_S)


async def _watch(
    parts: _Parts, keys: frozenset[bytes], stop: asyncio.Event, tasks: Sequence[asyncio.Task[None]]
) -> None:
    """Until the signal: keep the child running, follow the trust file and the server's certificate.

    Ends with an error when a task ended by itself or calls cannot be logged any more.
    """
    rest = time.monotonic() + _REST_S
    while not stop.is_set() and not any(task.done() for task in tasks):
        if time.monotonic() >= rest:
            await asyncio.to_thread(heap.give_back)
            rest = time.monotonic() + _REST_S
        if await asyncio.to_thread(parts.child.keep_running):
            _say("flower-superexec had ended and was started again")
        if parts.calls.trouble is not None:
            raise parts.calls.trouble
        keys = await _follow(parts, keys)
        await _pause(stop)
    if not stop.is_set():
        for task in tasks:
            if task.done():
                task.result()
        raise _door_closed()


async def _follow(parts: _Parts, keys: frozenset[bytes]) -> frozenset[bytes]:
    """Take up a renewed certificate and a changed trust file; what fails is said, and tried again when they change."""
    try:
        if parts.tls.refresh():
            _say("the server's certificate was renewed")
    except ResidencyError as e:
        _say(str(e))
    wanted = frozenset(parts.members.node_keys().values())
    if wanted != keys:
        try:
            await asyncio.to_thread(_register, parts, wanted)
        except ResidencyError as e:
            _say(str(e))
    return wanted


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - the server's own record of what happens


def _door_closed() -> EnvironmentFault:
    return EnvironmentFault(
        "RSD-7108",
        "a door of the server closed by itself",
        rule="both doors listen as long as the server runs",
        found="one door closed",
        limit="two open doors",
        next="read the server's log and start it again",
    )

"""What members, former members and strangers try at the fleet door of a real server, against sites and the server."""

from __future__ import annotations

import os
import resource
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app.message.message import make_message
from flwr.common import Metadata
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import DeactivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest

from client.fleet import Fleet, RunOver, fleet_tls
from compliance.errors import PeerUnreachable
from compliance.pki import public_pem
from server.bundle_build import build_bundle
from server.connections import MOST_OF_ONE
from server.control import Control
from server.flower_files import read_token
from strategies.wire import Request, encode_request, message_type
from tests.doorstep import Caller, Founded, Server, found, node_key, read_key, wait

PULL = "/v1/fleet/pull-messages"
SERVER_NODE = 1


class Doors:
    """The consortium and its server, started with few open files allowed, as systems do."""

    def __init__(self, base: Path) -> None:
        home = base / "hub"
        home.mkdir()
        self.made: Founded = found(base, home, ["a", "b", "c"])
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
        try:
            self.server = Server(home, base / "server.log")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def fleet(self, name: str) -> Fleet:
        """A site's own client."""
        key = self.made.base / f"{name}.key"
        tls = fleet_tls(self.made.tls.ca, self.made.base / f"{name}.crt", key)
        return Fleet(self.server.fleet, tls, read_key(key), threading.Event())

    def control(self) -> Control:
        """The operator's."""
        return Control(self.server.private, self.made.tls.ca, read_token(self.made.home))

    def held(self) -> int:
        """Open files of the server."""
        return len(os.listdir(f"/proc/{self.server.process.pid}/fd"))  # noqa: PTH208 - names alone


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    made = Doors(tmp_path_factory.mktemp("fleet-door"))
    yield made
    assert made.server.stop() == 0, made.server.said()


def _forged(run: int, src: int, dst: int, answered: str) -> Any:
    """What a site trains on, with metadata at will."""
    metadata = Metadata(
        run_id=run, message_id="", src_node_id=src, dst_node_id=dst, reply_to_message_id=answered, group_id="",
        created_at=time.time(), ttl=600.0, message_type=message_type("round"),
    )  # fmt: skip
    return make_message(metadata=metadata, content=encode_request(Request("round", b"{}", np.zeros(4, np.float32))))


def test_no_site_gives_instructions_to_another(doors: Doors) -> None:
    with doors.fleet("a") as a, doors.fleet("b") as b, doors.control() as control:
        run = control.start_run(build_bundle()[0], {"study": "ab" * 32})
        tries = (
            (SERVER_NODE, b.node_id, ""),
            (a.node_id, b.node_id, ""),
            (b.node_id, SERVER_NODE, "ab" * 32),
            (a.node_id, b.node_id, "ab" * 32),
        )
        count, end = 0, time.monotonic() + 60
        while control.run_status(run).status != "finished":  # it finds no such study; till then Flower takes messages
            for src, dst, answered in tries:
                with pytest.raises(PeerUnreachable) as e:
                    a.send(_forged(run, src, dst, answered))
                assert "RSD-6221" in e.value.found
            assert b.receive() is None
            assert a.receive() is None
            count += 1
            assert time.monotonic() < end
        assert count > 3
        with suppress(RunOver):  # of its own and to the server: let through, and Flower knows no such question
            a.send(_forged(run, a.node_id, SERVER_NODE, "ab" * 32))


def _as_another(node: Any) -> dict[str, Any]:
    """One request of each method that names a node."""
    return {
        "deactivate-node": DeactivateNodeRequest(node_id=node.node_id),
        "send-node-heartbeat": SendNodeHeartbeatRequest(node=node, heartbeat_interval=30),
        "pull-messages": PullMessagesRequest(node=node),
        "get-run": GetRunRequest(node=node, run_id=1),
        "get-fab": GetFabRequest(node=node, run_id=1, hash_str="00" * 32),
        "push-object": PushObjectRequest(node=node, run_id=1, object_id="00" * 32, object_content=b"x"),
        "pull-object": PullObjectRequest(node=node, run_id=1, object_id="00" * 32),
        "confirm-message-received": ConfirmMessageReceivedRequest(node=node, run_id=1, message_object_id="00" * 32),
    }


def test_every_method_is_bound_to_the_callers_own_node(doors: Doors) -> None:
    with doors.control() as control:
        numbers = {n.public_key: n.node_id for n in control.nodes()}
    a = doors.made.base / "a.key"
    others = [n for key, n in numbers.items() if key != public_pem(read_key(a)).encode()]
    caller = Caller.site(doors.made, "a")
    for number in (*others, 0, SERVER_NODE):
        for method, request in _as_another(Node(node_id=number)).items():
            found = caller.call(doors.server.fleet, f"/v1/fleet/{method}", request.SerializeToString())
            assert found == (401, ""), (method, number)
    plain = {**caller.signed(), "content-type": "text/plain"}  # Flower judges who calls only what it has parsed
    assert caller.call(doors.server.fleet, PULL, PullMessagesRequest().SerializeToString(), plain)[0] >= 400


def test_a_large_head_is_refused_before_it_is_read(doors: Doors) -> None:
    body = PushMessagesRequest(node=Node(node_id=1)).SerializeToString() + b"\x00" * 65_536
    assert Caller.site(doors.made, "a").call(doors.server.fleet, "/v1/fleet/push-messages", body) == (413, "")


def _holding(doors: Doors, caller: Caller, count: int, stack: ExitStack) -> list[ssl.SSLSocket]:
    """Idle TLS connections, as many as the server lets live."""
    made = []
    for _ in range(count):
        raw = stack.enter_context(socket.create_connection(("127.0.0.1", doors.server.ready["public_port"]), 5))
        with suppress(OSError):
            made.append(stack.enter_context(caller.tls.wrap_socket(raw, server_hostname="localhost")))
    return made


def _alive(connections: list[ssl.SSLSocket]) -> int:
    """How many the server has not cut."""
    count = 0
    for one in connections:
        one.settimeout(0.02)
        try:
            count += bool(one.recv(1))
        except TimeoutError:
            count += 1
        except OSError:
            continue
    return count


def _served(doors: Doors) -> Callable[[], bool]:
    honest = Caller.site(doors.made, "c")
    return lambda: honest.call(doors.server.fleet, PULL)[0] == 401  # Flower's word for a node that is not active


@pytest.mark.parametrize("who", ["member", "stranger"])
def test_nobody_holds_all_connections(doors: Doors, who: str) -> None:
    names = ["b"] if who == "member" else ["x", "y", "z"]
    for name in () if who == "member" else names:
        doors.made.certify(name, node_key(doors.made.base / f"{name}.key"), name)
    with ExitStack() as stack:
        held = [one for name in names for one in _holding(doors, Caller.site(doors.made, name), 40, stack)]
        wait(lambda: _alive(held) <= MOST_OF_ONE, 10)
        assert _alive(held) == MOST_OF_ONE
        assert _served(doors)()
    served = 401 if who == "member" else 403
    wait(lambda: Caller.site(doors.made, names[0]).call(doors.server.fleet, PULL)[0] == served, 10)


def test_a_refused_caller_loses_its_connection(doors: Doors) -> None:
    doors.made.certify("w", node_key(doors.made.base / "w.key"), "w")
    caller = Caller.site(doors.made, "w")
    connection = caller.connect(doors.server.fleet)
    assert caller.post(connection, PULL) == (403, "RSD-6205")
    assert connection.sock is None
    connection.close()


def test_handshakes_in_waiting_neither_stop_the_server_nor_last(doors: Doors) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    try:
        with ExitStack() as stack:
            for _ in range(700):
                stack.enter_context(socket.create_connection(("127.0.0.1", doors.server.ready["public_port"]), 5))
            wait(lambda: doors.held() > 600, 10)
            assert _served(doors)()
            wait(lambda: doors.held() < 200, 15)  # while the stranger still holds its ends
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert doors.server.process.poll() is None
    assert "Traceback" not in doors.server.said()

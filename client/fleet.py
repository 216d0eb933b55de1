"""The site's connection to the federation server: outward only, mutual TLS with a pinned CA, signed calls.

Built on Flower's fleet HTTP client, not on its ready-made connection: that one ends the whole process when the server
is away at the start or forgets the node, and a hospital's agent must wait instead.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec

from compliance.errors import InputError, PeerUnreachable, Refused
from strategies import flwr_private

ResponseT = TypeVar("ResponseT")

HEARTBEAT_S: Final = 15.0  # the server takes a node for gone after twice this time
_RETRY_WAITS_S: Final = (0.2, 0.5, 1.0, 2.0)
_RUN_OVER: Final = 403  # Flower's status for a run that is not running; the door's own refusals name their code
_REFUSED: Final = "residency-refused"


def fleet_tls(ca: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """What a site's connection to the fleet door needs: the pinned CA alone, TLS 1.3, and the site's certificate (PEM).

    Raises InputError RSD-6216 if the certificate and the node key cannot be used together, or the CA cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(cafile=ca)
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as e:
        raise InputError(
            "RSD-6216",
            f"the agent's TLS files cannot be used: {ca}, {certificate}, {key}",
            rule="the certificate belongs to the node key",
            found=str(e.strerror or type(e).__name__),
            limit="the pinned CA, and a certificate with its key",
            next="residency agent enroll --certificate FILE, with the certificate of this site's own request",
        ) from e
    return context


class RunOver(Exception):
    """The run of a message has ended; the message is dropped without a reply."""


@dataclass(frozen=True)
class RunFacts:
    """What the server says about a run: its bundle and the claimed SHA-256 of it, and the run's settings."""

    run_id: int
    bundle_sha256: str
    bundle: bytes
    settings: dict[str, Any]
    series_id: int


class Fleet:
    """One activated node. Use as a context manager; leaving it deactivates the node.

    Every method raises PeerUnreachable RSD-6101 if the server does not answer after some seconds of trying, RSD-6103 if
    it does not admit this node, and RunOver if the run has ended. Thread-safe.
    """

    def __init__(
        self, address: str, tls: ssl.SSLContext, key: ec.EllipticCurvePrivateKey, stop: threading.Event
    ) -> None:
        """`tls` comes from `fleet_tls` and shows the certificate for `key`."""
        self._f = flwr_private.fleet()
        self._m = flwr_private.messages()
        self._address = address
        self._stop = stop
        self._left = threading.Event()
        self._public_key: bytes = self._f.public_key_to_bytes(key.public_key())
        interceptors = [
            self._f.RuntimeVersionHttpInterceptor(component_name="SuperNode"),
            self._f.NodeAuthHttpInterceptor(key, key.public_key()),
        ]
        # Flower's own way to make a client knows no client certificate.
        self._client = self._f.FleetHttpClient(f"https://{address}", interceptors=interceptors, verify=tls)
        self._node: Any = None
        self._run: RunFacts | None = None
        self._heartbeat = threading.Thread(target=self._beat, name="fleet-heartbeat", daemon=True)

    @property
    def node_id(self) -> int:
        """The number that the server gave to this node's key."""
        return int(self._node.node_id)

    def __enter__(self) -> Fleet:
        try:
            request = self._f.ActivateNodeRequest(public_key=self._public_key, heartbeat_interval=HEARTBEAT_S)
            self._node = self._f.Node(node_id=self._call(self._client.ActivateNode, request).node_id)
        except BaseException:
            self._client.close()
            raise
        self._heartbeat.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._heartbeat.join()
        try:
            self._client.DeactivateNode(self._f.DeactivateNodeRequest(node_id=self.node_id))
        except (self._f.TransportError, self._f.HTTPStatusError):
            pass  # the server is away or has forgotten this node: it notices the silence by itself
        finally:
            self._client.close()

    def _beat(self) -> None:
        request = self._f.SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_S)
        while not self._left.wait(HEARTBEAT_S / 3):
            try:
                self._client.SendNodeHeartbeat(request)
            except (self._f.TransportError, self._f.HTTPStatusError):
                continue  # the next beat tries again; the polling meets the same trouble and reports it

    def _call(self, method: Callable[[Any], ResponseT], request: object) -> ResponseT:
        """Call the server; try again through a short absence."""
        for wait_s in (*_RETRY_WAITS_S, None):
            try:
                return method(request)
            except self._f.TransportError as e:
                if wait_s is None or self._stop.wait(wait_s):
                    raise self._away(type(e).__name__) from e
            except self._f.HTTPStatusError as e:
                status: int = e.response.status_code
                if status not in {502, 503, 504}:
                    raise self._judge(status, e.response.headers.get(_REFUSED, "")) from e
                if wait_s is None or self._stop.wait(wait_s):
                    raise self._away(f"HTTP {status}") from e
        raise AssertionError

    def _judge(self, status: int, code: str) -> Exception:
        if status == _RUN_OVER and not code:
            return RunOver()
        return PeerUnreachable(
            "RSD-6103",
            f"the federation server at {self._address} does not admit this node",
            rule="only members of the trust file are admitted, each once at a time",
            found=f"HTTP {status}{f', {code[:8]!a}' if code else ''}",
            limit="a member's certificate and node key, not active elsewhere",
            next="residency explain CODE tells what the door found; after a crash wait half a minute",
        )

    def _away(self, found: str) -> PeerUnreachable:
        return PeerUnreachable(
            "RSD-6101",
            f"the federation server at {self._address} does not answer",
            rule="the agent waits for the server",
            found=found,
            limit="an answer over TLS from the pinned CA",
            next="check the address, the firewall and the CA certificate",
        )

    def receive(self) -> tuple[Any, Any] | None:
        """The next (message without content, object tree) for this node, or None."""
        response = self._call(self._client.PullMessages, self._f.PullMessagesRequest(node=self._node))
        if not response.messages_list:
            return None
        message, tree = self._m.message_from_proto(response.messages_list[0]), response.message_object_trees[0]
        message.metadata.__dict__["_message_id"] = tree.object_id
        return message, tree

    def run(self, run_id: int) -> RunFacts:
        """What the server says about the run; nothing about it has been checked. Asked once per run."""
        if self._run is None or self._run.run_id != run_id:
            response = self._call(self._client.GetRun, self._f.GetRunRequest(node=self._node, run_id=run_id))
            run = self._m.run_from_proto(response.run)
            request = self._f.GetFabRequest(node=self._node, hash_str=run.fab_hash, run_id=run_id)
            content: bytes = self._call(self._client.GetFab, request).fab.content
            self._run = RunFacts(run_id, run.fab_hash, content, dict(run.override_config), run.series_id)
        return self._run

    def fetch(self, run_id: int, tree: Any, max_bytes: int) -> Any:
        """The whole message of `tree`; raises Refused RSD-1107 once more than `max_bytes` have arrived."""
        pull = self._m.make_pull_object_fn_protobuf(
            lambda request: self._call(self._client.PullObject, request), self._node, run_id
        )
        arrived = 0
        lock = threading.Lock()

        def bounded(object_id: str) -> bytes:
            nonlocal arrived
            content: bytes = pull(object_id)
            with lock:
                arrived += len(content)
                if arrived > max_bytes:
                    raise too_large(arrived, max_bytes)
            return content

        ids = [node.object_id for node in self._m.iterate_object_tree(tree)]
        objects = self._m.pull_objects(ids, bounded, initial_backoff=0.05, backoff_cap=1.0)
        confirm = self._m.make_confirm_message_received_fn_protobuf(
            lambda request: self._call(self._client.ConfirmMessageReceived, request), self._node, run_id
        )
        confirm(tree.object_id)
        message = self._m.inflate_object_from_contents(tree.object_id, objects)
        message.metadata.__dict__["_message_id"] = tree.object_id
        return message

    def send(self, reply: Any) -> None:
        """Push a whole reply. The running time that Flower's message has room for is sent as 0 (invariant 4)."""
        m = self._m
        with m.no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            objects = m.get_all_nested_objects(reply)
            without_content = m.remove_content_from_message(reply) if reply.has_content() else reply
            request = self._f.PushMessagesRequest(
                node=self._node,
                messages_list=[m.message_to_proto(without_content)],
                message_object_trees=[m.get_object_tree(reply)],
                clientapp_runtime_list=[0.0],  # the true one follows the number of records
            )
            response = self._call(self._client.PushMessages, request)
            push = m.make_push_object_fn_protobuf(
                lambda request: self._call(self._client.PushObject, request),
                self._node,
                reply.metadata.run_id,
                response.session_id,
            )
            m.push_objects(objects, push, object_ids_to_push=set(response.objects_to_push))


def too_large(found: int, limit: int) -> Refused:
    """The refusal of a message that exceeds the site's bound."""
    return Refused(
        "RSD-1107",
        "the message is too large",
        rule="a site bounds what it takes into memory",
        found=f"more than {found} bytes",
        limit=f"{limit} bytes",
        next="ask the operator for a study with a smaller adapter",
    )

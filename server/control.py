"""The operator's hand on the running server: admit nodes, start and stop runs. Speaks to the private door only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

from compliance.errors import PeerUnreachable, Refused, RunFailed
from compliance.files import read_bytes
from server.nodes import normal_public_key
from strategies import flwr_private

ResponseT = TypeVar("ResponseT")

_UNAUTHORIZED: Final = 401


@dataclass(frozen=True)
class RunStatus:
    """A run as Flower sees it: status pending, starting, running or finished; for a finished one its sub status
    (completed, failed, stopped) and details.
    """

    run_id: int
    status: str
    sub_status: str
    details: str


@dataclass(frozen=True)
class NodeInfo:
    """A registered node: its number, its public key (PEM) and whether it is online."""

    node_id: int
    public_key: bytes
    online: bool


class Control:
    """A client of the private door. Use as a context manager.

    Every method raises PeerUnreachable RSD-6104 if the server does not answer, Refused RSD-1123 if it refuses the
    token, and RunFailed RSD-8103 for any other answer that is not a success.
    """

    def __init__(self, address: str, ca: Path, token: str) -> None:
        self._c = flwr_private.control()
        self._address = address
        self._client = self._c.ControlHttpClient.from_server_address(
            address,
            False,
            read_bytes(ca, "the server's CA"),
            [self._c.RuntimeVersionHttpInterceptor(component_name="flwr CLI"), _Bearer(token)],
        )

    def __enter__(self) -> Control:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, t: TracebackType | None) -> None:
        self._client.close()

    def register_node(self, public_key: bytes) -> int:
        """Admit a node by its public key (EC P-384, OpenSSH or PEM); its number. Idempotent. Raises RSD-1122."""
        pem = normal_public_key(public_key)
        for node in self.nodes():
            if node.public_key == pem:
                return node.node_id
        request = self._c.RegisterNodeRequest(public_key=pem)
        return int(self._call("register the node", self._client.RegisterNode, request).node_id)

    def unregister_node(self, node_id: int) -> None:
        """Take a node's admission back; its next call is refused."""
        self._call("unregister the node", self._client.UnregisterNode, self._c.UnregisterNodeRequest(node_id=node_id))

    def nodes(self) -> tuple[NodeInfo, ...]:
        """All registered nodes."""
        response = self._call("list the nodes", self._client.ListNodes, self._c.ListNodesRequest())
        found = [NodeInfo(n.node_id, n.public_key, n.status == "online") for n in response.nodes_info]
        return tuple(n for n, info in zip(found, response.nodes_info, strict=True) if info.status != "unregistered")

    def start_run(self, bundle: bytes, settings: dict[str, str]) -> int:
        """Start a run with this bundle and these settings ({"study": digest}); its number."""
        fab = self._c.Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})
        request = self._c.StartRunRequest(
            fab=self._c.fab_to_proto(fab), override_config=self._c.user_config_to_proto(settings)
        )
        response = self._call("start the run", self._client.StartRun, request)
        if not response.HasField("run_id"):
            raise self._failed("start the run", "no run number")
        return int(response.run_id)

    def stop_run(self, run_id: int) -> None:
        """Stop a run; a run that has already ended is left as it is."""
        if self.run_status(run_id).status != "finished":
            self._call("stop the run", self._client.StopRun, self._c.StopRunRequest(run_id=run_id))

    def run_status(self, run_id: int) -> RunStatus:
        """Where the run stands."""
        response = self._call("ask for the run", self._client.ListRuns, self._c.ListRunsRequest(run_id=run_id))
        status = response.run_dict[run_id].status
        return RunStatus(run_id, status.status, status.sub_status, status.details)

    def _call(self, what: str, method: Callable[[Any], ResponseT], request: object) -> ResponseT:
        try:
            return method(request)
        except self._c.TransportError as e:
            raise PeerUnreachable(
                "RSD-6104",
                f"the server's private door at {self._address} does not answer",
                rule="control goes through the private door",
                found=type(e).__name__,
                limit="an answer over TLS",
                next="start the server, and run this command on the server's own machine",
            ) from e
        except self._c.HTTPStatusError as e:
            if e.response.status_code == _UNAUTHORIZED:
                raise _token_refused() from e
            raise self._failed(what, f"HTTP {e.response.status_code}: {e.response.text[:200]}") from e

    def _failed(self, what: str, found: str) -> RunFailed:
        return RunFailed(
            "RSD-8103",
            f"the server did not {what}",
            rule="the server answers a command with success",
            found=found,
            limit="success",
            next="read the server's log",
        )


def _token_refused() -> Refused:
    return Refused(
        "RSD-1123",
        "the server refuses the control token",
        rule="who holds the control token may start runs",
        found="another token",
        limit="the token in the server's home",
        next="use the token file of the running server",
    )


class _Bearer:
    """Adds the control token to each request."""

    def __init__(self, token: str) -> None:
        self._token = token

    def intercept(self, context: Any, call_next: Callable[[Any], Any]) -> Any:
        """Flower's interceptor call."""
        context.request.headers["Authorization"] = f"Bearer {self._token}"
        return call_next(context)

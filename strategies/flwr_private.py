"""The one place that touches private Flower names.

Flower 1.41 has no public interface for a node of one's own, for a server entry with two doors, or for starting runs
from Python. The names that this needs are listed here as data, by role, and loaded on first use: a site never imports
server modules, and a server never imports node modules. A name that is gone, or a parameter that was renamed, stops the
process with EnvironmentFault RSD-7103 before anything is sent.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import sys
from functools import cache, partial
from types import SimpleNamespace
from typing import Any, Final

from compliance.errors import EnvironmentFault

FLOWER_VERSION: Final = "1.41"  # the one minor version whose private names are known

# Flower reports usage and asks for updates by default; an air-gapped hospital is a normal hospital.
QUIET_ENVIRONMENT: Final = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}

_OBJECTS: Final = "flwr.supercore.inflatable.inflatable_object"
_TRANSFER: Final = "flwr.supercore.inflatable.inflatable_utils"
_OBJECT_CALLS: Final = "flwr.supercore.inflatable.inflatable_protobuf_utils"
_FLEET_PB: Final = "flwr.proto.fleet_pb2"
_CONTROL_PB: Final = "flwr.proto.control_pb2"
_HTTP_GRID: Final = "flwr.superlink.grid.http_grid"

NAMES: Final[dict[str, dict[str, str]]] = {
    "fleet": {  # what a site needs to talk to the server
        "FleetHttpClient": "flwr.supernode.fleet_http_client",
        "NodeAuthHttpInterceptor": "flwr.supernode.node_auth_http_interceptor",
        "RuntimeVersionHttpInterceptor": "flwr.supercore.interceptors",
        "ActivateNodeRequest": _FLEET_PB,
        "DeactivateNodeRequest": _FLEET_PB,
        "PullMessagesRequest": _FLEET_PB,
        "PushMessagesRequest": _FLEET_PB,
        "SendNodeHeartbeatRequest": "flwr.proto.heartbeat_pb2",
        "GetFabRequest": "flwr.proto.fab_pb2",
        "GetRunRequest": "flwr.proto.run_pb2",
        "Node": "flwr.proto.node_pb2",
        "TransportError": "httpx",
        "HTTPStatusError": "httpx",
        "public_key_to_bytes": "flwr.supercore.primitives.asymmetric",
    },
    "messages": {  # how a message becomes objects on the wire, and back
        "message_from_proto": "flwr.common.serde",
        "message_to_proto": "flwr.common.serde",
        "run_from_proto": "flwr.common.serde",
        "remove_content_from_message": "flwr.app.message",
        "get_all_nested_objects": _OBJECTS,
        "get_object_tree": _OBJECTS,
        "iterate_object_tree": _OBJECTS,
        "no_object_id_recompute": _OBJECTS,
        "inflate_object_from_contents": _TRANSFER,
        "pull_objects": _TRANSFER,
        "push_objects": _TRANSFER,
        "make_confirm_message_received_fn_protobuf": _OBJECT_CALLS,
        "make_pull_object_fn_protobuf": _OBJECT_CALLS,
        "make_push_object_fn_protobuf": _OBJECT_CALLS,
    },
    "superlink": {  # what the server's own entry point needs
        "SuperLinkLifespanConfig": "flwr.superlink.config_loader",
        "SuperLinkLifespan": "flwr.superlink.cli.flower_superlink",
        "create_app": "flwr.superlink.main",
        "NoOpControlAuthnPlugin": "flwr.superlink.auth_plugin",
        "FLWR_IN_MEMORY_DB_NAME": "flwr.supercore.constant",
        "FLEET_HTTP_PUBLIC_KEY_HEADER": "flwr.supercore.constant",
        "PushMessagesRequest": _FLEET_PB,
        "DecodeError": "google.protobuf.message",
        "SUPERLINK_NODE_ID": "flwr.common.constant",
    },
    "console": {  # how its log lines look
        "update_console_handler": "flwr.supercore.logger",
    },
    "grid": {  # what a ServerApp's process needs to be quick
        "HttpGrid": _HTTP_GRID,
        "pull_objects": _HTTP_GRID,  # the name that HttpGrid.pull_messages calls
    },
    "control": {  # what an operator's process needs to register nodes and start runs
        "ControlHttpClient": "flwr.supercore.control",
        "RuntimeVersionHttpInterceptor": "flwr.supercore.interceptors",
        "StartRunRequest": _CONTROL_PB,
        "StopRunRequest": _CONTROL_PB,
        "ListRunsRequest": _CONTROL_PB,
        "ListNodesRequest": _CONTROL_PB,
        "RegisterNodeRequest": _CONTROL_PB,
        "UnregisterNodeRequest": _CONTROL_PB,
        "Fab": "flwr.supercore.fab",
        "fab_to_proto": "flwr.common.serde",
        "user_config_to_proto": "flwr.common.serde",
        "TransportError": "httpx",
        "HTTPStatusError": "httpx",
    },
}

_PULL_OBJECTS: Final = (
    "object_ids",
    "pull_object_fn",
    "max_concurrent_pulls",
    "max_time",
    "max_tries_per_object",
    "initial_backoff",
    "backoff_cap",
)

# What Flower's server application puts around every call, outermost first; of the one that is made of a function, the
# function. Which of these an interface needs was read off this list, so another list is another Flower.
MIDDLEWARE: Final = (
    "ControlSensitiveResponseMiddleware",
    "http_error_translator",
    "ControlAuthenticationMiddleware",
    "ControlLicenseMiddleware",
    "ProtobufTranslationMiddleware",
    "RuntimeTracingMiddleware",
    "ControlEventLogMiddleware",
    "NodeAuthMiddleware",
    "FleetEventLogMiddleware",
)

# Parameters that are passed by name, or whose order matters; the self of methods is left out.
SIGNATURES: Final[dict[str, tuple[str, ...]]] = {
    "fleet.FleetHttpClient": ("base_url", "interceptors", "verify", "timeout", "retry_invoker"),
    "fleet.NodeAuthHttpInterceptor": ("private_key", "public_key"),
    "fleet.RuntimeVersionHttpInterceptor": ("component_name",),
    "fleet.public_key_to_bytes": ("public_key",),
    "messages.inflate_object_from_contents": ("object_id", "object_contents", "keep_object_contents", "objects"),
    "messages.pull_objects": _PULL_OBJECTS,
    "messages.push_objects": (
        "objects",
        "push_object_fn",
        "object_ids_to_push",
        "keep_objects",
        "max_concurrent_pushes",
    ),
    "messages.make_pull_object_fn_protobuf": ("pull_object_protobuf", "node", "run_id"),
    "messages.make_push_object_fn_protobuf": ("push_object_protobuf", "node", "run_id", "session_id"),
    "messages.make_confirm_message_received_fn_protobuf": ("confirm_message_received_protobuf", "node", "run_id"),
    "console.update_console_handler": ("level", "timestamps", "colored"),
    "grid.pull_objects": _PULL_OBJECTS,
    "grid.HttpGrid.pull_messages": ("self", "message_ids"),
    "superlink.create_app": ("config", "superlink_lifespan_class"),
    "superlink.SuperLinkLifespan": ("config", "state_factory"),
    "superlink.NoOpControlAuthnPlugin.validate_tokens_in_metadata": ("self", "metadata"),
    "superlink.SuperLinkLifespanConfig": (
        "control_address",
        "health_server_address",
        "host",
        "port",
        "insecure",
        "certificates",
        "superexec_auth_secret",
        "authn_plugin",
        "event_log_plugin",
        "fleet_event_log_plugin",
        "enable_event_log",
        "artifact_provider",
        "enable_supernode_auth",
        "fleet_api_type",
        "fleet_api_address",
        "simulation",
        "ssl_ca_certfile",
        "ssl_certfile",
        "ssl_keyfile",
        "database",
        "isolation",
        "runtime_dependency_install",
    ),
    "control.Fab": ("hash_str", "content", "verifications"),
    "control.ControlHttpClient.from_server_address": (
        "server_address",
        "insecure",
        "root_certificates",
        "interceptors",
        "retry_invoker",
    ),
}


def fleet() -> SimpleNamespace:
    """Names for a site's connection to the server. Raises EnvironmentFault RSD-7102, RSD-7103."""
    return _load("fleet")


def messages() -> SimpleNamespace:
    """Names for turning messages into wire objects and back. Raises EnvironmentFault RSD-7102, RSD-7103."""
    return _load("messages")


def superlink() -> SimpleNamespace:
    """Names for the server's entry point; server side only. Raises EnvironmentFault RSD-7102, RSD-7103."""
    return _load("superlink")


def grid() -> SimpleNamespace:
    """Names for a ServerApp's grid; server side only. Raises EnvironmentFault RSD-7102, RSD-7103."""
    return _load("grid")


def control() -> SimpleNamespace:
    """Names for the operator's control client. Raises EnvironmentFault RSD-7102, RSD-7103."""
    return _load("control")


def console() -> SimpleNamespace:
    """Names for Flower's log lines. Raises EnvironmentFault RSD-7102, RSD-7103."""
    return _load("console")


def plain_console() -> None:
    """No colours in what Flower's logger writes from now on, unless stderr is a terminal: a file keeps plain text.

    Raises EnvironmentFault RSD-7102, RSD-7103.
    """
    console().update_console_handler(colored=sys.stderr.isatty())


@cache
def hasten_pulls() -> None:
    """Make this process's HTTP grid look for an answer's objects often, and as long as Flower itself would.

    A grid learns of an answer before the answer's objects are there. Flower then looks again after 1 s, 2 s, ... 10 s;
    here after 30 ms, and at last every 250 ms. Raises EnvironmentFault RSD-7102, RSD-7103.
    """
    pull = grid().pull_objects
    quick = partial(pull, initial_backoff=0.03, backoff_cap=0.25, max_tries_per_object=20_000)
    importlib.import_module(_HTTP_GRID).__dict__["pull_objects"] = quick


def stack(app: Any, needed: frozenset[str]) -> Any:
    """An ASGI application: Flower's `app` (from create_app) with the middleware `needed` of it only, in its order.

    Raises EnvironmentFault RSD-7103 if the application's middleware is not exactly MIDDLEWARE.
    """
    whole = list(app.user_middleware)
    found = tuple(_middleware_name(m) for m in whole)
    if found != MIDDLEWARE:
        raise _changed("list of middleware", ", ".join(found), ", ".join(MIDDLEWARE))
    app.user_middleware = [m for m in whole if _middleware_name(m) in needed]
    try:
        return app.build_middleware_stack()
    finally:
        app.user_middleware = whole


def _middleware_name(middleware: Any) -> str:
    """The name of its class, or of the function that Starlette's general class calls."""
    return str(getattr(middleware.kwargs.get("dispatch"), "__name__", middleware.cls.__name__))


@cache
def _load(role: str) -> SimpleNamespace:
    installed = importlib.metadata.version("flwr")
    if installed.split(".")[:2] != FLOWER_VERSION.split("."):
        raise EnvironmentFault(
            "RSD-7102",
            f"Flower {installed} is installed, Residency works with {FLOWER_VERSION}",
            rule="private Flower names are known for one minor version",
            found=installed,
            limit=FLOWER_VERSION,
            next=f"install flwr {FLOWER_VERSION}.*",
        )
    names = SimpleNamespace(**{name: _find(name, module) for name, module in NAMES[role].items()})
    for path, expected in SIGNATURES.items():
        if path.startswith(f"{role}."):
            check_signature(path, names, expected)
    return names


def _find(name: str, module: str) -> object:
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as e:
        raise _changed(f"{module}.{name}", "nothing", "this name") from e


def check_signature(path: str, names: SimpleNamespace, expected: tuple[str, ...]) -> None:
    """Require that `path` ("role.Name" or "role.Name.method") takes exactly these parameters. Raises RSD-7103."""
    target: object = names
    for part in path.split(".")[1:]:
        target = getattr(target, part, None)
    if not callable(target):
        raise _changed(path, target, "a callable")
    found = tuple(inspect.signature(target).parameters)
    if found != expected:
        raise _changed(path, ", ".join(found), ", ".join(expected))


def _changed(what: str, found: object, limit: str) -> EnvironmentFault:
    return EnvironmentFault(
        "RSD-7103",
        f"Flower's {what} is not as it was measured",
        rule="private Flower names are checked before use",
        found=found,
        limit=limit,
        next=f"install flwr {FLOWER_VERSION}.* as pinned",
    )

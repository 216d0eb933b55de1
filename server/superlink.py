"""Flower's SuperLink application as this server runs it: its state in memory, its interfaces behind our doors.

Flower puts nine middlewares around every call, and each costs about a millisecond of it; most do nothing for most
calls. A call of the fleet or the runtime interface goes through those that do something for it; a control call goes
through all. Left out are the control interface's own, both event logs (no plugin is loaded) and tracing (for a
collector outside).
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from compliance.files import read_bytes
from compliance.tls import TlsFiles
from strategies import flwr_private

if TYPE_CHECKING:
    from server.doors import AsgiApp, AsgiEvent, Receive, Send

_ANY_CALL: Final = frozenset({"http_error_translator", "ProtobufTranslationMiddleware"})
NEEDED: Final = {"/v1/fleet/": _ANY_CALL | {"NodeAuthMiddleware"}, "/v1/runtime/": _ANY_CALL}


def flower_app(tls: TlsFiles, token: bytes, secret: bytes, host: str, private_port: int) -> Any:
    """Flower's application with node authentication on, process isolation, and nothing installed or reported.

    Raises EnvironmentFault RSD-7102, RSD-7103 if Flower, its private names or its middleware are others.
    """
    f = flwr_private.superlink()
    flwr_private.plain_console()
    logging.getLogger("flwr").setLevel(logging.WARNING)
    certificates = tuple(read_bytes(p, "the TLS material") for p in (tls.ca, tls.certificate, tls.key))
    settings = f.SuperLinkLifespanConfig(
        control_address="",
        health_server_address=None,
        host=host,
        port=private_port,
        insecure=False,
        certificates=certificates,
        superexec_auth_secret=secret,
        authn_plugin=_token_check(token),
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
    return Lean(f.create_app(settings, f.SuperLinkLifespan))


class Lean:
    """Flower's application `app`, with the middleware that an interface needs around its calls (`NEEDED`)."""

    def __init__(self, app: Any) -> None:
        """Raises EnvironmentFault RSD-7103 if `app` has other middleware than is known."""
        self._app = app
        self._stacks: dict[str, AsgiApp] = {path: flwr_private.stack(app, names) for path, names in NEEDED.items()}

    async def __call__(self, scope: AsgiEvent, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        for path, stack in self._stacks.items():
            if scope["type"] == "http" and scope["path"].startswith(path):
                scope["app"] = self._app
                await stack(scope, receive, send)
                return
        await self._app(scope, receive, send)


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

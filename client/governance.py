"""The site's side of the governance service: calls outward, each with a deadline, errors back in their own classes."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import grpc

from client.home import AgentHome
from compliance.error_reply import decode_error
from compliance.errors import InputError, PeerUnreachable, ResidencyError
from compliance.files import read_bytes
from compliance.governance import (
    ENROL,
    METHODS,
    MOST_REPLY,
    SERVICE,
    AnswerReply,
    AnswerRequest,
    CertificateReply,
    EnrolRequest,
    ExchangeReply,
    ExchangeRequest,
    Method,
    RenewRequest,
    StatusReply,
    StatusRequest,
    StudyReply,
    StudyRequest,
    TrustReply,
    TrustRequest,
)
from compliance.messages import decode, encode
from compliance.software import VERSION
from compliance.training_spec import Frozen

R = TypeVar("R", bound=Frozen)

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MOST_REPLY),
    ("grpc.enable_http_proxy", 0),  # the environment must not choose where a hospital connects to
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),  # a new client starts anew, with the certificate of now
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.primary_user_agent", "residency"),
)


class GovernanceClient:
    """One connection to the governance door, by the site's certificate. Use as a context manager.

    Each method raises PeerUnreachable RSD-6301 if no answer comes within the method's deadline, InputError RSD-6302 or
    RSD-1210 for a reply that is not one, and whatever the service refuses with, in its own class. Thread-safe.
    """

    def __init__(self, address: str, ca: bytes, key: bytes, certificate: bytes) -> None:
        credentials = _quiet().ssl_channel_credentials(ca, key, certificate)
        self._calls = _Calls(address, credentials, METHODS)

    @classmethod
    def of(cls, home: AgentHome) -> Self:
        """The client of an agent's home. Raises InputError RSD-2005 if a key or certificate is missing."""
        return cls(
            home.config.governance,
            read_bytes(home.path / "ca.crt", "the CA certificate"),
            read_bytes(home.path / "keys" / "node.key", "the node key"),
            read_bytes(home.path / "certs" / "site.crt", "the site's certificate"),
        )

    def close(self) -> None:
        """Close the connection; calls under way end at once."""
        self._calls.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def status(self) -> StatusReply:
        """The server's time, versions, trust, and the studies proposed to this site."""
        return self._calls.call("Status", StatusRequest(version=VERSION), StatusReply)

    def trust(self) -> bytes:
        """The operator's trust file; nothing about it is verified."""
        return self._calls.call("Trust", TrustRequest(), TrustReply).trust.encode("utf-8")

    def study(self, digest: str) -> bytes:
        """A study proposed to this site; nothing about it is verified."""
        return self._calls.call("Study", StudyRequest(digest=digest), StudyReply).study.encode("utf-8")

    def answer(self, statement: bytes) -> AnswerReply:
        """Hand a signed statement to the operator; when this returns it is on the operator's disk."""
        text = statement.decode("utf-8", "replace").rstrip("\n")
        return self._calls.call("Answer", AnswerRequest(statement=text), AnswerReply)

    def exchange(self, request: ExchangeRequest) -> ExchangeReply:
        """Show this site's checkpoint and cosignatures; get the others'."""
        return self._calls.call("Exchange", request, ExchangeReply)

    def renew(self, csr: bytes) -> bytes:
        """A new certificate (PEM) for the same node key; not verified yet."""
        reply = self._calls.call("Renew", RenewRequest(csr=csr.decode("ascii")), CertificateReply)
        return reply.certificate.encode("ascii", "replace")


def enrol(address: str, ca: bytes, token: str, request: bytes) -> bytes:
    """Hand the enrolment request to the operator's enrolment door; returns the site's certificate (PEM), not verified.

    The same request may be sent again after a lost reply. Raises PeerUnreachable RSD-6301, and what the door refuses
    with: Refused RSD-6212 (token unknown), RSD-6213 (expired), RSD-6214 (used), RSD-6303 (too often), CheckFailed
    RSD-6009.
    """
    calls = _Calls(address, _quiet().ssl_channel_credentials(ca), ENROL)
    try:
        text = request.decode("utf-8", "replace").rstrip("\n")
        reply = calls.call("Enrol", EnrolRequest(token=token, request=text), CertificateReply)
        return reply.certificate.encode("ascii", "replace")
    finally:
        calls.close()


class _Calls:
    """A channel and its methods as plain calls: bytes out, bytes in."""

    def __init__(self, address: str, credentials: Any, methods: dict[str, Method]) -> None:
        self._address, self._methods = address, methods
        self._channel = grpc.secure_channel(address, credentials, options=_OPTIONS)
        self._stubs = {name: self._channel.unary_unary(f"/{SERVICE}/{name}") for name in methods}

    def close(self) -> None:
        self._channel.close()

    def call(self, name: str, request: Frozen, reply: type[R]) -> R:
        method = self._methods[name]
        body = encode(request)
        if len(body) > method.most_bytes:
            raise InputError(
                "RSD-6302",
                f"the {name} call would be too large",
                rule="each method has a bound",
                found=f"{len(body)} bytes",
                limit=f"{method.most_bytes} bytes",
                next="send less: see compliance/governance.py",
            )
        try:
            answer = self._stubs[name](body, timeout=method.deadline_s)
        except grpc.RpcError as e:
            raise judged(self._address, e) from e
        except ValueError as e:  # the channel was closed by another thread
            raise _away(self._address, "closed here") from e
        return decode(reply, answer, f"the reply to {name}")


def judged(address: str, error: Any) -> ResidencyError:
    """What a failed call means: the service's own error if it sent one, else PeerUnreachable RSD-6301."""
    details = str(error.details() or "")
    if details.startswith("{"):
        return decode_error(details)
    return _away(address, f"{error.code().name}: {''.join(c for c in details if c.isprintable())[:200]}")


def _away(address: str, found: str) -> PeerUnreachable:
    return PeerUnreachable(
        "RSD-6301",
        f"the governance service at {address} does not answer",
        rule="every call has a deadline",
        found=found,
        limit="an answer over TLS from the pinned CA, to this site's certificate",
        next="check the address, the firewall and the certificates; the agent tries again by itself",
    )


def _quiet() -> Any:
    """gRPC's library, told not to write to this process's stderr."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    return grpc

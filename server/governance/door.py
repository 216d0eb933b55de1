"""One gRPC door: who calls, how often, how long and how large is judged before anything that was sent is parsed."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import grpc

from compliance.error_reply import encode_error
from compliance.errors import InputError, InternalBug, PeerUnreachable, Refused, ResidencyError
from compliance.governance import MOST_REPLY, SERVICE, Method
from compliance.messages import decode, encode
from compliance.training_spec import Frozen
from server.calls import OK, POLL, CallLog
from server.governance.limits import Limits

_SLACK_S: Final = 1.0  # a deadline is counted from when the call was made, by another clock's rounding
_BODY_S: Final = 3.0  # until the whole request has arrived, whatever the deadline
_MOST_DETAIL: Final = 200  # characters of one text of an error: the details travel in a header

Operation = Callable[[str, Any], Frozen]  # (caller, request) -> reply
OPTIONS: Final = (
    ("grpc.max_receive_message_length", 1 << 20),
    ("grpc.max_send_message_length", MOST_REPLY),
    ("grpc.max_metadata_size", 8 << 10),
    ("grpc.absolute_max_metadata_size", 16 << 10),
    ("grpc.max_concurrent_streams", 8),
    ("grpc.max_allowed_incoming_connections", 256),
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.max_connection_idle_ms", 120_000),
    ("grpc.max_connection_age_ms", 600_000),  # a held connection is given up, and its handshake judged again
    ("grpc.max_connection_age_grace_ms", 30_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 2),
    ("grpc.so_reuseport", 0),  # or a second server would share the port unnoticed
)


class CutOff(Exception):
    """The caller went away, or its deadline passed, before its request had arrived: nobody to answer."""


class _Refusal(NamedTuple):
    """How a call is refused. No exception in it: its frames would hold the call, and the stream with it, open."""

    code: str
    status: grpc.StatusCode
    details: str


@dataclass(frozen=True)
class Door:
    """What one door serves. `caller_of` names the caller, or refuses; `quiet` are methods whose success is polling."""

    surface: str
    methods: Mapping[str, Method]
    operations: Mapping[str, Operation]
    caller_of: Callable[[grpc.ServicerContext], str]
    limits: Limits
    calls: CallLog
    quiet: frozenset[str] = frozenset()

    def handler(self) -> grpc.GenericRpcHandler:
        """The methods as gRPC takes them, without generated code: bytes in, bytes out.

        Registered as streams of one message, so that a call is judged before its body is waited for; on the wire that
        is the same as a plain call.
        """
        handlers = {
            name: grpc.stream_unary_rpc_method_handler(self._serve(name, method))
            for name, method in self.methods.items()
        }
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    def _serve(self, name: str, method: Method) -> Callable[[Iterator[bytes], grpc.ServicerContext], bytes]:
        def serve(bodies: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
            caller = ""
            try:
                caller = self.caller_of(context)
                reply = self._answer(name, method, caller, bodies, context)
            except CutOff:
                self.calls.note(self.surface, name, caller, "cut off")
                return b""
            except ResidencyError as e:
                refusal = _refusal(e)
            except Exception as e:  # noqa: BLE001 - the border between the service and the wire
                traceback.print_exc(file=sys.stderr)
                refusal = _refusal(_unexpected(e))
            else:
                self.calls.note(self.surface, name, caller, POLL if name in self.quiet else OK)
                return reply
            self.calls.note(self.surface, name, caller, refusal.code)
            context.abort(refusal.status, refusal.details)
            raise AssertionError("abort raises")

        return serve

    def _answer(
        self, name: str, method: Method, caller: str, bodies: Iterator[bytes], context: grpc.ServicerContext
    ) -> bytes:
        self.limits.take(caller, name, method.per_minute)
        with self.limits.serving(caller, name):
            check_deadline(name, method, context.time_remaining())
            body = _first(bodies, context)
            if len(body) > method.most_bytes:
                raise too_large(name, len(body), method.most_bytes)
            return encode(self.operations[name](caller, decode(method.request, body, f"the {name} call")))


def _refusal(error: ResidencyError) -> _Refusal:
    """The error as a status with details, ASCII and bounded, because they travel in a header."""
    details = encode_error(error, _MOST_DETAIL).encode("ascii", "replace").decode("ascii")
    return _Refusal(error.code, _status(error), details)


def _first(bodies: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
    """The call's one message, which must come soon: a caller that is slow on purpose holds a thread meanwhile."""
    timer = threading.Timer(_BODY_S, context.cancel)
    timer.daemon = True
    timer.start()
    try:
        return next(bodies)
    except (StopIteration, grpc.RpcError) as e:
        raise CutOff from e
    finally:
        timer.cancel()


def check_deadline(name: str, method: Method, left_s: float | None) -> None:
    """The caller gave the call a deadline, and not a longer one than the method has. Raises InputError RSD-6304."""
    if left_s is None or left_s > method.deadline_s + _SLACK_S:
        raise InputError(
            "RSD-6304",
            f"this call of {name} has no deadline, or a longer one than the method has",
            rule="every call has a deadline on both sides",
            found="none" if left_s is None or left_s > 86_400 else f"{left_s:.0f} s",
            limit=f"{method.deadline_s:.0f} s",
            next="run the same Residency version on both sides",
        )


def too_large(name: str, found: int, limit: int) -> InputError:
    """The error for a body above its method's bound."""
    return InputError(
        "RSD-6302",
        f"the {name} call is too large",
        rule="each method has a bound",
        found=f"{found} bytes",
        limit=f"{limit} bytes",
        next="send less: see compliance/governance.py",
    )


def _unexpected(error: Exception) -> InternalBug:
    """By type only: an error's text could hold data of somebody else."""
    return InternalBug(
        "RSD-6309",
        "the governance service failed on an unexpected error",
        rule="an error's text never leaves the server",
        found=type(error).__name__,
        limit="no error",
        next="tell the operator; the server's own output has the details",
    )


def _status(error: ResidencyError) -> grpc.StatusCode:
    """gRPC's word for an error; what counts for our own client is the code in the details."""
    if error.code == "RSD-6303":
        return grpc.StatusCode.RESOURCE_EXHAUSTED
    if isinstance(error, InputError):
        return grpc.StatusCode.INVALID_ARGUMENT
    if isinstance(error, Refused):
        return grpc.StatusCode.PERMISSION_DENIED
    if isinstance(error, PeerUnreachable):
        return grpc.StatusCode.UNAVAILABLE
    return grpc.StatusCode.FAILED_PRECONDITION

"""The site's node: one process that asks the server for messages, judges each, and answers with the installed app.

It opens no port. It waits for an absent server for ever, and it leaves cleanly when told to stop, so that the server
can admit it again at once.
"""

from __future__ import annotations

import math
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from client.bundle_guard import check_bundle
from client.fleet import Fleet, RunFacts, RunOver, fleet_tls
from compliance.error_reply import encode_error
from compliance.errors import InputError, PeerUnreachable, Refused, ResidencyError, RunFailed
from compliance.files import read_bytes
from strategies import flwr_private, heap

_APP_REFUSED: Final = 7  # Flower's code for a bundle that a node does not accept
_APP_RAISED: Final = 2  # Flower's code for an app that ended with an error
_BACKOFF_S: Final = (0.5, 1.0, 2.0, 4.0)
_REST_S: Final = 10.0  # after the last answer, until free memory goes back to the kernel
_REST_AGAIN_S: Final = 3600.0


@dataclass(frozen=True)
class NodeConfig:
    """How a node reaches its server and when it asks. Times in seconds, `max_message_bytes` for one message's objects.

    `approved_bundles` is asked again for every message, so that a withdrawn approval holds from the next message on.
    `tellable` says what of an error may leave the site: the error, or less.
    A message at hand when the node is told to stop has `leave_within_s` to be answered; then `abandon` is called from
    another thread, which must end the work on it, so that it is answered with that error.
    `at_rest` is called some seconds after an answer, and hourly while nothing is asked; its error is reported.
    """

    server_address: str
    ca: Path
    certificate: Path
    node_key: Path
    home: Path
    approved_bundles: Callable[[], frozenset[str]]
    tellable: Callable[[ResidencyError], ResidencyError]
    poll_fast_s: float = 0.06
    poll_active_s: float = 0.5
    poll_idle_s: float = 1.0
    fast_for_s: float = 2.0
    active_for_s: float = 60.0
    max_message_bytes: int = 2**30 + 2**24
    leave_within_s: float = 10.0
    abandon: Callable[[], None] | None = None
    at_rest: Callable[[], None] | None = None


@dataclass(frozen=True)
class NodeState:
    """What the node reports: `state` is "online" (with `node_id`), "away" (with `error`), "answered", or "left"."""

    state: str
    node_id: int | None = None
    error: ResidencyError | None = None


def _to_stderr(state: NodeState) -> None:
    print(f"node {state.state}{f': {state.error}' if state.error else ''}", file=sys.stderr, flush=True)  # noqa: T201


def run_node(
    config: NodeConfig,
    app: ClientApp,
    stop: threading.Event,
    report: Callable[[NodeState], None] = _to_stderr,
) -> None:
    """Serve until `stop` is set; returns within a poll once the message at hand is answered or abandoned.

    Raises InputError RSD-1108, RSD-2005 or RSD-6216 for an unusable key, certificate or CA, EnvironmentFault RSD-7102,
    RSD-7103 for another Flower. An absent server, or one that does not admit this node, is reported and tried again for
    ever.
    """
    os.environ.update(flwr_private.QUIET_ENVIRONMENT)
    flwr_private.plain_console()
    key = load_node_key(config.node_key)
    flwr_private.fleet(), flwr_private.messages()
    failures = 0
    idle = threading.Event()
    threading.Thread(target=_hurry, args=(config, stop, idle), name="node-leaving", daemon=True).start()
    while not stop.is_set():
        try:
            idle.set()
            tls = fleet_tls(config.ca, config.certificate, config.node_key)  # read again: it may have been renewed
            with Fleet(config.server_address, tls, key, stop) as fleet:
                failures = 0
                report(NodeState("online", fleet.node_id))
                _serve(config, app, fleet, stop, idle, report)
        except PeerUnreachable as e:
            report(NodeState("away", error=e))
            stop.wait(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
            failures += 1
    idle.set()
    report(NodeState("left"))


def _hurry(config: NodeConfig, stop: threading.Event, idle: threading.Event) -> None:
    """Once told to stop, give the message at hand its time, then have it abandoned."""
    stop.wait()
    if not idle.wait(config.leave_within_s) and config.abandon is not None:
        config.abandon()


def load_node_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The node's private key (PEM or OpenSSH, NIST P-384, no passphrase). Raises InputError RSD-1108, RSD-2005."""
    data = read_bytes(path, "the node key")
    load = load_ssh_private_key if b"OPENSSH" in data[:64] else load_pem_private_key
    try:
        key = load(data, None)
    except (ValueError, TypeError) as e:
        raise _bad_key(path, type(e).__name__) from e
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise _bad_key(path, type(key).__name__)
    return key


def _bad_key(path: Path, found: str) -> InputError:
    return InputError(
        "RSD-1108",
        f"{path} is no node key",
        rule="node keys are NIST P-384 without a passphrase",
        found=found,
        limit="EC P-384, PEM or OpenSSH",
        next="make a key with: ssh-keygen -t ecdsa -b 384 -N '' -f node.key",
    )


def _serve(
    config: NodeConfig,
    app: ClientApp,
    fleet: Fleet,
    stop: threading.Event,
    idle: threading.Event,
    report: Callable[[NodeState], None],
) -> None:
    answered_at, rest_at = -math.inf, time.monotonic() + _REST_S
    while not stop.is_set():
        received = fleet.receive()
        if received is not None:
            idle.clear()
            answer_message(config, app, fleet, *received)
            idle.set()
            answered_at = time.monotonic()
            rest_at = answered_at + _REST_S
            report(NodeState("answered", fleet.node_id))
            continue
        if time.monotonic() >= rest_at:
            _rest(config, fleet, report)
            rest_at = time.monotonic() + _REST_AGAIN_S
        stop.wait(pause_s(config, time.monotonic() - answered_at))


def _rest(config: NodeConfig, fleet: Fleet, report: Callable[[NodeState], None]) -> None:
    try:
        if config.at_rest is not None:
            config.at_rest()
    except ResidencyError as e:
        report(NodeState("online", fleet.node_id, error=e))
    heap.give_back()


def pause_s(config: NodeConfig, quiet_s: float) -> float:
    """Seconds until the next look, `quiet_s` after the last answer: the next question mostly follows at once."""
    if quiet_s < config.fast_for_s:
        return config.poll_fast_s
    return config.poll_active_s if quiet_s < config.active_for_s else config.poll_idle_s


def answer_message(config: NodeConfig, app: ClientApp, fleet: Fleet, head: Message, tree: Any) -> None:
    """Judge the message, let the app answer it, and push the reply; a run that has ended gets none.

    A ResidencyError goes back as its code and reason. Any other exception goes back by type only, because its text
    could hold data; its traceback goes to this site's stderr.
    """
    try:
        try:
            reply = _answer(config, app, fleet, head, tree)
        except (PeerUnreachable, RunOver):
            raise
        except ResidencyError as e:
            reply = _error_reply(config, head, _APP_REFUSED if isinstance(e, Refused) else _APP_RAISED, e)
        except Exception as e:  # noqa: BLE001 - the border between the app and the wire
            traceback.print_exc()
            reply = _error_reply(config, head, _APP_RAISED, _unexpected(e))
        fleet.send(reply)
    except RunOver:
        return


def _answer(config: NodeConfig, app: ClientApp, fleet: Fleet, head: Message, tree: Any) -> Message:
    run = fleet.run(head.metadata.run_id)
    check_bundle(run.bundle_sha256, run.bundle, config.approved_bundles())
    check_settings(run.settings)
    message = fleet.fetch(run.run_id, tree, config.max_message_bytes)
    return app(message, _context(config, fleet.node_id, run))


def _context(config: NodeConfig, node_id: int, run: RunFacts) -> Context:
    return Context(
        run_id=run.run_id,
        node_id=node_id,
        node_config={"home": str(config.home)},
        state=RecordDict(),
        run_config={"study": run.settings["study"]},
        series_id=run.series_id,
    )


def check_settings(settings: dict[str, Any]) -> None:
    """Accept only {"study": 64 lower-case hex digits}. Raises Refused RSD-1105.

    The bundle's digest does not cover a run's settings: this is where an operator could try to change a parameter.
    """
    study = settings.get("study")
    if set(settings) == {"study"} and isinstance(study, str) and re.fullmatch(r"[0-9a-f]{64}", study):
        return
    raise Refused(
        "RSD-1105",
        "the run brings settings of its own",
        rule="parameters come from the signed study only",
        found=", ".join(f"{k!a}={v!a}" for k, v in sorted(settings.items()))[:300] or "no settings",
        limit="study=<digest>",
        next="ask the operator to start the run with the study's digest and nothing else",
    )


def _unexpected(error: Exception) -> RunFailed:
    return RunFailed(
        "RSD-8102",
        "the site failed on an unexpected error",
        rule="an error's text never leaves the site",
        found=type(error).__name__,
        limit="no error",
        next="ask the site engineer for the agent's own log",
    )


def _error_reply(config: NodeConfig, head: Message, code: int, error: ResidencyError) -> Message:
    return Message(Error(code=code, reason=encode_error(config.tellable(error))), reply_to=head)

"""Every place in the product that hands bytes to a socket, a gRPC stub, an HTTP client or a Flower message.

`found()` walks the code; `WAYS` names, for each place, what goes out there and the function that decides it first. A
place without an entry, or an entry without a place, is an error; so is a deciding function that asks nobody.
"""

from __future__ import annotations

import ast
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

Place = tuple[str, str, str]  # file, function, name


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ROOT: Final = Path(__file__).parent.parent
FOLDERS: Final = ("client", "server", "strategies", "compliance")
# Modules with which a program can speak to another machine.
TRANSPORTS: Final = _words(
    """
    aiohttp asyncio flwr ftplib grpc http httpx imaplib multiprocessing poplib requests smtplib socket
    socketserver ssl starlette telnetlib urllib urllib3 uvicorn websockets xmlrpc
    """
)
# What such modules, Flower and our own wire call the act of sending, or of making what is sent.
SENDS: Final = _words(
    """
    send sendall sendto sendmsg send_bytes sendfile send_message push_messages push_object push_objects
    send_and_receive secure_channel insecure_channel unary_unary unary_stream stream_unary stream_stream
    create_connection open_connection connect connect_ex urlopen urlretrieve post request Message Reply Request
    Error FleetHttpClient from_server_address HTTPConnection HTTPSConnection wrap_socket add_secure_port
    add_insecure_port create_server start_server unary_unary_rpc_method_handler stream_unary_rpc_method_handler
    unary_stream_rpc_method_handler stream_stream_rpc_method_handler abort abort_with_status
    set_trailing_metadata write_message call _call enrol
    """
)
# Flower's stubs are handed on as values, not only called.
STUBS: Final = _words(
    """
    ActivateNode DeactivateNode SendNodeHeartbeat PullMessages PushMessages GetRun GetFab PullObject PushObject
    ConfirmMessageReceived RegisterNode UnregisterNode ListNodes StartRun StopRun ListRuns
    """
)
HARMLESS: Final = frozenset({"sqlite3.connect", "urllib.parse", "enrolment.enrol"})
# The client of the governance service: each of its methods is a call outward.
CLIENT: Final = frozenset({"status", "trust", "study", "answer", "exchange", "renew"})


@dataclass(frozen=True)
class Way:
    """What goes out at a place, and where it is decided: `module:function`, which asks one of `DECIDERS`.

    Without artifacts nothing of a site or a study goes out there, and `why` says what does.
    """

    artifacts: tuple[str, ...] = ()
    decides: str = ""
    why: str = ""


def found() -> set[Place]:
    """Every sending place, and every import of a transport."""
    return {place for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py")) for place in _places(file)}


def _places(file: Path) -> Iterator[Place]:
    name = file.relative_to(ROOT).as_posix()
    yield from ((name, scope, what) for scope, what in _walk(ast.parse(file.read_text("utf-8")), ()))


def _walk(node: ast.AST, scope: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    where = ".".join(scope)
    if isinstance(node, ast.Import):
        names = [a.name for a in node.names if a.name not in HARMLESS]
        yield from ((where, f"import {name}") for name in names if name.partition(".")[0] in TRANSPORTS)
    elif (
        isinstance(node, ast.ImportFrom)
        and (node.module or "").partition(".")[0] in TRANSPORTS
        and node.module not in HARMLESS
    ):
        yield where, f"import {node.module}"
    elif isinstance(node, ast.Call) and _name(node.func) == "import_module":
        told = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        yield from ((where, f"import {name}") for name in told if name.partition(".")[0] in TRANSPORTS)
    elif isinstance(node, ast.Call) and _name(node.func) in SENDS and ast.unparse(node.func) not in HARMLESS:
        yield where, _name(node.func)
    elif isinstance(node, ast.Attribute) and (node.attr in STUBS or (node.attr in CLIENT and _is_client(node.value))):
        yield where, node.attr
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        scope = (*scope, node.name)
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, scope)


def _name(func: ast.expr) -> str:
    if isinstance(func, ast.Attribute):
        return func.attr
    return func.id if isinstance(func, ast.Name) else ""


def _is_client(value: ast.expr) -> bool:
    """`client` or something's `client`."""
    return _name(value) == "client"


# --- what goes out where ---------------------------------------------------------------------------------------------

ON: Final = Way(why="hands on what its callers make, which stand here themselves")
LOCAL: Final = Way(why="a pipe to this machine's own training process")
PLAIN: Final = Way(why="no network: a generator's send, or a signal to a process")
TYPES: Final = Way(why="types and protocols; the calls stand here themselves")
PRIVATE: Final = Way(why="the operator's own loopback door, on one machine")
UPKEEP: Final = Way(("conformance_report",), "client.commands:_serve_site")
CHECKPOINT: Final = Way(("log_checkpoint",), "server.outside_witnesses:OutsideWitnesses.ask")
DESK: Final = Way(why="what a reader has on disk already, to a browser: loopback, or a token and TLS")
LINK: Final = Way(("conformance_report",), "client.link:Link._look")
JOINED: Final = Way(("answer", "roster", "log_checkpoint"), "server.coordinator:_ask_to_join")
MODEL: Final = Way(("aggregate",), "server.coordinator:join")

WAYS: Final[dict[Place, Way]] = {
    ("client/app.py", "", "import flwr.app"): TYPES,
    ("client/app.py", "", "import flwr.clientapp"): TYPES,
    ("client/app.py", "_answer", "Message"): ON,
    ("client/circulation.py", "Circulation.turn", "exchange"): Way(
        ("log_checkpoint",), "client.circulation:Circulation.turn"
    ),
    ("client/contribution.py", "_send", "Reply"): Way(("dp_update", "log_checkpoint"), "client.contribution:_send"),
    ("client/doctor.py", "ask_server", "status"): Way(("conformance_report",), "client.doctor:ask_server"),
    ("client/enrol_commands.py", "_hand_over", "enrol"): Way(("answer",), "client.enrol_commands:_hand_over"),
    ("client/evaluation.py", "_send", "Reply"): Way(("metric", "log_checkpoint"), "client.evaluation:_send"),
    ("client/fleet.py", "", "import ssl"): TYPES,
    ("client/fleet.py", "Fleet.__init__", "FleetHttpClient"): UPKEEP,
    **{("client/fleet.py", f"Fleet.{f}", "_call"): UPKEEP for f in ("__enter__", "receive", "run", "fetch")},
    ("client/fleet.py", "Fleet.__enter__", "ActivateNode"): UPKEEP,
    ("client/fleet.py", "Fleet.__exit__", "DeactivateNode"): UPKEEP,
    ("client/fleet.py", "Fleet._beat", "SendNodeHeartbeat"): UPKEEP,
    ("client/fleet.py", "Fleet.receive", "PullMessages"): UPKEEP,
    ("client/fleet.py", "Fleet.run", "GetRun"): UPKEEP,
    ("client/fleet.py", "Fleet.run", "GetFab"): UPKEEP,
    ("client/fleet.py", "Fleet.fetch", "PullObject"): UPKEEP,
    ("client/fleet.py", "Fleet.fetch", "ConfirmMessageReceived"): UPKEEP,
    **{("client/fleet.py", "Fleet.send", n): ON for n in ("PushMessages", "PushObject", "_call", "push_objects")},
    ("client/framing.py", "", "import socket"): LOCAL,
    ("client/framing.py", "send", "sendall"): LOCAL,
    ("client/governance.py", "", "import grpc"): TYPES,
    ("client/governance.py", "_Calls.__init__", "secure_channel"): ON,
    ("client/governance.py", "_Calls.__init__", "unary_unary"): ON,
    ("client/governance.py", "enrol", "call"): ON,
    **{("client/governance.py", f"GovernanceClient.{n}", "call"): ON for n in sorted(CLIENT)},
    ("client/link.py", "Link._look", "status"): LINK,
    ("client/link.py", "Link._follow_trust", "trust"): LINK,
    ("client/link.py", "Link._fetch", "study"): LINK,
    ("client/link.py", "Link._renew", "renew"): LINK,
    ("client/node.py", "", "import flwr.app"): TYPES,
    ("client/node.py", "", "import flwr.clientapp"): TYPES,
    ("client/node.py", "_error_reply", "Error"): Way(("conformance_report",), "client.node:_error_reply"),
    ("client/node.py", "_error_reply", "Message"): Way(("conformance_report",), "client.node:_error_reply"),
    ("client/node.py", "answer_message", "send"): ON,
    ("client/outbox.py", "_hand_over", "answer"): Way(("answer",), "client.outbox:deliver"),
    ("client/session.py", "join", "Reply"): Way(("dataset_descriptor", "log_checkpoint"), "client.session:join"),
    ("client/session.py", "close", "Reply"): Way(
        ("log_export", "conformance_report", "log_checkpoint"), "client.session:join"
    ),
    ("client/training/dpsgd.py", "Round._backward", "send"): PLAIN,
    ("client/training/opacus_private.py", "LatticeOptimizer.add_noise", "send"): PLAIN,
    ("client/warm.py", "", "import socket"): LOCAL,
    ("client/warm.py", "Warm._ask", "send"): LOCAL,
    ("client/warm.py", "Warm._kill_task", "send"): LOCAL,
    ("client/witnessing.py", "witness", "Reply"): Way(
        ("roster", "log_checkpoint", "conformance_report"), "client.session:join"
    ),
    ("client/zygote.py", "", "import socket"): LOCAL,
    **{("client/zygote.py", f, "send"): LOCAL for f in ("_run", "_watch", "serve")},
    ("compliance/commands/witness_files.py", "_request", "Request"): Way(why="a witness reads what was handed to it"),
    ("compliance/commands/witness_files.py", "ask", "Request"): Way(
        ("log_checkpoint",), "compliance.commands.witness_files:ask"
    ),
    **{
        ("compliance/desk/app.py", "", f"import {n}"): TYPES
        for n in (
            *("asyncio", "http", "starlette.applications", "starlette.exceptions", "starlette.requests"),
            *("starlette.responses", "starlette.routing"),
        )
    },
    ("compliance/connections.py", "", "import asyncio"): TYPES,
    ("compliance/connections.py", "", "import uvicorn.protocols.http.auto"): TYPES,
    ("compliance/connections.py", "BoundedProtocol.connection_made", "abort"): Way(
        why="cuts a connection; says nothing"
    ),
    ("compliance/desk/connections.py", "", "import asyncio"): TYPES,
    **{("compliance/desk/guard.py", f"Guard.{f}", "send"): DESK for f in ("__call__", "__call__.sending", "_refuse")},
    ("compliance/desk/handshakes.py", "", "import socket"): TYPES,
    ("compliance/desk/login.py", "", "import http.cookies"): TYPES,
    **{("compliance/desk/serve.py", "", f"import {n}"): TYPES for n in ("asyncio", "socket", "ssl", "uvicorn")},
    ("compliance/desk/serve.py", "Loop.create_server", "create_server"): Way(
        why="listens; what a reader of the desk is shown stays with whoever started it for them"
    ),
    ("compliance/desk/timing.py", "", "import asyncio"): TYPES,
    ("compliance/log/witness_protocol.py", "parse_request", "Request"): Way(why="reads what came"),
    **{("compliance/log/witness_server.py", "", f"import {n}"): TYPES for n in ("http.server", "socket", "ssl")},
    ("compliance/log/witness_server.py", "WitnessDoor.get_request", "wrap_socket"): Way(
        why="listens; a witness answers with its own cosignatures"
    ),
    ("compliance/doctor_facts.py", "", "import socket"): TYPES,
    ("compliance/doctor_facts.py", "", "import ssl"): TYPES,
    **{
        ("compliance/doctor_facts.py", "door", n): Way(why="the doctor tries a TLS handshake: no more than the agent's")
        for n in ("create_connection", "sendall", "wrap_socket")
    },
    ("server/app.py", "", "import flwr.app"): TYPES,
    ("server/app.py", "", "import flwr.serverapp"): TYPES,
    ("server/closing.py", "_witness_request", "Request"): JOINED,
    ("server/closing.py", "close_at", "Request"): JOINED,
    ("server/connections.py", "", "import asyncio"): TYPES,
    ("server/control.py", "Control.__init__", "from_server_address"): PRIVATE,
    ("server/control.py", "Control.nodes", "ListNodes"): PRIVATE,
    ("server/control.py", "Control.register_node", "RegisterNode"): PRIVATE,
    ("server/control.py", "Control.run_status", "ListRuns"): PRIVATE,
    ("server/control.py", "Control.start_run", "StartRun"): PRIVATE,
    ("server/control.py", "Control.stop_run", "StopRun"): PRIVATE,
    ("server/control.py", "Control.unregister_node", "UnregisterNode"): PRIVATE,
    **{
        ("server/control.py", f"Control.{f}", "_call"): PRIVATE
        for f in ("nodes", "register_node", "run_status", "start_run", "stop_run", "unregister_node")
    },
    ("server/coordinator.py", "_join_request", "Request"): JOINED,
    ("server/door_tls.py", "", "import ssl"): TYPES,
    ("server/doors.py", "", "import asyncio"): TYPES,
    ("server/doors.py", "", "import socket"): TYPES,
    ("server/doors.py", "Door.__call__", "send"): Way(why="closes what is no HTTP; says nothing"),
    ("server/doors.py", "Door._serve.watched", "send"): Way(
        why="Flower's replies: acknowledgements, a run's bundle without code, and the messages that server/grid.py made"
    ),
    ("server/doors.py", "_refuse", "send"): Way(why="an HTTP status and a code of our own list"),
    ("server/evaluation.py", "_settle", "Request"): MODEL,
    ("server/governance/door.py", "", "import grpc"): TYPES,
    ("server/governance/door.py", "Door._serve.serve", "abort"): Way(why="the operator's own words about the call"),
    ("server/governance/door.py", "Door.handler", "stream_unary_rpc_method_handler"): Way(
        ("conformance_report", "roster", "answer", "log_checkpoint"), "server.governance.methods:Methods._decided"
    ),
    ("server/governance/service.py", "", "import grpc"): TYPES,
    ("server/governance/service.py", "Governance._open", "add_secure_port"): Way(why="listens"),
    ("server/grid.py", "", "import flwr.app"): TYPES,
    ("server/grid.py", "", "import flwr.serverapp"): TYPES,
    ("server/grid.py", "FastGrid._send", "Message"): ON,
    ("server/grid.py", "FastGrid._send", "push_messages"): ON,
    ("server/launcher.py", "", "import asyncio"): TYPES,
    ("server/launcher.py", "", "import socket"): TYPES,
    ("server/launcher.py", "", "import ssl"): TYPES,
    ("server/launcher.py", "", "import uvicorn"): TYPES,
    ("server/launcher.py", "_Server.startup", "create_server"): Way(why="listens"),
    **{("server/outside_witnesses.py", "", f"import {n}"): TYPES for n in ("http.client", "ssl")},
    ("server/outside_witnesses.py", "_request", "Request"): CHECKPOINT,
    **{
        ("server/outside_witnesses.py", "OutsideWitnesses._post", n): CHECKPOINT
        for n in ("HTTPConnection", "HTTPSConnection", "request")
    },
    ("server/rounds.py", "Rounds._settle", "Request"): MODEL,
    ("strategies/wire.py", "", "import flwr.app"): TYPES,
    ("strategies/wire.py", "decode_reply", "Reply"): Way(why="reads what came"),
    ("strategies/wire.py", "decode_request", "Request"): Way(why="reads what came"),
}
# How code asks for a decision: what a deciding function must call, and before it sends, if it sends itself.
DECIDERS: Final = _words(
    """
    first_contact.decide_request
    site.let_out decide_all standing.check joined.standing.check self._standing.check decided config.tellable
    r.gatekeeper.judge r.gatekeeper.closed_to self._gate.check may_show
    """
)


def undecided(ways: dict[Place, Way], root: Path = ROOT) -> list[str]:
    """The deciding functions that ask nobody, or only after they have sent."""
    wrong = []
    for (_, scope, what), way in sorted(ways.items()):
        if way.artifacts:
            module, _, function = way.decides.partition(":")
            body = _function(root / f"{module.replace('.', '/')}.py", function).body
            nodes = [n for statement in body for n in ast.walk(statement)]
            asked = [n.lineno for n in nodes if isinstance(n, ast.Call) and _asks(n)]
            sent = [n.lineno for n in nodes if isinstance(n, ast.Attribute | ast.Name) and _said(n) == what]
            if not asked or (function == scope and sent and min(asked) > min(sent)):
                wrong.append(f"{way.decides} ({what})")
    return wrong


def _asks(node: ast.Call) -> bool:
    """A decider is called, whatever stands before its last words: `books.standing.check` as well."""
    text = ast.unparse(node.func)
    return any(text == name or text.endswith(f".{name}") for name in DECIDERS)


def _said(node: ast.Attribute | ast.Name) -> str:
    return node.attr if isinstance(node, ast.Attribute) else (node.id if isinstance(node.ctx, ast.Load) else "")


def _function(file: Path, name: str) -> Any:
    node: ast.AST = ast.parse(file.read_text("utf-8"))
    for part in name.split("."):
        node = next(n for n in ast.iter_child_nodes(node) if getattr(n, "name", "") == part)
    return node


# --- what a running site sends ---------------------------------------------------------------------------------------

# A reply on the training plane, by the schema of its body; a call on the governance plane; Flower's own calls.
CARRIES: Final[dict[str, tuple[str, ...]]] = {
    "residency.joined/1": ("dataset_descriptor", "log_checkpoint"),
    "residency.contribution/1": ("dp_update", "log_checkpoint"),
    "residency.evaluated/1": ("metric", "log_checkpoint"),
    "residency.witnessed/1": ("roster", "log_checkpoint", "conformance_report"),
    "residency.closed/1": ("log_export", "conformance_report", "log_checkpoint"),
    "error": ("conformance_report",),
    "fleet": ("conformance_report",),
    "Status": ("conformance_report",),
    "Trust": ("conformance_report",),
    "Study": ("conformance_report",),
    "Renew": ("conformance_report",),
    "Answer": ("answer",),
    "Exchange": ("log_checkpoint",),
}
EACH_TIME: Final = frozenset({"dp_update", "metric"})  # decided anew for every sending


@dataclass(frozen=True)
class Sent:
    """Something that a site sent, and how many entries its log held then."""

    what: str
    size: int


def unaccounted(sent: list[Sent], decisions: dict[int, tuple[str, bool]]) -> list[str]:
    """What left without an ALLOW for a fitting artifact in the log before it. `decisions`: index -> artifact, allow."""
    wrong, since = [], 0
    for one in sent:
        for artifact in CARRIES.get(one.what, ("no artifact that is known",)):
            start = since if artifact in EACH_TIME else 0
            words = [
                allow for i, (kind, allow) in sorted(decisions.items()) if start <= i < one.size and kind == artifact
            ]
            if not words or not words[-1]:
                wrong.append(f"{one.what}: no ALLOW for {artifact} before entry {one.size}")
        since = one.size if EACH_TIME & set(CARRIES.get(one.what, ())) else since
    return wrong


def decisions_of(home: Path) -> dict[int, tuple[str, bool]]:
    """Index -> (artifact, allow) of every decision in the log at `home`, which another process may hold open."""
    rows = [(i, body) for i, body in _entries(home) if body["kind"] == "decision"]
    return {i: (str(e["body"]["transfer"]["artifact"]), e["body"]["allow"] is True) for i, e in rows}


def log_size(home: Path) -> int:
    """How many entries the log at `home` holds now."""
    return int(_rows(home, "SELECT count(*) FROM entries")[0][0])


def _entries(home: Path) -> list[tuple[int, dict[str, Any]]]:
    found = [json.loads(row[0]) for row in _rows(home, "SELECT data FROM entries")]
    return [(int(entry["index"]), entry) for entry in found]


def _rows(home: Path, query: str) -> list[Any]:
    connection = sqlite3.connect(f"file:{home / 'log.db'}?mode=ro", uri=True, timeout=5)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()

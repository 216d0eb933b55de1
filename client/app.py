"""Flower's door into the installed agent: turns a message into a request, lets the session answer, and wraps the reply.

No decision is taken here; `client.session` holds them.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from compliance.errors import InputError
from strategies.wire import Reply, Request, decode_request, encode_reply, message_type

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer a request of a round. Errors of the session pass through unchanged."""
    return _answer(message, context)


@app.query()
def query(message: Message, context: Context) -> Message:
    """Answer any other request. Errors of the session pass through unchanged."""
    return _answer(message, context)


def _answer(message: Message, context: Context) -> Message:
    request = read_request(message)
    session = importlib.import_module("client.session")  # loaded at the first message: it imports the training stack
    reply: Reply = session.handle(Path(str(context.node_config["home"])), request, context.node_id)
    return Message(encode_reply(reply), reply_to=message)


def read_request(message: Message) -> Request:
    """The request in `message`; raises InputError RSD-1110 to RSD-1112 unless it is one, under its message type."""
    request = decode_request(message.content)
    found = message.metadata.message_type
    if found != message_type(request.kind):
        raise InputError(
            "RSD-1112",
            "the request came under another message type",
            rule="each kind has one message type",
            found=f"{request.kind} as {found[:40]}",
            limit=message_type(request.kind),
            next="run the same Residency version on both sides",
        )
    return request

"""What goes out beside a reply: nothing that follows the site's data."""

import inspect
import ssl
import threading
import time

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message
from flwr.proto.fleet_pb2 import PushMessagesResponse
from flwr.proto.message_pb2 import PushObjectResponse
from flwr.supercore.task_identity import TaskIdentity

from client import fleet as module
from client.node import NodeConfig, answer_message
from compliance.canonical import canonical
from strategies.wire import Reply, Request, encode_reply, encode_request


class PushedFleet(module.Fleet):
    """A server that keeps what is pushed to it."""

    pushed: list

    def _call(self, _method, request):
        self.pushed.append(request)
        if hasattr(request, "clientapp_runtime_list"):
            return PushMessagesResponse()
        return PushObjectResponse(stored=True)


@pytest.fixture
def fleet():
    made = PushedFleet(
        "127.0.0.1:1", ssl.create_default_context(), ec.generate_private_key(ec.SECP384R1()), threading.Event()
    )
    made._node = made._f.Node(node_id=1)
    made.pushed = []
    yield made
    made._client.close()


@pytest.fixture
def asked(monkeypatch):
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    message = Message(encode_request(Request("round", canonical({}))), 1, "train")
    message.metadata.__dict__["_message_id"] = message.object_id
    return message


def test_the_running_time_of_a_reply_is_not_sent(fleet, asked, tmp_path, monkeypatch):
    def slow(*_):
        time.sleep(0.05)
        return Message(encode_reply(Reply(canonical({}), np.zeros(3, np.float32))), reply_to=asked)

    monkeypatch.setattr("client.node._answer", slow)
    config = NodeConfig(
        server_address="",
        ca=tmp_path,
        certificate=tmp_path,
        node_key=tmp_path,
        home=tmp_path,
        approved_bundles=frozenset,
        tellable=lambda error: error,
    )
    answer_message(config, lambda: None, fleet, asked, None)
    (request,) = [r for r in fleet.pushed if hasattr(r, "clientapp_runtime_list")]
    assert list(request.clientapp_runtime_list) == [0.0]
    assert "runtime" not in inspect.signature(fleet.send).parameters

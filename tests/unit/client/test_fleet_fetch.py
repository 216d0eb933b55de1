"""The bound on what a node takes into memory, over a server that is a dictionary of objects."""

import ssl
import threading

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message
from flwr.proto.message_pb2 import ConfirmMessageReceivedResponse, PullObjectResponse
from flwr.supercore.task_identity import TaskIdentity

from client.fleet import Fleet
from compliance.canonical import canonical
from compliance.errors import Refused
from strategies import flwr_private
from strategies.wire import Request, decode_request, encode_request


class MemoryFleet(Fleet):
    objects: dict[str, bytes]

    def _call(self, _method, request):
        if hasattr(request, "object_id"):
            content = self.objects[request.object_id]
            return PullObjectResponse(object_found=True, object_available=True, object_content=content)
        return ConfirmMessageReceivedResponse()


@pytest.fixture
def fleet():
    made = MemoryFleet(
        "127.0.0.1:1", ssl.create_default_context(), ec.generate_private_key(ec.SECP384R1()), threading.Event()
    )
    made._node = made._f.Node(node_id=1)
    yield made
    made._client.close()


@pytest.fixture
def tree(fleet, monkeypatch):
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    m = flwr_private.messages()
    array = np.arange(5000, dtype=np.float32)
    message = Message(encode_request(Request("round", canonical({}), array)), 1, "train")
    message.metadata.__dict__["_message_id"] = message.object_id
    fleet.objects = {name: item.deflate() for name, item in m.get_all_nested_objects(message).items()}
    return m.get_object_tree(message)


def test_a_message_within_the_bound_arrives_whole(fleet, tree):
    size = sum(map(len, fleet.objects.values()))
    request = decode_request(fleet.fetch(1, tree, size).content)
    assert request.array.tolist() == list(range(5000))


def test_a_larger_message_is_refused(fleet, tree):
    size = sum(map(len, fleet.objects.values()))
    with pytest.raises(Refused) as refused:
        fleet.fetch(1, tree, size - 1)
    assert (refused.value.code, refused.value.limit) == ("RSD-1107", f"{size - 1} bytes")

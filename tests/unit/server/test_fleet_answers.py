"""What a node may push: one answer of its own to the server, and nothing else."""

from __future__ import annotations

import pytest
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree
from flwr.proto.node_pb2 import Node

from server.fleet_answers import own_answer

OWN = {"src_node_id": 7, "dst_node_id": SUPERLINK_NODE_ID, "reply_to_message_id": "ab" * 32, "run_id": 3}


def pushed(*metadata: dict[str, object], node: int = 7, trees: int = 1) -> bytes:
    messages = [Message(metadata=Metadata(**one)) for one in metadata]  # type: ignore[arg-type]
    request = PushMessagesRequest(
        node=Node(node_id=node), messages_list=messages, message_object_trees=[ObjectTree()] * trees
    )
    return bytes(request.SerializeToString())


def test_one_answer_of_the_calling_node_passes() -> None:
    assert own_answer(pushed(OWN))


@pytest.mark.parametrize(
    "body",
    [
        pushed({**OWN, "reply_to_message_id": ""}),  # an instruction
        pushed({**OWN, "reply_to_message_id": "", "src_node_id": SUPERLINK_NODE_ID, "dst_node_id": 8}),
        pushed({**OWN, "src_node_id": SUPERLINK_NODE_ID}),
        pushed({**OWN, "src_node_id": 8}),  # another's answer
        pushed({**OWN, "dst_node_id": 8}),
        pushed({**OWN, "dst_node_id": 0}),
        pushed(OWN, OWN),
        pushed(),
        pushed(OWN, trees=0),
        pushed(OWN, trees=2),
        pushed(OWN, node=8),
        pushed(OWN) + pushed(OWN),  # a second message, appended
        pushed(OWN)[:-1],
        b"",
        b"\xff" * 40,
    ],
)
def test_anything_else_does_not(body: bytes) -> None:
    assert not own_answer(body)

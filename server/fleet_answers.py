"""What a node may push through the fleet door: answers of its own, and nothing else."""

from __future__ import annotations

from strategies import flwr_private


def own_answer(body: bytes) -> bool:
    """The body of a push-messages call holds one message: an answer to the server by the node that the call names.

    That the caller is this node, Flower checks for every fleet call, by the key that signed it. Raises EnvironmentFault
    RSD-7102, RSD-7103 for another Flower.
    """
    f = flwr_private.superlink()
    try:
        request = f.PushMessagesRequest.FromString(body)
    except f.DecodeError:
        return False
    if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
        return False
    told = request.messages_list[0].metadata
    from_itself = told.src_node_id == request.node.node_id
    return bool(from_itself and told.dst_node_id == f.SUPERLINK_NODE_ID and told.reply_to_message_id)

"""A session without domain logic: doubles arrays, refuses, fails, or is slow, by the kind of the request."""

import time

from compliance.canonical import canonical
from compliance.errors import Refused
from strategies.wire import Reply


def handle(home, request, node_id):
    if request.kind == "round":
        return Reply(canonical({"node": str(node_id)}), request.array * (1 + node_id % 7))
    if request.kind == "join":
        raise Refused("RSD-1999", "the site says no", rule="a rule", found="1", limit="0", next="ask")
    if request.kind == "witness":
        raise ValueError("patient 4711 has a rare disease")
    if request.kind == "close":
        time.sleep(2)
    return Reply(canonical({"home": home.name}))

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compliance.errors import EnvironmentFault
from server.doors import PUBLIC_PATHS, Door, listen


async def _inside(scope, receive, send):
    scope["reached"] = True


def scope(path="/v1/fleet/pull-messages", method="POST", headers=((b"content-length", b"10"),), kind="http"):
    return {"type": kind, "path": path, "method": method, "headers": list(headers)}


def judge(**kw):
    return Door(_inside, PUBLIC_PATHS, max_request_bytes=100).judge(scope(**kw))


def test_a_bounded_post_to_a_listed_path_passes():
    assert judge() is None


@given(st.text(max_size=40).filter(lambda p: not p.startswith("/v1/fleet/")))
def test_any_other_path_is_not_found(path):
    assert judge(path=path) == 404


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "OPTIONS", "post"])
def test_other_methods_are_refused(method):
    assert judge(method=method) == 405


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"content-length", b"-1")],
        [(b"content-length", b"1e9")],
        [(b"content-length", b"5"), (b"Content-Length", b"6")],
        [(b"content-length", b"5"), (b"Transfer-Encoding", b"chunked")],
    ],
)
def test_a_request_without_one_plain_length_is_refused(headers):
    assert judge(headers=headers) == 411


def test_the_length_is_bounded():
    assert judge(headers=[(b"content-length", b"100")]) is None
    assert judge(headers=[(b"content-length", b"101")]) == 413


def test_a_refusal_never_reaches_the_app():
    sent, refused = [], scope(path="/v1/control/start-run")

    async def send(event):
        sent.append(event)

    asyncio.run(Door(_inside, PUBLIC_PATHS)(refused, None, send))
    assert "reached" not in refused
    assert [e.get("status") for e in sent] == [404, None]
    socket_scope = scope(kind="websocket")
    asyncio.run(Door(_inside, PUBLIC_PATHS)(socket_scope, None, send))
    assert "reached" not in socket_scope
    assert sent[-1]["type"] == "websocket.close"


def test_two_doors_cannot_share_a_port():
    with listen("127.0.0.1", 0, "the public door") as first:
        port = first.getsockname()[1]
        with pytest.raises(EnvironmentFault) as e:
            listen("127.0.0.1", port, "the private door")
    assert (e.value.code, e.value.found) == ("RSD-7101", "port in use")
    assert str(port) in e.value.next


def test_a_foreign_address_is_an_error_of_this_machine():
    with pytest.raises(EnvironmentFault) as e:
        listen("192.0.2.1", 0, "the public door")
    assert e.value.code == "RSD-7101"
    assert e.value.found != "port in use"

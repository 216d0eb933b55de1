"""Which of Flower's middleware stands around a call of each interface; the whole application around all others."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from server.superlink import NEEDED, Lean
from strategies import flwr_private


@pytest.fixture
def lean(monkeypatch: Any) -> Lean:
    """Stacks that say who was called."""

    def told(name: object) -> Any:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send((name, scope.get("app")))

        return app

    monkeypatch.setattr(flwr_private, "stack", lambda _, needed: told(needed))
    return Lean(told("whole"))


def called(lean: Lean, kind: str, path: str) -> tuple[object, object]:
    said: list[tuple[object, object]] = []

    async def send(what: Any) -> None:
        said.append(what)

    asyncio.run(lean({"type": kind, "path": path}, SimpleNamespace, send))  # type: ignore[arg-type]
    (one,) = said
    return one


def test_the_fleet_authenticates_nodes_and_every_call_translates_protobuf_and_errors() -> None:
    general = {"http_error_translator", "ProtobufTranslationMiddleware"}
    assert {"/v1/fleet/": general | {"NodeAuthMiddleware"}, "/v1/runtime/": general} == NEEDED


@pytest.mark.parametrize("path", ["/v1/fleet/pull-messages", "/v1/runtime/acquire-task"])
def test_a_call_of_these_goes_through_its_own_stack(lean: Lean, path: str) -> None:
    name, app = called(lean, "http", path)
    assert name == NEEDED[path[: path.rindex("/") + 1]]
    assert app is lean._app  # Flower's handlers find their state there


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("http", "/v1/control/start-run"),
        ("http", "/v1/fleet"),
        ("http", "/v1/fleetx/pull-messages"),
        ("http", "/x/v1/fleet/pull-messages"),
        ("http", "/V1/FLEET/pull-messages"),
        ("http", "/docs"),
        ("lifespan", ""),
    ],
)
def test_anything_else_goes_through_all(lean: Lean, kind: str, path: str) -> None:
    assert called(lean, kind, path) == ("whole", None)

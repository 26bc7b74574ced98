"""``guarantee: sealed``: whichever way a response can be complete for its client, its record is durable by then."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from audit_middleware.errors import LogUnavailable
from audit_middleware.frameworks.marks import action
from tests.middleware.service import READER, Service, app_of
from tests.middleware.support import Exchange, eventually, http_scope, request, websocket_scope
from tests.middleware.test_guarantees import Store

POLICY = "roles: {reader: {}}\nactions:\n  doc.sealed: {guarantee: sealed, allow: [reader]}\n"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store of this test."""
    return Store(monkeypatch)


@pytest.fixture
def guarded(service: Service) -> Service:
    """A service under this file's policy."""
    service.policy = POLICY
    return service


class Says:
    """A response that sends these messages, and stays until it is told to end."""

    def __init__(self, *messages: dict[str, Any], swallow: type[BaseException] | None = None) -> None:
        self.messages = messages
        self.swallow = swallow

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        for message in self.messages:
            with contextlib.suppress(*([self.swallow] if self.swallow else [])):
                await send(message)


def start(status: int = 200, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def part(body: bytes = b"", *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


def serving(response: Any) -> Any:
    @action("doc.sealed")
    async def run(request: Request) -> Any:
        return response

    return app_of(Route("/", run, methods=["GET", "HEAD"]))


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0.005)


LENGTH = b"content-length"


@pytest.mark.parametrize(
    ("method", "messages"),
    [
        ("HEAD", [start(), part(b"one", more=True), part()]),
        ("GET", [start(204), part(more=True), part()]),
        ("GET", [start(304), part(more=True), part()]),
        ("GET", [start(200, (LENGTH, b"0")), part(more=True), part()]),
        ("GET", [start(200, (LENGTH, b" 3")), part(b"one", more=True), part()]),
        ("GET", [start(200, (LENGTH, b"2")), part(b"one", more=True), part()]),
        ("GET", [start(200, (b"Content-Length", b"3")), part(b"one", more=True), part()]),
        ("GET", [start(), {"type": "http.response.zerocopysend", "file": 0}]),
        ("GET", [start(), {"type": "http.response.pathsend", "path": "/dev/null"}]),
    ],
)
def test_no_end_is_shown_before_the_record_is_durable(
    guarded: Service, store: Store, method: str, messages: list[dict[str, Any]]
) -> None:
    async def drive(app: Any) -> None:
        await eventually(lambda: len(guarded.log.records()) >= 3, "the start's records")
        store.stop()
        exchange = Exchange(app, http_scope(method, "/", READER), request())
        await eventually(store.waiting.is_set, "the writer commits")
        await settled()
        assert exchange.messages == []
        store.go_on.set()
        assert await exchange.end() is None
        assert [message["type"] for message in exchange.messages] == [message["type"] for message in messages]

    guarded.run(serving(Says(*messages)), drive)


def test_an_end_that_is_withheld_stays_withheld(guarded: Service, store: Store) -> None:
    """Also from an application that catches what it gets, and sends another end."""

    async def drive(app: Any) -> None:
        await eventually(lambda: len(guarded.log.records()) >= 3, "the start's records")
        store.fails = True
        exchange = Exchange(app, http_scope("GET", "/", READER), request())
        await exchange.end()
        assert [message.get("more_body") for message in exchange.messages] == [None, True]
        store.fails = False

    guarded.run(serving(Says(start(), part(b"one", more=True), part(b"two"), part(), swallow=LogUnavailable)), drive)


def test_a_wait_that_was_cancelled_shows_no_end(guarded: Service, store: Store) -> None:
    """An application may cancel the sending, and send again: the record is no more durable than it was."""

    class Impatient(Says):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await send(start())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(send(part(b"one")), 0.2)
            await send(part(b"one"))

    async def drive(app: Any) -> None:
        await eventually(lambda: len(guarded.log.records()) >= 3, "the start's records")
        store.stop()
        exchange = Exchange(app, http_scope("GET", "/", READER), request())
        await exchange.end()
        assert exchange.messages == []
        store.go_on.set()

    guarded.run(serving(Impatient()), drive)


# --- WebSockets --------------------------------------------------------------------------------------------------


@action("doc.sealed")
async def denies(websocket: WebSocket) -> None:
    await websocket.send_denial_response(PlainTextResponse("not today", 409))


@action("doc.sealed")
async def leaves(websocket: WebSocket) -> None:
    await websocket.accept()


def connecting(handler: Any) -> Any:
    return app_of(WebSocketRoute("/", handler))


def websocket(app: Any) -> Exchange:
    extensions: dict[str, Any] = {"websocket.http.response": {}}
    return Exchange(app, websocket_scope("/", READER, extensions=extensions), {"type": "websocket.connect"})


@pytest.mark.parametrize("durable", [True, False])
def test_a_handlers_own_denial_response_waits(guarded: Service, store: Store, durable: bool) -> None:
    async def drive(app: Any) -> None:
        await eventually(lambda: len(guarded.log.records()) >= 3, "the start's records")
        store.stop()
        exchange = websocket(app)
        await eventually(store.waiting.is_set, "the writer commits")
        await settled()
        assert exchange.messages == []
        store.fails = not durable
        store.go_on.set()
        await exchange.end()
        kinds = [message["type"] for message in exchange.messages]
        assert kinds == ["websocket.http.response.start", "websocket.http.response.body"]
        assert exchange.messages[0]["status"] == (409 if durable else 503)
        store.fails = False

    (record,) = guarded.run(connecting(denies), drive)
    assert record["response"]["status"] == 409


@pytest.mark.parametrize("durable", [True, False])
def test_a_handler_that_leaves_its_websocket_open(guarded: Service, store: Store, durable: bool) -> None:
    """The server closes it as soon as the application returns."""

    async def drive(app: Any) -> None:
        await eventually(lambda: len(guarded.log.records()) >= 3, "the start's records")
        store.stop()
        exchange = websocket(app)
        assert (await exchange.sent())["type"] == "websocket.accept"
        await eventually(store.waiting.is_set, "the writer commits")
        await settled()
        assert not exchange.task.done()
        store.fails = not durable
        store.go_on.set()
        await exchange.end()
        assert [message.get("code") for message in exchange.messages[1:]] == ([] if durable else [1011])
        store.fails = False

    assert len(guarded.run(connecting(leaves), drive)) == 1

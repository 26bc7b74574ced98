"""Timing is the application's own too: streams, background work, disconnects, cancellation, contexts, WebSockets."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Request, WebSocket
from fastapi.responses import PlainTextResponse, Response, StreamingResponse
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.endpoints import WebSocketEndpoint
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect, WebSocketState

from tests.middleware.support import (
    DISCONNECT,
    PATIENCE,
    Exchange,
    Message,
    Twins,
    check_log,
    http_scope,
    request,
    shown,
    stripped,
    websocket_scope,
)

OLD = {"version": "3.0", "spec_version": "2.3"}  # as uvicorn and granian say: Starlette then listens for a disconnect
SPECS = pytest.mark.parametrize("asgi", [OLD, {"version": "3.0", "spec_version": "2.4"}], ids=["2.3", "2.4"])


async def _soon(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), PATIENCE)


# --- streams -----------------------------------------------------------------------------------------------------


@SPECS
@pytest.mark.parametrize("level", ["metadata", "response"])
def test_the_first_chunk_leaves_before_the_last_is_made(twins: Twins, asgi: Any, level: str) -> None:
    """The generator waits for what the client does after it got the first chunk: buffering anything would hang."""
    twins.policy = f"default: allow\nactions:\n  a.stream: {{allow: [anyone], record: {level}}}\nroutes:\n"
    twins.policy += "  - {match: 'GET /', action: a.stream}\n"

    def make() -> Starlette:
        app = Starlette()
        app.state.go_on = asyncio.Event()

        async def parts() -> AsyncIterator[bytes]:
            yield b"first"
            await _soon(app.state.go_on)
            yield b"second"

        app.routes.append(Route("/", lambda request: StreamingResponse(parts())))
        return app

    async def drive(app: Any) -> Any:
        exchange = Exchange(app, http_scope("GET", "/", asgi=asgi), request())
        start, first = await exchange.sent(), await exchange.sent()
        assert first["body"] == b"first"
        assert not exchange.task.done()
        app.state.go_on.set()
        rest = [await exchange.sent(), await exchange.sent()]
        await exchange.end()
        return stripped([start, first, *rest])

    messages = twins.same(make, drive)
    assert [message.get("body") for message in messages] == [None, b"first", b"second", b""]
    assert check_log(twins.log)[0]["response"]["size"] == 11


def test_an_upload_is_seen_chunk_by_chunk(twins: Twins) -> None:
    """The handler answers the first chunk before the second is sent."""

    async def relay(request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            async for chunk in request.stream():
                yield chunk.upper()

        return StreamingResponse(parts())

    async def drive(app: Any) -> Any:
        exchange = Exchange(app, http_scope("POST", "/"), request(b"one", more=True))
        assert (await exchange.sent())["status"] == 200
        assert (await exchange.sent())["body"] == b"ONE"
        exchange.give(request(b"two"))
        assert (await exchange.sent())["body"] == b"TWO"
        await exchange.end()
        return stripped(exchange.messages)

    twins.same(lambda: Starlette(routes=[Route("/", relay, methods=["POST"])]), drive)
    record = check_log(twins.log)[0]
    assert (record["request"]["size"], record["response"]["size"]) == (6, 6)


# --- background work, dependencies -------------------------------------------------------------------------------


def test_background_work_starts_after_the_last_byte_and_in_order(twins: Twins) -> None:
    def make() -> FastAPI:
        app = FastAPI()
        app.state.trace = trace = []

        async def resource() -> AsyncIterator[None]:
            trace.append("open")
            yield
            trace.append("close")

        @app.get("/")
        async def page(tasks: BackgroundTasks, _: None = Depends(resource)) -> str:
            tasks.add_task(trace.append, "sync task")
            tasks.add_task(later)
            trace.append("handler")
            return "x"

        async def later() -> None:
            await asyncio.sleep(0)
            trace.append("async task")

        return app

    async def drive(app: Any) -> list[Any]:
        exchange = Exchange(app, http_scope("GET", "/"), request(), trace=app.state.trace)
        await exchange.end()
        return list(app.state.trace)

    order = [event for event in twins.same(make, drive) if event != "close"]  # versions differ in when they close
    assert order == [
        *("open", "handler", "http.response.start", "http.response.body"),
        *("sync task", "async task"),
    ]


def test_background_work_does_not_hold_the_response(twins: Twins) -> None:
    def make() -> Starlette:
        app = Starlette()
        app.state.go_on = asyncio.Event()
        task = BackgroundTask(_soon, app.state.go_on)
        app.routes.append(Route("/", lambda request: PlainTextResponse("x", background=task)))
        return app

    async def drive(app: Any) -> Any:
        exchange = Exchange(app, http_scope("GET", "/"), request())
        await exchange.sent()
        last = await exchange.sent()
        assert not exchange.task.done(), "the background task waits for us"
        app.state.go_on.set()
        assert await exchange.end() is None
        return last

    twins.same(make, drive)


# --- disconnects and cancellation --------------------------------------------------------------------------------


def _waiting(app: Starlette) -> None:
    """Routes that wait, and note how their waiting ended."""
    notes = app.state.notes = []
    app.state.waits = asyncio.Event()

    async def wait() -> None:
        app.state.waits.set()
        try:
            await asyncio.sleep(10 * PATIENCE)
        except BaseException as error:
            notes.append(type(error).__name__)
            raise
        finally:
            notes.append("cleaned up")

    async def plain(request: Request) -> Response:
        await wait()
        raise AssertionError

    async def endless(request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"first"
            await wait()

        return StreamingResponse(parts())

    async def reading(request: Request) -> Response:
        app.state.waits.set()
        try:
            return Response(await request.body())
        except BaseException as error:
            notes.append(type(error).__name__)
            raise

    async def scoped(request: Request) -> Response:
        with anyio.move_on_after(0):
            await wait()
        return Response("moved on")

    app.router.routes += [
        Route("/plain", plain),
        Route("/endless", endless),
        Route("/reading", reading, methods=["POST"]),
        Route("/scoped", scoped),
    ]


def _make_waiting() -> Starlette:
    app = Starlette()
    _waiting(app)
    return app


@pytest.mark.parametrize("path", ["/plain", "/endless"])
def test_cancellation_reaches_the_handler_once(twins: Twins, path: str) -> None:
    async def drive(app: Any) -> Any:
        exchange = Exchange(app, http_scope("GET", path), request())
        await _soon(app.state.waits)
        exchange.task.cancel()
        error = await exchange.end()
        return type(error), stripped(exchange.messages), list(app.state.notes)

    kind, _, notes = twins.same(_make_waiting, drive)
    assert (kind, notes) == (asyncio.CancelledError, ["CancelledError", "cleaned up"])
    assert [record["outcome"] for record in check_log(twins.log)] == ["aborted"]


@pytest.mark.parametrize("path", ["/plain", "/endless"])
def test_a_cancel_scope_around_the_application(twins: Twins, path: str) -> None:
    """anyio cancels again and again until the scope is left: what awaits while it cleans up is cancelled too."""

    async def drive(app: Any) -> Any:
        cut_short: list[Any] = []

        async def scoped(scope: Any, receive: Any, send: Any) -> None:
            with anyio.CancelScope() as cancelling:
                app.state.cancel = cancelling.cancel
                await app(scope, receive, send)
            cut_short.append(cancelling.cancelled_caught)

        exchange = Exchange(scoped, http_scope("GET", path), request())
        await _soon(app.state.waits)
        app.state.cancel()
        assert await exchange.end() is None
        return cut_short, list(app.state.notes)

    assert twins.same(_make_waiting, drive)[0] == [True]
    assert [record["outcome"] for record in check_log(twins.log)] == ["aborted"]


def test_a_cancel_scope_inside_the_handler(twins: Twins) -> None:
    async def drive(app: Any) -> Any:
        exchange = Exchange(app, http_scope("GET", "/scoped"), request())
        await exchange.end()
        return shown(exchange.answer()), list(app.state.notes)

    assert twins.same(_make_waiting, drive)[0][0][1]["body"] == b"moved on"
    assert [record["outcome"] for record in check_log(twins.log)] == ["success"]


def test_a_timeout_around_the_application(twins: Twins) -> None:
    async def drive(app: Any) -> Any:
        task = asyncio.ensure_future(
            asyncio.wait_for(app(http_scope("GET", "/plain"), asyncio.Queue().get, asyncio.Queue().put), 0.05)
        )
        done, _ = await asyncio.wait({task}, timeout=PATIENCE)
        assert done
        return type(task.exception()), list(app.state.notes)

    assert twins.same(_make_waiting, drive)[0] is TimeoutError


def test_a_disconnect_ends_a_stream(twins: Twins) -> None:
    async def drive(app: Any) -> Any:
        exchange = Exchange(app, http_scope("GET", "/endless", asgi=OLD), request())
        await _soon(app.state.waits)
        exchange.give(DISCONNECT)
        error = await exchange.end()
        return error, stripped(exchange.messages), list(app.state.notes)

    error, messages, notes = twins.same(_make_waiting, drive)
    assert error is None
    assert messages[-1]["body"] == b"first"
    assert notes == ["CancelledError", "cleaned up"]
    record = check_log(twins.log)[0]
    assert (record["outcome"], record["response"]["status"], record["response"]["size"]) == ("aborted", 200, 5)


def test_a_failing_send_ends_a_stream(twins: Twins) -> None:
    """ASGI 2.4: a server raises OSError for what it cannot send."""

    def make() -> Starlette:
        async def parts() -> AsyncIterator[bytes]:
            for _ in range(100):
                yield b"x"

        return Starlette(routes=[Route("/", lambda request: StreamingResponse(parts()))])

    async def drive(app: Any) -> Any:
        sent: list[Any] = []

        async def receive() -> Message:
            return request()

        async def send(message: Any) -> None:
            if len(sent) == 3:
                raise OSError("gone")
            sent.append(message)

        try:
            await app(http_scope("GET", "/"), receive, send)
        except Exception as error:
            return type(error).__name__, stripped(sent)

    assert twins.same(make, drive)[0] == "ClientDisconnect"
    record = check_log(twins.log)[0]
    assert (record["outcome"], record["response"]["status"]) == ("aborted", 200)


def test_a_disconnect_while_the_body_is_read(twins: Twins) -> None:
    async def drive(app: Any) -> Any:
        exchange = Exchange(app, http_scope("POST", "/reading"), request(b"part", more=True), DISCONNECT)
        error = await exchange.end()
        return type(error).__name__, stripped(exchange.messages), list(app.state.notes)

    assert twins.same(_make_waiting, drive)[2] == ["ClientDisconnect"]
    assert [record["outcome"] for record in check_log(twins.log)] == ["aborted"]


# --- contexts ----------------------------------------------------------------------------------------------------


def test_context_variables_set_by_the_handler_reach_the_caller(twins: Twins) -> None:
    """Nothing below us runs in another task than it would without us."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    async def page(request: Request) -> Response:
        before = variable.get()
        variable.set("by the handler")
        return PlainTextResponse(before)

    async def drive(app: Any) -> Any:
        variable.set("by the server")
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Message:
            return request()

        here = asyncio.current_task()
        await app(http_scope("GET", "/"), receive, send)
        assert asyncio.current_task() is here
        return variable.get(), sent[1]["body"]

    make = lambda: Starlette(routes=[Route("/", page)])  # noqa: E731
    assert twins.same(make, drive) == ("by the handler", b"by the server")


def test_the_handlers_task_is_the_servers(twins: Twins) -> None:
    tasks: list[Any] = []

    async def page(request: Request) -> Response:
        tasks.append(asyncio.current_task())
        return Response()

    async def drive(app: Any) -> Any:
        exchange = Exchange(app, http_scope("GET", "/"), request())
        await exchange.end()
        return tasks.pop() is exchange.task

    assert twins.same(lambda: Starlette(routes=[Route("/", page)]), drive) is True


# --- WebSockets --------------------------------------------------------------------------------------------------


class Echo(WebSocketEndpoint):
    """A class-based endpoint."""

    encoding = "text"

    async def on_receive(self, websocket: WebSocket, data: str) -> None:
        await websocket.send_text(data)

    async def on_disconnect(self, websocket: WebSocket, close_code: int) -> None:
        websocket.app.state.notes.append(close_code)


def _sockets() -> FastAPI:
    app = FastAPI()
    notes: list[Any] = []
    app.state.notes = notes

    @app.websocket("/echo/{name}")
    async def echo(websocket: WebSocket, name: str, token: str | None = None) -> None:
        await websocket.accept(subprotocol="v1", headers=[(b"x-name", name.encode()), (b"x-name", b"again")])
        try:
            while True:
                message = await websocket.receive()
                if message["type"] == "websocket.disconnect":
                    notes.append((message.get("code"), websocket.client_state is WebSocketState.DISCONNECTED))
                    return
                if message.get("text") == "close":
                    await websocket.close(4001, "asked to")
                    return
                if message.get("text") == "break":
                    raise RuntimeError("broken")
                if message.get("bytes") is not None:
                    await websocket.send_bytes(message["bytes"][::-1])
                else:
                    await websocket.send_json({"got": message["text"]}, mode="text")
        finally:
            notes.append("end")

    @app.websocket("/refused")
    async def refused(websocket: WebSocket) -> None:
        await websocket.close(4403, "no")

    @app.websocket("/denied")
    async def denied(websocket: WebSocket) -> None:
        await websocket.send_denial_response(PlainTextResponse("denied", 410, headers={"x-why": "1"}))

    @app.websocket("/dependent")
    async def dependent(websocket: WebSocket, number: int) -> None:
        await websocket.accept()

    @app.websocket("/silent")
    async def silent(websocket: WebSocket) -> None:
        return None

    @app.websocket("/impatient")
    async def impatient(websocket: WebSocket) -> None:
        await websocket.accept()
        while True:
            await websocket.receive_text()  # raises WebSocketDisconnect, which nobody catches

    sub = Starlette(routes=[WebSocketRoute("/class", Echo)])
    sub.state.notes = notes
    app.router.routes.append(Mount("/sub", sub))
    return app


CONNECT = {"type": "websocket.connect"}


def text(value: str) -> Message:
    """A text message from the client."""
    return {"type": "websocket.receive", "text": value}


def gone(code: int = 1000, reason: str = "") -> Message:
    """The client closed."""
    return {"type": "websocket.disconnect", "code": code, "reason": reason}


BINARY = {"type": "websocket.receive", "bytes": b"\x00\xff"}
DENIAL: dict[str, Any] = {"extensions": {"websocket.http.response": {}}}
SOCKETS: dict[str, tuple[str, list[Message], dict[str, Any]]] = {
    "text": ("/echo/a", [CONNECT, text("x"), text(""), gone()], {}),
    "bytes": ("/echo/a", [CONNECT, BINARY, gone(1001)], {}),
    "both": ("/echo/a", [CONNECT, {"type": "websocket.receive", "bytes": None, "text": "t"}, gone(1005)], {}),
    "own close code": ("/echo/a", [CONNECT, text("close")], {}),
    "client's close code": ("/echo/a", [CONNECT, gone(4002, "bye")], {}),
    "lost": ("/echo/a", [CONNECT, text("x"), gone(1006)], {}),
    "raises": ("/echo/a", [CONNECT, text("break")], {}),
    "query": ("/echo/a", [CONNECT, gone()], {"query_string": b"token=t"}),
    "rejected before accept": ("/refused", [CONNECT], {}),
    "rejected before accept, with the extension": ("/refused", [CONNECT], DENIAL),
    "denial response": ("/denied", [CONNECT], DENIAL),
    "denial response without the extension": ("/denied", [CONNECT], {}),
    "missing argument": ("/dependent", [CONNECT], {}),
    "missing argument, with the extension": ("/dependent", [CONNECT], DENIAL),
    "nothing sent": ("/silent", [CONNECT], {}),
    "disconnect nobody catches": ("/impatient", [CONNECT, text("x"), gone(1001)], {}),
    "no route": ("/none", [CONNECT], {}),
    "no route, with the extension": ("/none", [CONNECT], DENIAL),
    "class in a mount": ("/sub/class", [CONNECT, text("x"), gone(1001)], {}),
}


async def _talk(app: Any, path: str, messages: list[Message], more: dict[str, Any]) -> Any:
    exchange = Exchange(app, websocket_scope(path, **more), *messages)
    await exchange.end()
    return shown(exchange.answer()), list(app.state.notes)


@pytest.mark.parametrize("name", SOCKETS)
def test_a_websocket_is_the_same(twins: Twins, name: str) -> None:
    path, messages, more = SOCKETS[name]
    (sent, error), notes = twins.same(_sockets, lambda app: _talk(app, path, messages, more))
    kinds = [message["type"].removeprefix("websocket.") for message in sent]
    if name in ("text", "bytes", "both"):
        assert (kinds[:2], error) == (["accept", "send"], None)
        assert notes[-1] == "end"
    if name == "denial response":
        assert kinds == ["http.response.start", "http.response.body"]
    if name == "own close code":
        assert sent[-1] == {"type": "websocket.close", "code": 4001, "reason": "asked to"}
    if name == "raises":
        assert error == ("RuntimeError", "broken")
    assert len(check_log(twins.log)) == 1


def test_messages_pass_one_by_one(twins: Twins) -> None:
    """Each answer leaves before the next message comes."""

    async def drive(app: Any) -> Any:
        exchange = Exchange(app, websocket_scope("/echo/a"), CONNECT)
        assert (await exchange.sent())["type"] == "websocket.accept"
        for number in range(3):
            exchange.give(text(str(number)))
            assert f'"{number}"' in (await exchange.sent())["text"]
        exchange.give(gone())
        await exchange.end()
        return shown(exchange.answer())

    twins.same(_sockets, drive)
    record = check_log(twins.log)[0]
    assert (record["request"]["size"], record["response"]["size"]) == (3, 3 * len('{"got":"0"}'))


@pytest.mark.parametrize("how", ["cancel", "scope"])
def test_a_cancelled_websocket(twins: Twins, how: str) -> None:
    async def drive(app: Any) -> Any:
        async def inside(scope: Any, receive: Any, send: Any) -> None:
            with anyio.CancelScope() as cancelling:
                app.state.cancel = cancelling.cancel
                await app(scope, receive, send)

        run: Callable[[Any, Any, Any], Awaitable[None]] = app if how == "cancel" else inside
        exchange = Exchange(run, websocket_scope("/echo/a"), CONNECT, text("x"))
        await exchange.sent()
        await exchange.sent()
        exchange.task.cancel() if how == "cancel" else app.state.cancel()
        error = await exchange.end()
        return type(error), stripped(exchange.messages), list(app.state.notes)

    assert twins.same(_sockets, drive)[2] == ["end"]
    assert [record["outcome"] for record in check_log(twins.log)] == ["aborted"]


def test_uncaught_disconnects_are_no_errors_of_the_service(twins: Twins) -> None:
    path, messages, more = SOCKETS["disconnect nobody catches"]
    _, got = twins.run(_sockets, lambda app: _talk(app, path, messages, more))
    assert got[0][1] is None or got[0][1][0] == WebSocketDisconnect.__name__
    record = check_log(twins.log)[0]
    assert (record["outcome"], record["response"]["status"], record["response"]["error"]) == ("success", 101, None)

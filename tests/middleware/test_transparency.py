"""The application behaves as without us: each case is asked of an application alone and of its guarded twin."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.routing import Mount, Route

from tests.kit import Answer, Log, Running, call, make_log
from tests.middleware.support import (
    DISCONNECT,
    Exchange,
    Twins,
    check_log,
    guard,
    http_scope,
    request,
    shown,
    stripped,
)
from tests.middleware.zoo import CASES, MIDDLEWARE, Item, make_zoo

Shown = tuple[Any, ...]

EXPECTED = {  # so that no comparison is between two equal failures
    "two cookies and odd headers": 200,
    "malformed body 422": 422,
    "file range": 206,
    "file bad range": 416,
    "HTTPException": 402,
    "own exception": 418,
    "unhandled": 500,
    "mounted unhandled": 500,
    "404": 404,
    "405": 405,
    "HEAD on a plain route": 200,
    "slash redirect": 307,
    "static": 200,
    "413": 413,
    "documentation": 200,
    "root path": 200,
    "mounted twice": 200,
    "raw silent": None,
}


async def _ask(app: Any) -> dict[str, tuple[Shown, list[Any]]]:
    answers = {}
    async with Running(app) as running:
        assert running.failed is None, running.failed
        for name, (method, path, headers, body, more) in CASES.items():
            app.state.events.clear()
            answer = await call(app, method, path, headers, body, **more)
            answers[name] = (shown(answer), list(app.state.events))
    return answers


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Log]:
    """Every case's answer, bare and guarded, and the log."""
    folder = tmp_path_factory.mktemp("zoo")
    files = folder / "files"
    files.mkdir()
    (files / "file.txt").write_text("0123456789")
    log = make_log(folder)
    bare = asyncio.run(_ask(make_zoo(files)))
    guarded = asyncio.run(_ask(guard(make_zoo(files), folder, log)))
    return bare, guarded, log


@pytest.mark.parametrize("name", CASES)
def test_an_answer_is_the_same(zoo: Any, name: str) -> None:
    bare, guarded, _ = zoo
    assert guarded[name] == bare[name]
    if name in EXPECTED:
        messages, _ = bare[name][0]
        assert next((m["status"] for m in messages if "status" in m), None) == EXPECTED[name]


def test_the_cases_show_what_they_are_for(zoo: Any) -> None:
    bare, _, _ = zoo
    cookies = [
        value for name, value in bare["two cookies and odd headers"][0][0][0]["headers"] if name == b"set-cookie"
    ]
    assert len(cookies) == 2
    order = [event for event in bare["background"][1] if event != "close"]  # versions differ in when they close
    assert order == ["open", "handler", "background 1", "background 2"]
    assert bare["dependencies"][1][:3] == ["open", "open sync", "handler"]
    assert bare["unhandled"][0][1] == ("RuntimeError", "broken")
    assert bare["unhandled midway"][0][1] == ("RuntimeError", "midway")
    assert len(bare["stream"][0][0]) == 5
    assert bare["raw path"][0][0][1]["type"] == "http.response.pathsend"


def test_every_case_is_one_record(zoo: Any) -> None:
    _, _, log = zoo
    records = check_log(log)
    assert len(records) == len(CASES)
    paths = [path for _, path, *_ in CASES.values()]
    assert [record["request"]["path"] for record in records] == paths


# --- headers -----------------------------------------------------------------------------------------------------


def test_our_two_headers_come_last_and_once(twins: Twins) -> None:
    async def drive(app: Any) -> list[tuple[bytes, bytes]]:
        return (await call(app, "GET", "/")).headers

    def make() -> Starlette:
        return Starlette(routes=[Route("/", lambda request: PlainTextResponse("x", headers={"x-z": "1", "x-a": "2"}))])

    bare, guarded = twins.run(make, drive)
    assert guarded[: len(bare)] == bare
    assert [name for name, _ in guarded[len(bare) :]] == [b"x-correlation-id", b"audit-id"]


def test_several_ranges(twins: Twins, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(range(100)))

    async def drive(app: Any) -> Any:
        answer = await call(app, "GET", "/", [(b"range", b"bytes=0-3, 10-12")])
        text = repr(shown(answer))
        boundary = re.search(r"boundary=([0-9a-f]+)", text)
        assert boundary is not None
        assert answer.status == 206
        return text.replace(boundary[1], "B")

    twins.same(lambda: Starlette(routes=[Route("/", lambda request: FileResponse(tmp_path / "f"))]), drive)


# --- other middleware, above and below ---------------------------------------------------------------------------


def _app_with(kind: Any, options: dict[str, Any], where: str, twin: str, twins: Twins) -> Starlette:
    async def page(request: Request) -> PlainTextResponse:
        if "session" in request.scope:
            request.session["n"] = request.session.get("n", 0) + 1
        return PlainTextResponse("text " * 100)

    async def broken(request: Request) -> PlainTextResponse:
        raise RuntimeError("broken")

    app = Starlette(routes=[Route("/", page, methods=["GET", "POST"]), Route("/broken", broken)])
    if where == "below":
        app.add_middleware(kind, **options)
    if twin == "guarded":
        guard(app, twins.folder, twins.log)
    if where == "above":
        app.add_middleware(kind, **options)
    return app


PREFLIGHT = [(b"origin", b"https://a.example"), (b"access-control-request-method", b"GET")]
BAD_PREFLIGHT = [(b"origin", b"https://b.example"), (b"access-control-request-method", b"PUT")]
ASKED = [
    ("GET", "/", []),
    ("GET", "/", [(b"origin", b"https://a.example"), (b"accept-encoding", b"gzip")]),
    ("OPTIONS", "/", PREFLIGHT),
    ("OPTIONS", "/", BAD_PREFLIGHT),
    ("OPTIONS", "/", []),
    ("GET", "/broken", [(b"origin", b"https://a.example")]),
    ("GET", "/none", [(b"origin", b"https://a.example")]),
]


@pytest.mark.parametrize("where", ["below", "above"])
@pytest.mark.parametrize("name", MIDDLEWARE)
def test_with_other_middleware(twins: Twins, name: str, where: str) -> None:
    kind, options = MIDDLEWARE[name]

    async def ask(twin: str) -> list[Any]:
        app = _app_with(kind, options, where, twin, twins)
        async with Running(app):
            answers = [await call(app, method, path, headers) for method, path, headers in ASKED]
        return [_without_signature(answer) for answer in answers]

    bare, guarded = asyncio.run(ask("bare")), asyncio.run(ask("guarded"))
    assert guarded == bare
    assert "b'content-encoding'" in str(bare[1]) or name != "GZip"
    assert "b'access-control-allow-origin'" in str(bare[1:3]) or name != "CORS"
    assert "b'set-cookie'" in str(bare[0]) or "sessions" not in name
    assert len(check_log(twins.log)) == (len(ASKED) if (name, where) != ("CORS", "above") else len(ASKED) - 2)


def _without_signature(answer: Answer) -> str:
    """A session's cookie carries the time in seconds, and a gzip header may."""
    return re.sub(r"session=([A-Za-z0-9=]+)\.[^;]*;", r"session=\1;", repr(shown(answer)))


class Reading(BaseHTTPMiddleware):
    """Reads the body before and marks the response after."""

    async def dispatch(self, request: Any, call_next: Any) -> Any:
        if request.method == "POST":
            request.state.size = len(await request.body())
        response = await call_next(request)
        response.headers["x-read"] = str(getattr(request.state, "size", None))
        response.headers["x-by-handler"] = str(getattr(request.state, "by_handler", None))
        return response


@pytest.mark.parametrize("where", ["below", "above", "both"])
def test_with_base_http_middleware(twins: Twins, where: str) -> None:
    async def ask(twin: str) -> list[Any]:
        app = FastAPI()

        @app.post("/items")
        async def create(item: Item, request: Request) -> Item:
            request.state.by_handler = item.name
            return item

        @app.get("/broken")
        async def broken() -> None:
            raise RuntimeError("broken")

        if where in ("below", "both"):
            app.add_middleware(Reading)
        if twin == "guarded":
            guard(app, twins.folder, twins.log)
        if where in ("above", "both"):
            app.add_middleware(Reading)
        async with Running(app):
            return [
                shown(await call(app, "POST", "/items", [(b"content-type", b"application/json")], b'{"name": "n"}')),
                shown(await call(app, "POST", "/items", [(b"content-type", b"application/json")], b"{")),
                shown(await call(app, "GET", "/broken")),
                shown(await call(app, "GET", "/none")),
            ]

    bare, guarded = asyncio.run(ask("bare")), asyncio.run(ask("guarded"))
    assert guarded == bare
    assert (b"x-by-handler", b"n") in bare[0][0][0]["headers"]
    assert len(check_log(twins.log)) == 4


# --- unhandled exceptions ----------------------------------------------------------------------------------------


def _broken_app(**options: Any) -> Starlette:
    async def broken(request: Request) -> PlainTextResponse:
        raise RuntimeError("<secret>")

    return Starlette(routes=[Route("/", broken)], **options)


def _handlers() -> dict[str, Any]:
    """Handlers of unhandled exceptions; each notes that it ran."""

    async def page(request: Request, error: Exception) -> JSONResponse:
        request.app.state.handled.append(type(error).__name__)
        response = JSONResponse({"own": str(error)}, 503, {"x-own": request.url.path})
        response.set_cookie("seen", "1")
        return response

    def page_sync(request: Request, error: Exception) -> JSONResponse:
        request.app.state.handled.append(type(error).__name__)
        return JSONResponse({"sync": str(error)}, 500)

    async def failing(request: Request, error: Exception) -> JSONResponse:
        request.app.state.handled.append(type(error).__name__)
        raise LookupError("the handler is broken too")

    return {"async": page, "sync": page_sync, "failing": failing}


@pytest.mark.parametrize("kind", ["async", "sync", "failing"])
@pytest.mark.parametrize("key", [500, Exception])
def test_the_applications_own_500_handler_runs_once(twins: Twins, kind: str, key: Any) -> None:
    def make() -> Starlette:
        app = _broken_app(exception_handlers={key: _handlers()[kind]})
        app.state.handled = []
        return app

    async def drive(app: Any) -> Any:
        answer = await call(app, "GET", "/")
        return shown(answer), list(app.state.handled)

    (messages, error), handled = twins.same(make, drive)
    assert handled == ["RuntimeError"]
    if kind == "failing":
        assert (messages, error[0]) == ([], "LookupError")
    else:
        assert error == ("RuntimeError", "<secret>")
        assert messages[0]["status"] == (503 if kind == "async" else 500)


def test_the_500_handler_runs_for_each_request(twins: Twins) -> None:
    def make() -> Starlette:
        app = _broken_app(exception_handlers={500: _handlers()["async"]})
        app.state.handled = []
        return app

    async def drive(app: Any) -> Any:
        answers = await asyncio.gather(*(call(app, "GET", "/") for _ in range(5)))
        return [shown(answer) for answer in answers], list(app.state.handled)

    assert len(twins.same(make, drive)[1]) == 5


def test_a_layer_for_exceptions_that_instrumentation_adds(twins: Twins) -> None:
    """OpenTelemetry's FastAPI instrumentation puts one around Starlette's, which still answers."""

    class Span:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.app(scope, receive, send)

    answers: list[Answer] = []

    def make() -> Starlette:
        app = _broken_app()
        build = app.build_middleware_stack
        app.build_middleware_stack = lambda: ServerErrorMiddleware(Span(build()))  # type: ignore[method-assign]
        return app

    async def drive(app: Any) -> Any:
        answers.append(await call(app, "GET", "/"))
        return shown(answers[-1])

    twins.same(make, drive)
    assert [bool(answer.header(b"audit-id")) for answer in answers] == [False, True]


@pytest.mark.parametrize("accept", [b"text/html", b"text/plain"])
def test_the_debug_page(twins: Twins, accept: bytes) -> None:
    async def drive(app: Any) -> Any:
        answer = await call(app, "GET", "/", [(b"accept", accept)])
        assert answer.status == 500
        assert b"RuntimeError" in answer.body
        return answer.status, answer.header(b"content-type"), type(answer.error)

    twins.same(lambda: _broken_app(debug=True), drive)


def test_a_mounted_applications_error_is_answered_by_the_one_it_passed(twins: Twins) -> None:
    """Middleware between the two raises, with the inner application in the scope: the outer one's page must answer."""

    class Late:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            kept: list[Any] = []

            async def keep(message: Any) -> None:
                kept.append(message)

            await self.app(scope, receive, keep if scope["type"] == "http" else send)
            if kept:
                raise RuntimeError("after the inner application answered")

    def make() -> Starlette:
        inner = _broken_app(exception_handlers={500: _handlers()["sync"]})
        inner.routes.append(Route("/fine", lambda request: PlainTextResponse("fine")))
        outer = Starlette(routes=[Mount("/in", inner)], exception_handlers={500: _handlers()["async"]})
        for app in (inner, outer):
            app.state.handled = []
        outer.add_middleware(Late)
        return outer

    async def drive(app: Any) -> Any:
        return shown(await call(app, "GET", "/in/fine"))

    messages, _ = twins.same(make, drive)
    assert b'"own"' in messages[1]["body"]


def test_the_500_page_carries_our_headers(twins: Twins) -> None:
    async def drive(app: Any) -> Any:
        answer = await call(app, "GET", "/", [(b"x-correlation-id", b"case-1")])
        return answer.header(b"x-correlation-id"), answer.header(b"audit-id")

    bare, (correlation, audit_id) = twins.run(_broken_app, drive)
    assert bare == (None, None)
    assert correlation == "case-1"
    assert audit_id == check_log(twins.log)[0]["action_id"]


# --- once, and in the same scope ---------------------------------------------------------------------------------


class Outer:
    """Looks at the scope after the call, as tracing and metrics middleware does."""

    seen: list[dict[str, Any]]
    calls = 0

    def __init__(self, app: Any, seen: list[dict[str, Any]]) -> None:
        self.app = app
        self.seen = seen

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        scope["state"]["outer"] = "outer"
        before = set(scope)
        try:
            await self.app(scope, receive, send)
        finally:
            new = {
                key: _printable(key, scope[key]) for key in sorted(set(scope) - before) if not key.startswith("audit")
            }
            self.seen.append(new | {"state": dict(scope["state"])})


def _printable(key: str, value: Any) -> Any:
    if key in ("endpoint", "route"):
        return getattr(value, "__qualname__", None) or getattr(value, "path", None) or type(value).__name__
    if key in ("app", "router", "fastapi", "starlette.exception_handlers") or "stack" in key:
        return sorted(value) if isinstance(value, dict) else type(value).__name__
    return value


SCOPE_PATHS = [
    "/sync/a",
    "/json",
    "/inc/r/7/x",
    "/sub/here/3",
    "/sub/deeper/leaf",
    "/static/file.txt",
    "/none",
    "/broken",
]


def test_an_outer_middleware_sees_the_same_scope(tmp_path: Path, log: Log) -> None:
    (tmp_path / "file.txt").write_text("x")

    async def ask(twin: str) -> list[dict[str, Any]]:
        app = make_zoo(tmp_path)
        if twin == "guarded":
            guard(app, tmp_path, log)
        seen: list[dict[str, Any]] = []
        app.add_middleware(Outer, seen=seen)
        async with Running(app):
            for path in SCOPE_PATHS:
                await call(app, "GET", path)
        return seen

    bare, guarded = asyncio.run(ask("bare")), asyncio.run(ask("guarded"))
    assert guarded == bare
    assert [one.get("path_params") for one in bare[:4]] == [{"name": "a"}, {}, {"number": "7"}, {"number": "3"}]
    assert all("endpoint" in one for one in bare[:5])


def test_the_application_runs_exactly_once(twins: Twins) -> None:
    """Also where it answers with an error, raises, or is denied."""

    class Counting:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                scope["app"].state.calls.append(scope["path"])
            await self.app(scope, receive, send)

    def make() -> Starlette:
        app = _broken_app()
        app.routes.append(Route("/fine", lambda request: PlainTextResponse("fine")))
        app.state.calls = []
        app.add_middleware(Counting)
        return app

    async def drive(app: Any) -> list[str]:
        for path in ("/", "/fine", "/none"):
            await call(app, "GET", path)
        return list(app.state.calls)

    assert twins.same(make, drive) == ["/", "/fine", "/none"]


def test_the_lifespans_state_reaches_the_handler(twins: Twins, tmp_path: Path) -> None:
    async def drive(app: Any) -> Any:
        inbox: asyncio.Queue[Any] = asyncio.Queue()
        outbox: asyncio.Queue[Any] = asyncio.Queue()
        state: dict[str, Any] = {}
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": state}
        task = asyncio.ensure_future(app(scope, inbox.get, outbox.put))
        await inbox.put({"type": "lifespan.startup"})
        sent = [await outbox.get()]
        exchange = Exchange(app, http_scope("GET", "/json", state=state), request())
        await exchange.end()
        await inbox.put({"type": "lifespan.shutdown"})
        sent.append(await outbox.get())
        await task
        return sent, state, stripped(exchange.messages)

    sent, state, messages = _without_running(twins, lambda: make_zoo(tmp_path), drive)
    assert [message["type"] for message in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert state == {"answer": 42}
    assert b'"answer":42' in messages[1]["body"]


def test_a_failing_lifespan_fails_the_same(twins: Twins) -> None:
    def make() -> FastAPI:
        async def lifespan(app: Any) -> Any:
            raise RuntimeError("no database")
            yield

        from contextlib import asynccontextmanager

        return FastAPI(lifespan=asynccontextmanager(lifespan))

    async def drive(app: Any) -> Any:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "lifespan.startup"}

        async def send(message: Any) -> None:
            sent.append((message["type"], message["message"].splitlines()[-1]))

        with pytest.raises(RuntimeError, match="no database"):
            await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
        return sent

    assert _without_running(twins, make, drive) == [("lifespan.startup.failed", "RuntimeError: no database")]


def _without_running(twins: Twins, make: Any, drive: Any) -> Any:
    """As `Twins.same`, for what leads the lifespan itself."""
    expected = asyncio.run(drive(make()))
    assert asyncio.run(drive(guard(make(), twins.folder, twins.log))) == expected
    return expected


def test_a_disconnect_is_forwarded(twins: Twins) -> None:
    """A handler that asks learns at once that the client went away."""

    async def page(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(await request.is_disconnected()))

    async def drive(app: Any) -> Any:
        exchange = Exchange(app, http_scope("GET", "/"), DISCONNECT)
        await exchange.end()
        return stripped(exchange.messages)

    messages = twins.same(lambda: Starlette(routes=[Route("/", page)]), drive)
    assert messages[1]["body"] == b"True"

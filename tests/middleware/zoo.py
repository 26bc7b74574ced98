"""One application with everything Starlette and FastAPI do to a request, and the requests that show it."""

from __future__ import annotations

import importlib.util
import inspect
import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Form, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, StreamingResponse
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.endpoints import HTTPEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Mount, Route, Router
from starlette.staticfiles import StaticFiles

HAS_BODY_LIMIT = "max_body_size" in inspect.signature(FastAPI.__init__).parameters


class Item(BaseModel):
    """A request body."""

    name: str
    count: int = 1


class Teapot(Exception):
    """Handled by the application's own handler."""


class Shouting(HTTPEndpoint):
    """A class-based endpoint with two methods."""

    async def get(self, request: Request) -> Response:
        return PlainTextResponse("GET " + request.path_params["name"])

    def post(self, request: Request) -> Response:
        return PlainTextResponse("POST " + request.path_params["name"], 201)


class Raw:
    """A raw ASGI endpoint: sends exactly what it is told to."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.messages = messages

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        for message in self.messages:
            await send(dict(message))


START = {"type": "http.response.start", "status": 200, "headers": [(b"x-kept", b"1")]}
TRAILERS = {"type": "http.response.trailers", "headers": [(b"x-sum", b"1")]}
RAW = {
    "trailers": Raw(
        {**START, "trailers": True},
        {"type": "http.response.body", "body": b"ab"},
        {**TRAILERS, "more_trailers": True},
        TRAILERS,
    ),
    "hints": Raw(
        {"type": "http.response.early_hint", "links": [b"</s.css>; rel=preload"]},
        {"type": "http.response.debug", "info": {"template": "t"}},
        START,
        {"type": "http.response.push", "path": "/x", "headers": []},
        {"type": "http.response.body", "body": b"x"},
    ),
    "zero-copy": Raw(
        START,
        {"type": "http.response.zerocopysend", "file": 3, "more_body": True},
        {"type": "http.response.body"},
    ),
    "path": Raw(START, {"type": "http.response.pathsend", "path": "/etc/hostname"}),
    "headless": Raw({"type": "http.response.start", "status": 200}, {"type": "http.response.body"}),
    "informal": Raw(
        {"type": "http.response.start", "status": 299, "headers": ((b"X-Odd", b"\xff\x00"),), "extra": {"kept": 1}},
        {"type": "http.response.body", "body": b"\x00", "more_body": False, "other": 2},
    ),
    "view": Raw(START, {"type": "http.response.body", "body": memoryview(b"view"), "more_body": True}),
    "silent": Raw(),
    "body-first": Raw({"type": "http.response.body", "body": b"x"}),
}


def make_zoo(folder: Path) -> FastAPI:
    """A fresh application; ``app.state.events`` is what ran, in order."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        yield {"answer": 42}

    app = FastAPI(lifespan=lifespan)
    app.state.events = []
    _plain(app, folder)
    _dependencies(app)
    _errors(app)
    _starlette(app, folder)
    return app


def _plain(app: FastAPI, folder: Path) -> None:
    @app.get("/cookies")
    async def cookies() -> Response:
        response = PlainTextResponse("two")
        response.set_cookie("a", "1")
        response.headers.append("vary", "Accept")
        response.set_cookie("b", "2")
        response.headers.append("vary", "Cookie")
        response.raw_headers.append((b"X-Raw", b"caf\xe9 \xff"))
        return response

    @app.get("/json")
    async def as_json(request: Request, q: int = 0) -> dict[str, Any]:
        return {"q": q, "path": request.url.path, "answer": getattr(request.state, "answer", None)}

    @app.get("/sync/{name}")
    def sync(name: str, response: Response) -> dict[str, str]:
        response.headers["x-name"] = "n"
        return {"name": name}

    @app.post("/items", status_code=201)
    async def create(item: Item) -> Item:
        return item

    @app.post("/form")
    async def form(a: str = Form()) -> str:
        return a

    @app.post("/echo")
    async def echo(request: Request) -> Response:
        return Response(await request.body(), media_type=request.headers.get("content-type"))

    @app.post("/unread")
    async def unread() -> str:
        return "the body was never read"

    @app.get("/nothing", status_code=204, response_model=None)
    async def nothing() -> None:
        return None

    @app.get("/unchanged")
    async def unchanged() -> Response:
        return Response(status_code=304, headers={"etag": '"1"'})

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            for number in range(3):
                yield b"%d" % number

        return StreamingResponse(parts())

    @app.get("/stream/sync")
    def stream_sync() -> StreamingResponse:
        return StreamingResponse((f"{number}" for number in range(3)), media_type="text/plain")

    @app.get("/away")
    async def away() -> RedirectResponse:
        return RedirectResponse("/json?q=é")

    @app.get("/file")
    async def file() -> FileResponse:
        return FileResponse(folder / "file.txt", headers={"etag": '"fixed"', "last-modified": "x"})


def _dependencies(app: FastAPI) -> None:
    events = app.state.events

    async def opened() -> AsyncIterator[str]:
        events.append("open")
        try:
            yield "resource"
        finally:
            events.append("close")

    def opened_sync() -> Iterator[str]:
        events.append("open sync")
        yield "resource"
        events.append("close sync")

    @app.get("/resources")
    async def resources(a: str = Depends(opened), b: str = Depends(opened_sync)) -> dict[str, str]:
        events.append("handler")
        return {a: b}

    @app.get("/background")
    async def background(tasks: BackgroundTasks, a: str = Depends(opened)) -> str:
        tasks.add_task(events.append, "background 1")

        async def second() -> None:
            events.append("background 2")

        tasks.add_task(second)
        events.append("handler")
        return a

    @app.get("/background/broken")
    async def background_broken(tasks: BackgroundTasks) -> str:
        tasks.add_task(lambda: 1 // 0)
        return "sent before"


def _errors(app: FastAPI) -> None:
    @app.exception_handler(Teapot)
    async def teapot(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"teapot": str(error)}, 418, {"x-teapot": "1"})

    @app.get("/refused")
    async def refused() -> None:
        raise HTTPException(402, {"any": "detail"}, {"x-reason": "money"})

    @app.get("/teapot")
    def tea() -> None:
        raise Teapot("short")

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("broken")

    @app.get("/broken/sync")
    def broken_sync() -> None:
        raise KeyError("broken")

    @app.get("/broken/midway")
    async def broken_midway() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"first"
            raise RuntimeError("midway")

        return StreamingResponse(parts())


def _starlette(app: FastAPI, folder: Path) -> None:
    router = APIRouter(prefix="/r")

    @router.get("/{number}/x")
    async def included(number: int) -> int:
        return number

    app.include_router(router, prefix="/inc")
    if HAS_BODY_LIMIT:

        @app.post("/small", max_body_size=4)
        async def small(request: Request) -> int:
            return len(await request.body())

    app.router.routes += [
        Route("/shout/{name}", Shouting),
        Route("/plain", lambda request: PlainTextResponse("plain")),
        *(Route(f"/raw/{name}", raw) for name, raw in RAW.items()),
        Mount("/static", StaticFiles(directory=folder)),
        Mount("/sub", _sub_application()),
        Mount("/router", Router([Route("/", lambda request: PlainTextResponse("inner router"))])),
    ]


def _sub_application() -> FastAPI:
    sub = FastAPI()

    @sub.get("/here/{number}")
    async def here(request: Request, number: int) -> dict[str, Any]:
        return {"root": request.scope["root_path"], "url": str(request.url_for("here", number=7).path), "n": number}

    @sub.get("/broken")
    async def broken() -> None:
        raise RuntimeError("inside")

    async def leaf(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.scope["root_path"] + " " + request.url.path)

    sub.mount("/deeper", Starlette(routes=[Route("/leaf", leaf)]))
    return sub


# name: (method, path, headers, body, further arguments of `tests.kit.call`)
Case = tuple[str, str, list[tuple[bytes, bytes]], bytes, dict[str, Any]]


def _case(method: str, path: str, *headers: tuple[bytes, bytes], body: bytes = b"", **more: Any) -> Case:
    return method, path, list(headers), body, more


JSON = (b"content-type", b"application/json")
FORM = (b"content-type", b"application/x-www-form-urlencoded")
CASES: dict[str, Case] = {
    "two cookies and odd headers": _case("GET", "/cookies"),
    "query": _case("GET", "/json", query=b"q=3&q=4"),
    "root path": _case("GET", "/proxy/json", root_path="/proxy"),
    "wrong query 422": _case("GET", "/json", query=b"q=x"),
    "sync handler": _case("GET", "/sync/é"),
    "newline in the path": _case("GET", "/sync/1\n"),
    "body": _case("POST", "/items", JSON, body=b'{"name": "a", "count": 2}'),
    "malformed body 422": _case("POST", "/items", JSON, body=b"{"),
    "wrong body 422": _case("POST", "/items", JSON, body=b'{"count": "x"}'),
    "no body 422": _case("POST", "/items"),
    "form": _case("POST", "/form", FORM, body=b"a=1&a=2"),
    "echo": _case("POST", "/echo", (b"content-type", b"x/y"), body=b"\x00\xff" * 3000),
    "unread body": _case("POST", "/unread", body=b"x" * 10),
    "204": _case("GET", "/nothing"),
    "304": _case("GET", "/unchanged"),
    "stream": _case("GET", "/stream"),
    "sync stream": _case("GET", "/stream/sync"),
    "redirect": _case("GET", "/away"),
    "file": _case("GET", "/file"),
    "file HEAD": _case("HEAD", "/static/file.txt"),
    "file range": _case("GET", "/file", (b"range", b"bytes=2-5")),
    "file suffix range": _case("GET", "/file", (b"range", b"bytes=-3")),
    "file bad range": _case("GET", "/file", (b"range", b"bytes=9000-")),
    "file malformed range": _case("GET", "/file", (b"range", b"lines=1")),
    "file stale range": _case("GET", "/file", (b"range", b"bytes=2-5"), (b"if-range", b'"other"')),
    "file by path": _case("GET", "/file", extensions={"http.response.pathsend": {}}),
    "static": _case("GET", "/static/file.txt"),
    "static 404": _case("GET", "/static/none.txt"),
    "static above": _case("GET", "/static/../../etc/passwd"),
    "static 405": _case("POST", "/static/file.txt"),
    "dependencies": _case("GET", "/resources"),
    "background": _case("GET", "/background"),
    "background raises": _case("GET", "/background/broken"),
    "HTTPException": _case("GET", "/refused"),
    "own exception": _case("GET", "/teapot"),
    "unhandled": _case("GET", "/broken"),
    "unhandled sync": _case("GET", "/broken/sync"),
    "unhandled midway": _case("GET", "/broken/midway"),
    "404": _case("GET", "/none"),
    "405": _case("PATCH", "/json"),
    "HEAD on an API route 405": _case("HEAD", "/json"),
    "HEAD on a plain route": _case("HEAD", "/plain"),
    "OPTIONS 405": _case("OPTIONS", "/json"),
    "QUERY 405": _case("QUERY", "/json"),
    "unknown method": _case("BREW", "/plain"),
    "class GET": _case("GET", "/shout/a"),
    "class HEAD": _case("HEAD", "/shout/a"),
    "class sync POST": _case("POST", "/shout/a"),
    "class 405": _case("PUT", "/shout/a"),
    "slash redirect": _case("GET", "/json/"),
    "slash redirect to a mount": _case("GET", "/sub"),
    "included": _case("GET", "/inc/r/7/x"),
    "included 422": _case("GET", "/inc/r/z/x"),
    "included 405": _case("PUT", "/inc/r/7/x"),
    "mounted": _case("GET", "/sub/here/3"),
    "mounted with a root path": _case("GET", "/sub/here/3", root_path="/proxy"),
    "mounted 404": _case("GET", "/sub/none"),
    "mounted 405": _case("DELETE", "/sub/here/3"),
    "mounted unhandled": _case("GET", "/sub/broken"),
    "mounted twice": _case("GET", "/sub/deeper/leaf"),
    "mounted router": _case("GET", "/router/"),
    "documentation": _case("GET", "/docs"),
    "schema": _case("GET", "/openapi.json"),
    **{f"raw {name}": _case("GET", f"/raw/{name}") for name in RAW},
}
if HAS_BODY_LIMIT:
    CASES["413"] = _case("POST", "/small", body=b"12345")
    CASES["413 by length"] = _case("POST", "/small", (b"content-length", b"9000"), body=b"12345")
    CASES["not 413"] = _case("POST", "/small", body=b"1234")


class Sessions:
    """What Starlette's ``SessionMiddleware`` does, without its signature (and without ``itsdangerous``)."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        cookie = dict(scope["headers"]).get(b"cookie", b"").removeprefix(b"session=")
        scope["session"] = json.loads(b64decode(cookie)) if cookie else {}

        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                value = b64encode(json.dumps(scope["session"]).encode()).decode()
                headers.append("set-cookie", f"session={value}; path=/; httponly")
            await send(message)

        await self.app(scope, receive, sending)


MIDDLEWARE: dict[str, tuple[Any, dict[str, Any]]] = {
    "CORS": (CORSMiddleware, {"allow_origins": ["https://a.example"], "allow_methods": ["GET"]}),
    "GZip": (GZipMiddleware, {"minimum_size": 1}),
    "sessions": (Sessions, {}),
}
if importlib.util.find_spec("itsdangerous"):
    from starlette.middleware.sessions import SessionMiddleware

    MIDDLEWARE["signed sessions"] = (SessionMiddleware, {"secret_key": "k"})

"""The service that the servers serve; settings, policy and log come from ``AUDIT_*`` variables."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
from fastapi import BackgroundTasks, FastAPI, Request, WebSocket
from fastapi.responses import PlainTextResponse, Response, StreamingResponse
from pydantic import BaseModel

from audit_middleware import AuditMiddleware, action, annotate, correlate_client
from tests.middleware.service import identify

POLICY = """
version: 1
name: servers
roles: {reader: {}, admin: {inherits: [reader]}}
actions:
  doc.read: {allow: [reader]}
  doc.create: {allow: [reader], record: request}
  doc.delete: {allow: [admin]}
  doc.relay: {allow: [reader]}
  feed.watch: {allow: [reader]}
  held.plain: {allow: [reader], limit: {concurrent: 2, per: action}}
  held.feed: {allow: [reader], limit: {concurrent: 1}}
  often.read: {allow: [reader], limit: {rate: 30/day, per: action}}
routes:
  - {match: 'GET /health', exempt: 'liveness probe, touches no data'}
  - {match: 'POST /go/{key}', exempt: 'lets a waiting stream go on'}
"""

app = FastAPI(openapi_url=None)
waiting: dict[str, asyncio.Event] = {}


class Doc(BaseModel):
    """A body."""

    title: str


@app.middleware("http")
async def name_the_process(request: Request, call_next: Any) -> Any:
    """Which process answered; an ordinary middleware of a service."""
    response = await call_next(request)
    response.headers["x-pid"] = str(os.getpid())
    return response


@app.get("/health")
async def health() -> str:
    """Is it up?"""
    return "well"


@app.get("/docs/{name}")
@action("doc.read", resource="doc/{name}")
async def read(name: str) -> Response:
    """Two cookies, and what the router made of the path."""
    response = PlainTextResponse(repr(name))
    response.set_cookie("a", "1")
    response.set_cookie("b", "2")
    return response


@app.get("/sync/{number}")
@action("doc.read")
def read_sync(number: int) -> int:
    """In a thread."""
    annotate(extra={"number": number})
    return number


@app.post("/docs", status_code=201)
@action("doc.create", resource="doc")
async def create(doc: Doc, tasks: BackgroundTasks) -> Doc:
    """With a body and work afterwards."""
    tasks.add_task(annotate, extra={"later": doc.title})
    return doc


@app.delete("/docs/{name}")
@action("doc.delete", resource="doc/{name}")
async def delete(name: str) -> None:
    """Administrators only."""


@app.get("/broken")
@action("doc.read")
async def broken() -> None:
    """Raises."""
    raise RuntimeError("broken")


@app.get("/stream/{key}")
@action("doc.read")
async def stream(key: str) -> StreamingResponse:
    """Goes on when told to."""

    async def parts() -> AsyncIterator[bytes]:
        waiting[key] = asyncio.Event()
        yield b"first"
        await asyncio.wait_for(waiting[key].wait(), 60)
        yield b"last"

    return StreamingResponse(parts())


@app.post("/go/{key}")
async def go(key: str) -> None:
    """Lets a stream go on."""
    waiting[key].set()


@app.get("/endless")
@action("doc.read")
async def endless() -> StreamingResponse:
    """Ends when nobody listens any more."""

    async def parts() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1000
            await asyncio.sleep(0.01)

    return StreamingResponse(parts())


@app.post("/upload")
@action("doc.read")
async def upload(request: Request) -> int:
    """Reads the body to its end."""
    return len(await request.body())


@app.get("/relay")
@action("doc.relay")
async def relay() -> Response:
    """Asks another service on behalf of the caller."""
    async with correlate_client(httpx.AsyncClient()) as client:
        answer = await client.get(os.environ["DOWNSTREAM"], headers={"x-user": "relay:reader"})
    return PlainTextResponse(answer.text, answer.status_code)


@app.get("/held/{key}")
@action("held.plain")
async def held(key: str) -> int:
    """Says in a file that it runs, and goes on when there is a second one; whichever worker it is."""
    folder = Path(os.environ["HELD"])
    (folder / f"{key}.runs").touch()
    while not (folder / f"{key}.go").exists():  # noqa: ASYNC110  # the test is another process
        await asyncio.sleep(0.01)
    if key.startswith("broken"):
        raise RuntimeError("broken")
    return os.getpid()


@app.get("/held-stream/{key}")
@action("held.plain")
async def held_stream(key: str) -> StreamingResponse:
    """The same while its response is on its way."""
    folder = Path(os.environ["HELD"])

    async def parts() -> AsyncIterator[bytes]:
        (folder / f"{key}.runs").touch()
        while not (folder / f"{key}.go").exists():
            yield b"x" * 1000
            await asyncio.sleep(0.01)

    return StreamingResponse(parts())


@app.websocket("/held-feed")
@action("held.feed")
async def held_feed(websocket: WebSocket) -> None:
    """While it is open."""
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)


@app.get("/often")
@action("often.read")
async def often() -> None:
    """Not too often."""


@app.websocket("/feed")
@action("feed.watch")
async def feed(websocket: WebSocket) -> None:
    """Says everything back."""
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)


app.add_middleware(AuditMiddleware, identify=identify)

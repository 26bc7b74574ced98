"""The feed: what happens in billing, pushed over a WebSocket."""

from __future__ import annotations

import anyio
from fastapi import APIRouter
from fastapi.websockets import WebSocket, WebSocketDisconnect
from starlette.concurrency import run_in_threadpool

from audit_middleware import action, annotate

from ..billing import Billing, Parts
from ..storage import Row

router = APIRouter(tags=["feed"])

_EVERY = 0.1  # seconds


@router.websocket("/feed")
@action("feed.subscribe")
async def feed(socket: WebSocket, parts: Parts, after: int = 0) -> None:
    """Sends every event after the given one, until the client goes. The connection is one record, made at its end."""
    await socket.accept()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(push, socket, parts, after)
        try:
            while True:
                await socket.receive_text()  # the client has nothing to say; this notices that it goes
        except WebSocketDisconnect:
            tasks.cancel_scope.cancel()


async def push(socket: WebSocket, parts: Billing, after: int) -> None:
    """Polls the events table: another worker may have written to it, and SQLite cannot call us."""
    sent = 0
    while True:
        for event in await run_in_threadpool(events_after, parts, after):
            await socket.send_json(event)
            after, sent = event["id"], sent + 1
            annotate(impact={"count": sent})
        await anyio.sleep(_EVERY)


def events_after(parts: Billing, after: int) -> list[Row]:
    """Events in order."""
    with parts.storage.transaction() as db:
        return db.all("SELECT * FROM events WHERE id > ? ORDER BY id", after)

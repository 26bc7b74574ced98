"""A small guarded application, and a way to wait for what a log says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from audit_middleware import AuditMiddleware, action
from tests.kit import Log, Running, write_policy

PATIENCE = 300.0  # seconds until a test that waits for something gives up; never part of a claim
POLICY = "actions: {doc.read: {allow: [anyone]}}\n"
T = TypeVar("T")


@action("doc.read")
async def read(request: Request) -> Response:
    """A guarded page."""
    return PlainTextResponse("read")


def app_for(log: Log, folder: Path, **settings: Any) -> Starlette:
    """An application with one guarded page."""
    app = Starlette(routes=[Route("/", read)])
    given: dict[str, Any] = {
        "policy": write_policy(folder, POLICY),
        "log": str(log.path),
        "service": "control",
    } | settings
    app.add_middleware(AuditMiddleware, **given)
    return app


async def nothing(app: Any) -> None:
    """Starts and stops."""


def run(app: Any, drive: Callable[[Any], Awaitable[Any]] = nothing) -> str | None:
    """Runs an application's lifespan around ``drive``; what stopped the start, if anything did."""

    async def main() -> str | None:
        async with Running(app) as running:
            if running.failed is None:
                await drive(app)
            return running.failed

    return asyncio.run(main())


def until(condition: Callable[[], T], what: str) -> T:
    """Waits until a condition is true; its value."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.02)
    return value


async def eventually(condition: Callable[[], T], what: str) -> T:
    """The same beside a running application."""
    return await asyncio.to_thread(until, condition, what)

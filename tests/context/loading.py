"""A service in a process of its own that says what it has loaded: ``python -m tests.context.loading LOG POLICY``.

It imports nothing that its side does not need, so not the kit either.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from audit_middleware import AuditMiddleware, Subject, action


@action("invoice.read", resource="invoice/{name}")
async def read(request: Request) -> JSONResponse:
    """Any invoice."""
    return JSONResponse({"name": request.path_params["name"]})


async def ask(app: Any, path: str) -> int:
    """The status of one request."""
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
        "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"", "headers": [],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "state": {},
    }  # fmt: skip
    seen: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        seen.append(message)

    await app(scope, receive, send)
    return int(seen[0]["status"])


async def serve(app: Any) -> dict[str, Any]:
    """Starts the application, asks it a few times and stops it; what was loaded at the start, and what by requests."""
    told: asyncio.Queue[Any] = asyncio.Queue()
    asked: asyncio.Queue[Any] = asyncio.Queue()
    lifespan = asyncio.ensure_future(
        app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, told.get, asked.put)
    )
    await told.put({"type": "lifespan.startup"})
    started = await asked.get()
    loaded = set(sys.modules)
    statuses = [await ask(app, f"/invoices/{number}") for number in range(3)] + [await ask(app, "/nowhere")]
    await told.put({"type": "lifespan.shutdown"})  # until all is written
    await asked.get()
    await lifespan
    return {
        "started": started["type"], "statuses": statuses, "loaded": sorted(loaded),
        "later": sorted(set(sys.modules) - loaded),
    }  # fmt: skip


def main(log: str, policy: str) -> None:
    """Prints it as JSON."""
    app = Starlette(routes=[Route("/invoices/{name}", read)])
    clerk = Subject("ann", roles=("clerk",))
    app.add_middleware(AuditMiddleware, identify=lambda scope: clerk, policy=policy, log=log, service="billing")
    print(json.dumps(asyncio.run(serve(app))))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""What the middleware adds to a request, in one process and one run: ``python -m bench.added_time``.

FastAPI with 60 routes in 5 included routers, everything on (durable journal, policy, correlation), against the same
application bare; interleaved rounds, medians. No server and no sockets, so the difference is the middleware alone.
"""

from __future__ import annotations

import asyncio
import atexit
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import fastapi
import starlette
from fastapi import APIRouter, FastAPI

from audit_middleware import AuditMiddleware, action
from audit_middleware.evidence.keys import create_log

ROUTERS, ROUTES, ROUNDS, REQUESTS = 5, 12, 15, 400


def application() -> FastAPI:
    """60 routes in 5 included routers."""
    app = FastAPI(openapi_url=None)
    for number in range(ROUTERS):
        router = APIRouter(prefix=f"/r{number}")
        for route in range(ROUTES):

            @router.get(f"/items{route}/{{item_id}}")
            @action(f"r{number}.i{route}", resource="item/{item_id}")
            async def endpoint(item_id: str) -> dict[str, str]:
                return {"id": item_id}

        app.include_router(router)
    return app


def guarded(folder: Path) -> FastAPI:
    """The same behind the middleware."""
    create_log(folder / "audit", "example.com/bench")
    actions = "".join(f"  r{r}.i{i}: {{allow: [anyone]}}\n" for r in range(ROUTERS) for i in range(ROUTES))
    policy = folder / "policy.yaml"
    policy.write_text(f"version: 1\nname: bench\nactions:\n{actions}")
    app = application()
    app.add_middleware(AuditMiddleware, policy=policy, log=str(folder / "audit"), service="bench")
    return app


def scope(path: str) -> dict[str, Any]:
    """An HTTP request as uvicorn hands it over."""
    headers = [(b"host", b"localhost"), (b"user-agent", b"bench"), (b"accept", b"*/*")]
    return {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "scheme": "http",
        "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"", "headers": headers,
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "method": "GET", "state": {},
    }  # fmt: skip


async def receive() -> dict[str, Any]:
    """An empty body."""
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Any) -> None:
    """Nobody listens."""


async def timed(app: Any) -> float:
    """Microseconds per request over one round."""
    started = time.perf_counter()
    for number in range(REQUESTS):
        await app(scope(f"/r{number % ROUTERS}/items{number % ROUTES}/{number}"), receive, send)
    return (time.perf_counter() - started) / REQUESTS * 1e6


async def main() -> None:
    """Prints one line per application and the difference."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)  # registered first, so it runs after the log was closed
    bare, ours = application(), guarded(Path(folder))
    for app in (bare, ours):
        await timed(app)
    rounds = [(await timed(bare), await timed(ours)) for _ in range(ROUNDS)]
    columns = list(zip(*rounds, strict=True))
    print(f"Python {platform.python_version()}, FastAPI {fastapi.__version__}, Starlette {starlette.__version__}")
    for name, column in zip(("bare", "guarded"), columns, strict=True):
        print(f"{name:8} {statistics.median(column):6.0f} us/request  ({min(column):.0f}-{max(column):.0f})")
    print(f"added    {statistics.median(g - b for b, g in rounds):6.0f} us/request")


if __name__ == "__main__":
    asyncio.run(main())

"""What the middleware adds to a request, in one process and one run: ``python -m bench.added_time [--routes 60]``.

FastAPI with its routes in 5 included routers, everything on (durable journal, policy, correlation), with narrowing and
without, against the same application bare; interleaved rounds, medians. No server and no sockets, so the difference is
the middleware alone.
"""

from __future__ import annotations

import argparse
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

from bench.apps import ROUTERS, application, guarded

ROUNDS, REQUESTS = 15, 400


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


async def timed(app: Any, routes: int) -> float:
    """Microseconds per request over one round."""
    started = time.perf_counter()
    for number in range(REQUESTS):
        path = f"/r{number % ROUTERS}/items{number % (routes // ROUTERS)}/{number}"
        await app(scope(path), receive, send)
    return (time.perf_counter() - started) / REQUESTS * 1e6


async def main(routes: int) -> None:
    """Prints one line per application and the differences."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)  # registered first, so it runs after the log was closed
    folders = [folder / "on", folder / "off"]
    for one in folders:
        one.mkdir()
    apps = [application(routes), guarded(folders[0], routes), guarded(folders[1], routes, narrow=False)]
    for app in apps:
        await timed(app, routes)
    rounds = [[await timed(app, routes) for app in apps] for _ in range(ROUNDS)]
    versions = f"Python {platform.python_version()}, FastAPI {fastapi.__version__}, Starlette {starlette.__version__}"
    print(f"{versions}, {routes} routes in {ROUTERS} included routers")
    for name, column in zip(("bare", "guarded", "not narrowed"), zip(*rounds, strict=True), strict=True):
        added = statistics.median(value - row[0] for value, row in zip(column, rounds, strict=True))
        shown = f"{statistics.median(column):6.0f} us/request  ({min(column):.0f}-{max(column):.0f})"
        print(f"{name:13} {shown}  added {added:6.0f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--routes", type=int, default=60)
    asyncio.run(main(parser.parse_args().routes))

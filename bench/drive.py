"""Requests in process: an ASGI application called directly, without a server and without sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from bench.services import settle

REQUESTS = 400


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


class Driver:
    """One event loop, on which applications are called one request after the other."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()

    def close(self) -> None:
        """Ends the loop."""
        self._runner.close()

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Runs anything on the loop."""
        return self._runner.run(work)

    def check(self, app: Any, path: str, status: int = 200) -> None:
        """Stops everything unless the application answers so: a fast 500 is no result."""
        seen: list[Any] = []

        async def told(message: Any) -> None:
            seen.append(message)

        self._runner.run(app(scope(path), receive, told))
        if seen[0]["status"] != status:
            raise SystemExit(f"{path}: status {seen[0]['status']}, not {status}")

    def run(self, app: Any, path: Callable[[int], str], requests: int = REQUESTS) -> Mapping[str, float]:
        """Microseconds for one request: ``wall``, and the processor time of the event loop's thread (``loop``) and of
        the whole process until everything that the requests left to other threads is done (``cpu``)."""
        busy = time.process_time()
        wall, loop = self._runner.run(_requests(app, path, requests))
        settle(app)
        each = 1e6 / requests
        return {"wall": wall * each, "loop": loop * each, "cpu": (time.process_time() - busy) * each}


async def _requests(app: Any, path: Callable[[int], str], requests: int) -> tuple[float, float]:
    started, busy = time.perf_counter(), time.thread_time()
    for number in range(requests):
        await app(scope(path(number)), receive, send)
    return time.perf_counter() - started, time.thread_time() - busy

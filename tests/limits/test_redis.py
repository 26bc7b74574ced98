"""A real server that several processes share: killed, restarted, paused; workers that die while they hold a place."""

from __future__ import annotations

import asyncio
import logging
import secrets
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from audit_middleware.errors import LimitUnavailable
from audit_middleware.limiting.redis import RedisLimits
from tests.limits.server import PATIENCE, RedisServer

ROOT = Path(__file__).parents[2]


def worker(server: RedisServer, key: str, command: str) -> subprocess.Popen[str]:
    """Another process."""
    arguments = [sys.executable, "-m", "tests.limits.counting", server.url, key, command]
    return subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> int:
    """What it printed."""
    assert process.stdout is not None
    return int(process.stdout.readline())


def run(server: RedisServer, test: Callable[[RedisLimits], Awaitable[Any]], **options: Any) -> None:
    """A test's coroutine with a store."""

    async def main() -> None:
        store = RedisLimits(server.url, **({"timeout_s": 10.0, "lease_s": 15.0} | options))
        try:
            await test(store)
        finally:
            await store.close()

    asyncio.run(main())


async def eventually(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Polls."""
    deadline = time.monotonic() + PATIENCE
    while not await condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        await asyncio.sleep(0.05)


async def free(store: RedisLimits, key: str, places: int) -> bool:
    """Is there a place? Takes none."""
    lease = secrets.token_hex(8)
    try:
        return await store.take(key, lease, places)
    except LimitUnavailable:
        return False
    finally:
        store.give_back(key, lease)


def test_processes_count_together(shared_redis: RedisServer) -> None:
    key = secrets.token_hex(8)
    workers = [worker(shared_redis, key, "hit 40/3600") for _ in range(4)]
    assert sum(said(one) for one in workers) == 40
    for one in workers:
        assert one.wait(PATIENCE) == 0


def test_processes_share_places_and_a_dead_ones_come_free(shared_redis: RedisServer) -> None:
    key = secrets.token_hex(8)
    workers = [worker(shared_redis, key, "hold 6") for _ in range(3)]
    held = [said(one) for one in workers]
    assert sum(held) == 6

    async def test(store: RedisLimits) -> None:
        started = time.monotonic()
        while time.monotonic() - started < 4:  # much longer than their leases of 1.5 s
            assert not await free(store, key, 6), "leases are renewed while their process lives"
            await asyncio.sleep(0.1)
        for one in workers:
            one.kill()
            one.wait(PATIENCE)
        await eventually(lambda: free(store, key, 1), "all places come free")

    try:
        run(shared_redis, test)
    finally:
        for one in workers:
            one.kill()


def test_a_server_that_dies_is_said_so_and_one_that_is_back_counts_on(redis: RedisServer) -> None:
    async def test(store: RedisLimits) -> None:
        assert await store.take("k", "running", 1)
        assert await store.hit("k", 1, 3600) == 0
        redis.kill()
        with pytest.raises(LimitUnavailable):
            await store.take("k", "b", 1)
        store.give_back("k", "b")  # as after every failure
        with pytest.raises(LimitUnavailable):
            await store.hit("k", 1, 3600)
        redis.start()

        async def counts() -> bool:
            try:
                return await store.hit("other", 1, 3600) >= 0
            except LimitUnavailable:
                return False

        await eventually(counts, "counting again")
        # It came back empty. The request that holds the place is still running, and soon counts again.

        async def taken_again() -> bool:
            return not await free(store, "k", 1)

        await eventually(taken_again, "the place of the running request")
        store.give_back("k", "running")
        await eventually(lambda: free(store, "k", 1), "the place")

    run(redis, test, lease_s=1.0, timeout_s=1.0)


def test_a_server_that_hangs_costs_one_wait_and_not_one_each(redis: RedisServer) -> None:
    async def test(store: RedisLimits) -> None:
        assert await store.hit("k", 10, 3600) == 0
        redis.pause()
        try:
            started = time.monotonic()
            with pytest.raises(LimitUnavailable):
                await store.hit("k", 10, 3600)
            first = time.monotonic() - started
            for _ in range(20):
                with pytest.raises(LimitUnavailable):
                    await store.hit("k", 10, 3600)
            assert time.monotonic() - started < 5 * first + 1, "twenty-one waits would be far more"
            assert first >= 0.4
        finally:
            redis.resume()

    run(redis, test, timeout_s=0.5)


def test_a_place_asked_for_and_cancelled_is_given_back(redis: RedisServer) -> None:
    async def test(store: RedisLimits) -> None:
        assert await free(store, "k", 1)
        redis.pause()
        asking = asyncio.ensure_future(store.take("k", "a", 1))
        await asyncio.sleep(0.05)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        store.give_back("k", "a")
        redis.resume()
        await eventually(lambda: free(store, "k", 1), "the place")

    run(redis, test, lease_s=2.0)


def test_a_renewal_does_not_bring_back_what_was_given_back_meanwhile(shared_redis: RedisServer) -> None:
    key = secrets.token_hex(8)

    async def test(store: RedisLimits) -> None:
        assert await store.take(key, "a", 1)
        store._lease_ms = 600_000  # what is brought back stays for longer than this test
        renew, renewed = store._renew, asyncio.Event()

        async def late(**arguments: Any) -> None:
            store.give_back(key, "a")
            await asyncio.gather(*store._tasks)
            await renew(**arguments)
            renewed.set()

        store._renew = late  # type: ignore[assignment]  # the same call, with what happens meanwhile
        await asyncio.wait_for(renewed.wait(), PATIENCE)
        await eventually(lambda: free(store, key, 1), "the place")

    run(shared_redis, test, lease_s=1.0)


def test_what_goes_wrong_is_logged_without_the_password(redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        store = RedisLimits(f"redis://user:hunter2@127.0.0.1:{redis.port}", timeout_s=5.0, lease_s=5.0)
        with pytest.raises(LimitUnavailable) as caught:
            await store.hit("k", 1, 1)
        assert "hunter2" not in str(caught.value)
        await store.close()

    with caplog.at_level(logging.DEBUG):
        asyncio.run(main())
    assert "away" in caplog.text
    assert "hunter2" not in caplog.text


def test_each_event_loop_has_its_own_connections(shared_redis: RedisServer) -> None:
    store = RedisLimits(shared_redis.url, timeout_s=10.0, lease_s=15.0)
    key = secrets.token_hex(8)
    for expected in (True, True, False):
        assert (asyncio.run(store.hit(key, 2, 3600)) == 0) is expected
    assert asyncio.run(store.take(key, "a", 1))
    assert not asyncio.run(store.take(key, "b", 1))

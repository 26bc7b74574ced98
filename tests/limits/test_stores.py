"""One suite for both drivers of a limit store: windows, places, and no double last place."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_middleware.errors import ConfigError
from audit_middleware.limiting import open_limits
from audit_middleware.limiting.memory import MemoryLimits
from audit_middleware.limiting.window import wait
from audit_middleware.protocols import LimitStore
from tests.limits.server import PATIENCE, RedisServer

Run = Callable[[Callable[[LimitStore], Awaitable[Any]]], Any]


@pytest.fixture(params=["memory", "redis"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a test's coroutine with a store of this kind, and closes it."""
    url = "memory://" if request.param == "memory" else request.getfixturevalue("shared_redis").url

    def during(test: Callable[[LimitStore], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            store = open_limits(url, timeout_ms=10_000, lease_ms=15_000)
            try:
                return await test(store)
            finally:
                await store.close()

        return asyncio.run(main())

    return during


def key() -> str:
    """A key nobody else has."""
    return secrets.token_hex(8)


def test_a_rate_lets_its_number_pass_and_says_when_there_is_room(run: Run) -> None:
    async def test(store: LimitStore) -> None:
        one, other = key(), key()
        assert [await store.hit(one, 3, 60) for _ in range(3)] == [0.0] * 3
        waits = [await store.hit(one, 3, 60) for _ in range(3)]
        assert all(0 < seconds <= 60 for seconds in waits)
        assert await store.hit(other, 3, 60) == 0.0, "another caller is counted apart"

    run(test)


def test_after_the_wait_there_is_room(run: Run) -> None:
    async def test(store: LimitStore) -> None:
        one = key()
        assert await store.hit(one, 2, 1) == 0.0
        assert await store.hit(one, 2, 1) == 0.0
        seconds = await store.hit(one, 2, 1)
        assert 0 < seconds <= 1
        await asyncio.sleep(seconds + 0.01)
        assert await store.hit(one, 2, 1) == 0.0

    run(test)


def test_many_at_once_get_no_more_than_the_rate(run: Run) -> None:
    async def test(store: LimitStore) -> None:
        one = key()
        waits = await asyncio.gather(*(store.hit(one, 10, 3600) for _ in range(50)))
        assert sum(seconds == 0 for seconds in waits) == 10

    run(test)


def test_places_are_taken_and_given_back_once(run: Run) -> None:
    async def test(store: LimitStore) -> None:
        one = key()
        assert await store.take(one, "a", 2)
        assert await store.take(one, "b", 2)
        assert not await store.take(one, "c", 2)
        store.give_back(one, "c")  # held none: frees none
        assert not await store.take(one, "c", 2)
        store.give_back(one, "a")
        store.give_back(one, "a")
        await until_taken(store, one, "c", 2)
        assert not await store.take(one, "d", 2), "a second give_back freed nothing"
        assert await store.take(key(), "d", 2)

    run(test)


def test_many_at_once_get_no_more_than_the_places(run: Run) -> None:
    async def test(store: LimitStore) -> None:
        one = key()
        taken = await asyncio.gather(*(store.take(one, str(number), 7) for number in range(40)))
        assert sum(taken) == 7

    run(test)


def test_a_clock_that_jumps_changes_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wall clocks of workers are set back and forth; neither window nor lease depends on them."""

    async def test(store: LimitStore) -> None:
        one, real = key(), time.time
        assert await store.hit(one, 1, 60) == 0.0
        assert await store.take(one, "a", 1)
        for jump in (-7200, 7200, 10**8):
            monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
            assert 0 < await store.hit(one, 1, 60) <= 60
            assert not await store.take(one, "b", 1)

    run(test)


async def until_taken(store: LimitStore, one: str, lease: str, places: int) -> None:
    """Giving back is not waited for."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while not await store.take(one, lease, places):
        assert asyncio.get_running_loop().time() < deadline, "the place does not come free"
        await asyncio.sleep(0.01)


# --- the window itself -------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=200)
@given(
    count=st.integers(1, 20),
    seconds=st.sampled_from([1, 60, 3600]),
    steps=st.lists(st.tuples(st.floats(0, 1.5), st.integers(1, 30)), min_size=1, max_size=20),
)
def test_no_window_admits_more_than_its_number_and_no_wait_is_too_short_or_needless(
    count: int, seconds: int, steps: list[tuple[float, int]]
) -> None:
    clock = [1000.0]
    store = MemoryLimits(lambda: clock[0])

    async def main() -> None:
        admitted: dict[int, int] = {}
        clock[0] += steps[0][0]
        first = clock[0]
        for pause, requests in steps:
            clock[0] += pause * seconds if clock[0] > first else 0
            for _ in range(requests):
                left = await store.hit("k", count, seconds)
                if left == 0:
                    window = int((clock[0] - first) / seconds)
                    admitted[window] = admitted.get(window, 0) + 1
                    continue
                assert 0 < left <= seconds * 1.001
                clock[0] += left * 1.0001 + 1e-6
                assert await store.hit("k", count, seconds) == 0, "as promised"
                window = int((clock[0] - first) / seconds)
                admitted[window] = admitted.get(window, 0) + 1
                break
        assert max(admitted.values()) <= count

    asyncio.run(main())


def test_a_wait_is_what_the_library_lets_pass() -> None:
    assert wait((0, 0.0, 10, 70.0), 10, 60) == 10.0, "the running window ends in 10 s"
    assert wait((10, 60.0, 0, 120.0), 10, 60) == 0.001, "just ended, all of it counts, and weighs less at once"
    assert wait((10, 60.0, 5, 120.0), 10, 60) == 30.0, "until half of it is out of sight"


def test_memory_does_not_grow_with_callers_of_the_past() -> None:
    clock = [0.0]
    store = MemoryLimits(lambda: clock[0])

    async def main() -> None:
        for number in range(20_000):
            clock[0] += 0.01
            assert await store.hit(f"k{number}", 1, 1) == 0
            assert await store.take(f"k{number}", "a", 1)
            store.give_back(f"k{number}", "a")

    asyncio.run(main())
    assert len(store._windows._counts) < 3_000
    assert store._places == {}


# --- opening -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["", "memory", "redis", "redis://", "http://secret@127.0.0.1", "memcached://127.0.0.1"])
def test_a_url_that_is_none_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigError, match="limit_store") as caught:
        open_limits(url, timeout_ms=250, lease_ms=1000)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "module", "extra"), [("memory://", "memory", "limits"), ("redis://127.0.0.1", "redis", "redis")]
)
def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, url: str, module: str, extra: str) -> None:
    monkeypatch.setitem(sys.modules, f"audit_middleware.limiting.{module}", None)
    with pytest.raises(ConfigError, match=rf"pip install 'audit-middleware\[{extra}\]'"):
        open_limits(url, timeout_ms=250, lease_ms=1000)


def test_nothing_of_it_is_loaded_without_a_limit() -> None:
    code = "import sys, audit_middleware; print([name for name in ('limits', 'redis') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_valkey_is_asked_as_a_redis(shared_redis: RedisServer) -> None:
    async def main() -> None:
        store = open_limits(shared_redis.url.replace("redis://", "valkey://"), timeout_ms=10_000, lease_ms=1000)
        assert await store.hit(key(), 1, 60) == 0
        await store.close()

    asyncio.run(main())

"""Limits of all processes that share a Redis or Valkey. Time is the server's alone, so workers' clocks do not matter.

A place is a lease: a member of a sorted set whose score is when it ends. A process renews its leases while their
requests run; those of a process that died end by themselves. If the server lost them (it was restarted without its
data), the next renewal brings them back, because their requests still run.

Every call is bounded in time. After one that failed, callers are told so at once for a moment, instead of each of them
waiting for a server that does not answer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as NotConnected
from redis.exceptions import RedisError

from ..errors import ConfigError, LimitUnavailable
from .window import item, wait

__all__ = ["RedisLimits", "redis_url"]

_PREFIX = "audit-limit"
_CONNECTIONS = 32
_SCHEMES = {"redis": "redis", "rediss": "rediss", "unix": "unix", "valkey": "redis", "valkeys": "rediss"}

_NOW = "local t = redis.call('TIME') local now = t[1] * 1000 + math.floor(t[2] / 1000) "
_TAKE = (
    _NOW
    + """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""
)
_RENEW = (
    _NOW
    + """
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[i]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
"""
)

logger = logging.getLogger(__name__)


def redis_url(url: str) -> str:
    """The URL as the client reads it; a Valkey speaks the same protocol.

    Raises:
        ConfigError: an unknown scheme. Never shows the URL, which may hold a password.
    """
    scheme, mark, rest = url.partition("://")
    if not mark or not rest or scheme not in _SCHEMES:
        known = ", ".join(f"{name}://" for name in _SCHEMES)
        raise ConfigError(f"setting limit_store: expected memory:// or a URL that begins with one of {known}")
    return f"{_SCHEMES[scheme]}://{rest}"


class RedisLimits:
    """A `protocols.LimitStore` shared by processes and hosts.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, as redis-py reads it.
        timeout_s: how long a call may take before the store counts as away.
        lease_s: how long a place stays taken after its process died; renewed at a third of it.
    """

    def __init__(self, url: str, *, timeout_s: float, lease_s: float) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._lease_s = lease_s
        self._lease_ms = int(lease_s * 1000)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._held: dict[str, set[str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._renewal: asyncio.Task[None] | None = None
        self._away_until = 0.0

    def _connect(self) -> None:
        """Clients for the running event loop: a connection belongs to the loop on which it was opened."""
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        self._loop, self._renewal, self._tasks, self._held = loop, None, set(), {}
        options: dict[str, Any] = {
            "max_connections": _CONNECTIONS,
            "timeout": self._timeout_s,
            "socket_timeout": self._timeout_s,
            "socket_connect_timeout": self._timeout_s,
            # Once more at once: a pooled connection may have been closed by a server that is back by now.
            "retry": Retry(NoBackoff(), 1, supported_errors=(NotConnected,)),
        }
        self._pool = BlockingConnectionPool.from_url(self._url, **options)
        self._redis = Redis(connection_pool=self._pool)
        self._take = self._redis.register_script(_TAKE)
        self._renew = self._redis.register_script(_RENEW)
        shared: Any = self._pool  # documented as an option, and not in the type of options
        self._storage = RedisStorage(
            "async+redis://", implementation="redispy", key_prefix=_PREFIX, connection_pool=shared
        )
        self._limiter = SlidingWindowCounterRateLimiter(self._storage)

    async def hit(self, key: str, count: int, seconds: int) -> float:
        """As the protocol says."""
        rate = item(count, seconds)
        async with self._asking():
            if await self._limiter.hit(rate, key):
                return 0.0
            return wait(await self._storage.get_sliding_window(rate.key_for(key), seconds), count, seconds)

    async def take(self, key: str, lease: str, places: int) -> bool:
        """As the protocol says."""
        async with self._asking():
            self._held.setdefault(key, set()).add(lease)  # before it is asked for, so that `give_back` knows of it
            if self._renewal is None or self._renewal.done():
                self._renewal = asyncio.create_task(self._renewing())
            taken = bool(await self._take(keys=[_place(key)], args=[lease, places, self._lease_ms]))
        if not taken:
            self._forget(key, lease)
        return taken

    def give_back(self, key: str, lease: str) -> None:
        """As the protocol says. What cannot be given back now ends by itself."""
        if self._forget(key, lease):
            try:
                task = asyncio.get_running_loop().create_task(self._drop(key, (lease,)))
            except RuntimeError:
                return  # no loop any more: the process ends, and the lease with it
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Gives back what is on its way, then closes the connections."""
        if self._loop is not asyncio.get_running_loop():
            return
        if self._renewal is not None:
            self._renewal.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._redis.aclose()
        await self._pool.disconnect()
        self._loop = None

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[None]:
        if time.monotonic() < self._away_until:
            raise LimitUnavailable("the limit store did not answer a moment ago")
        self._connect()
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except (RedisError, OSError, TimeoutError) as problem:
            self._away_until = time.monotonic() + self._timeout_s
            logger.warning("the limit store is away: %s", type(problem).__name__)  # a message could hold its URL
            raise LimitUnavailable("the limit store is away") from problem

    async def _renewing(self) -> None:
        """Runs while this process holds a place."""
        while self._held:
            await asyncio.sleep(self._lease_s / 3)
            for key, leases in [(key, tuple(leases)) for key, leases in self._held.items()]:
                await _tried(self._renew(keys=[_place(key)], args=[self._lease_ms, *leases]))
                # Given back while we asked: the renewal may have come last, and nobody would drop it then.
                gone = [lease for lease in leases if lease not in self._held.get(key, ())]
                if gone:
                    await self._drop(key, gone)

    async def _drop(self, key: str, leases: Sequence[str]) -> None:
        await _tried(self._redis.zrem(_place(key), *leases))

    def _forget(self, key: str, lease: str) -> bool:
        leases = self._held.get(key)
        if leases is None or lease not in leases:
            return False
        leases.discard(lease)
        if not leases:
            del self._held[key]
        return True


def _place(key: str) -> str:
    return f"{_PREFIX}:places:{key}"


async def _tried(call: Awaitable[Any]) -> None:
    """Asks what may fail: a lease that is not renewed or dropped ends by itself."""
    try:
        await call
    except (RedisError, OSError) as problem:
        logger.info("a lease was not renewed or given back: %s", type(problem).__name__)

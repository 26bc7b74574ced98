"""Waiters of the writer: futures of event loops and of threads, resolved from the writer's thread.

Waking an event loop from another thread costs about 7 us, so all futures of one loop are resolved in one call.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from concurrent.futures import Future as ThreadFuture
from typing import Any, NamedTuple

from ..errors import AuditError, LogBusy, LogUnavailable

Waiter = asyncio.Future[Any] | ThreadFuture[Any]


class Awaited(NamedTuple):
    """An item that somebody waits for. Most are not, and lie in the queue as they are: one object less for each."""

    item: Any
    waiter: Waiter


def parted(queued: Any) -> tuple[Any, Waiter | None]:
    """What lies in the queue, and who waits for it."""
    return queued if type(queued) is Awaited else (queued, None)


def resolve(results: Iterable[tuple[Waiter, Any]]) -> None:
    """Gives each waiter its value or exception; may be called from any thread."""
    loops: dict[asyncio.AbstractEventLoop, list[tuple[Waiter, Any]]] = {}
    for waiter, value in results:
        if isinstance(waiter, asyncio.Future):
            loops.setdefault(waiter.get_loop(), []).append((waiter, value))
        else:
            settle([(waiter, value)])
    for loop, pairs in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
            loop.call_soon_threadsafe(settle, pairs)


def settle(pairs: Iterable[tuple[Waiter, Any]]) -> None:
    """Resolves futures of this loop, or of threads."""
    for waiter, value in pairs:
        if waiter.done():
            continue  # cancelled, or out of time: whatever it waited for happened all the same
        if isinstance(value, Exception):
            waiter.set_exception(value)
        else:
            waiter.set_result(value)


def refuse(waiters: Iterable[Waiter | None], error: Exception) -> None:
    """Gives each waiter an exception of its own: a shared one would gather all their tracebacks."""
    resolve((waiter, _copy(error)) for waiter in waiters if waiter is not None)


def _copy(error: Exception) -> Exception:
    if isinstance(error, AuditError):
        return type(error)(*error.args)
    return LogUnavailable(f"the log could not be written: {type(error).__name__}")


async def wait_in_loop(waiter: asyncio.Future[Any], timeout_s: float, what: str) -> Any:
    """Returns what the waiter gets; raises `LogBusy` when the time is over."""
    timer = waiter.get_loop().call_later(timeout_s, settle, [(waiter, _late(what))])
    try:
        return await waiter
    finally:
        timer.cancel()


def wait_in_thread(waiter: ThreadFuture[Any], timeout_s: float, what: str) -> Any:
    """Returns what the waiter gets; raises `LogBusy` when the time is over."""
    try:
        return waiter.result(max(0.0, timeout_s))
    except TimeoutError:
        raise _late(what) from None


def _late(what: str) -> LogBusy:
    return LogBusy(f"{what} within the time allowed")

"""When a sliding window has room again. Pure."""

from __future__ import annotations

from functools import lru_cache

from limits import RateLimitItem, RateLimitItemPerSecond

__all__ = ["item", "wait"]

Window = tuple[int, float, int, float]
"""Requests of the last window and its seconds to live; requests of the running window and its seconds to live.

A window lives for twice its length: while it runs, and while it is the last one.
"""


@lru_cache(1024)
def item(count: int, seconds: int) -> RateLimitItem:
    """A rate as the library names it."""
    return RateLimitItemPerSecond(count, seconds)


def wait(window: Window, count: int, seconds: int) -> float:
    """In how many seconds one more request could be counted, if none is until then; never less than 0.001.

    The library lets one pass while ``floor(last * last_ttl / seconds) + running < count``.
    """
    last, last_ttl, running, running_ttl = window
    if running < count:  # what keeps us out is the last window, which weighs less every moment
        moment = last_ttl - seconds * (count - running) / last if last else 0.0
    else:  # not before the running window is the last one; from then on it weighs less every moment
        moment = running_ttl - seconds * count / running
    return max(moment, 0.001)

"""What counts limits: `memory` for one process, `redis` for all that share a Redis or Valkey.

Rates are counted by the library ``limits`` over a sliding window: the requests of the running window and those of the
window before, weighted by how much of it lies within the rate's time. Places of requests in flight are ours. Both are
loaded only for a policy that has a limit.
"""

from __future__ import annotations

from ..errors import ConfigError
from ..protocols import LimitStore

__all__ = ["open_limits"]


def open_limits(url: str, *, timeout_ms: int, lease_ms: int) -> LimitStore:
    """The store that a URL means. Opens no connection yet: a Redis that is away does not stop the start.

    Raises:
        ConfigError: an unknown scheme, or a package that is not installed.
    """
    if url == "memory://":
        try:
            from .memory import MemoryLimits
        except ImportError as problem:
            raise _not_installed("a policy with limits", "limits", problem) from problem
        return MemoryLimits()
    try:
        from .redis import RedisLimits, redis_url
    except ImportError as problem:
        raise _not_installed("limit_store with a Redis URL", "redis", problem) from problem
    return RedisLimits(redis_url(url), timeout_s=timeout_ms / 1000, lease_s=lease_ms / 1000)


def _not_installed(what: str, extra: str, problem: ImportError) -> ConfigError:
    return ConfigError(f"{what} needs {problem.name}: pip install 'audit-middleware[{extra}]'")

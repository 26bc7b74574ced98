"""A worker process for tests: ``python -m tests.limits.counting URL KEY COMMAND``; says what it got, a line each."""

from __future__ import annotations

import asyncio
import sys

from audit_middleware.limiting import open_limits


async def main(url: str, key: str, command: str) -> None:
    """``hit N/S``: asks N times for a rate of N in S seconds. ``hold N``: takes all places, then waits."""
    store = open_limits(url, timeout_ms=20_000, lease_ms=1_500)
    kind, _, amount = command.partition(" ")
    if kind == "hit":
        count, _, seconds = amount.partition("/")
        waits = [await store.hit(key, int(count), int(seconds)) for _ in range(int(count))]
        print(sum(wait == 0 for wait in waits), flush=True)
    else:
        name, held = f"{id(store)}-", 0
        while await store.take(key, f"{name}{held}", int(amount)):
            held += 1
        print(held, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))

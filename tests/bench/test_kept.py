"""What a request leaves behind until its record is written, counted: the collector of cycles walks over all of it."""

from __future__ import annotations

import gc
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from bench.apps import guard, marked, parts_of
from bench.drive import Driver, receive, scope, send
from bench.services import application, path_of, stop

REQUESTS = 100


def test_two_objects_of_a_request_wait_for_the_writer(tmp_path: Path) -> None:
    app, driver = guard(application(mark=marked), tmp_path, linger=50), Driver()
    path = partial(path_of, routes=60)
    try:
        driver.run(app, path, 400)
        writer = parts_of(app).writer
        writer.submit = kept = Kept()
        driver.call(kept.after(app, path))
        assert len(kept.items) == REQUESTS
    finally:
        stop(app)
        driver.close()
    assert {one.__name__: round(count / REQUESTS) for one, count in kept.seen.items() if count >= REQUESTS / 2} == {
        "Facts": 1,
        "Notes": 1,
    }


class Kept:
    """Stands in the place of `Writer.submit`: the writer's thread would take the items away at a time of its own."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.seen: Counter[type] = Counter()

    def __call__(self, item: Any, *, reserve: bool = False) -> None:
        self.items.append(item)

    async def after(self, app: Any, path: Any) -> None:
        """What the collector follows from the items on after so many requests, and did not before."""
        gc.collect()
        gc.disable()
        try:
            before = {id(one) for one in gc.get_objects()}
            for number in range(REQUESTS):
                await app(scope(path(number)), receive, send)
            seen, left = set[int](), list(self.items)
            while left:
                one = left.pop()
                if gc.is_tracked(one) and id(one) not in before and id(one) not in seen:
                    seen.add(id(one))
                    self.seen[type(one)] += 1
                    left += gc.get_referents(one)
        finally:
            gc.enable()

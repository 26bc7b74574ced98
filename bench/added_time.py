"""What a middleware adds to a request, in process: ``python -m bench.added_time``.

The same application bare, behind us (everything on, a durable log) narrowed more and less, and behind peers: 60 and
600 routes, 1 to 4 levels of included routers, plain Starlette, and what the decision is. No server and no sockets, so
the difference is the middleware alone. Three measures: the time a request takes while the writer's thread runs beside
it; the processor time of the event loop's thread, which is what a request's path costs; and that of the whole process
until the last record is durable. Neighbours on the machine move the second and third least.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bench import OURS, peers
from bench.apps import guard, marked
from bench.drive import REQUESTS, Driver
from bench.measure import Case, Result, finish, parser, take_turns
from bench.services import NARROWING, application, path_of, plain, stop, variant

ROUNDS = 11
METRICS = {"wall": "time", "loop": "event loop's processor time", "cpu": "processor time with all threads"}

Sides = Mapping[str, Any]


class Bench:
    """Applications of one run, their loop and their folders."""

    def __init__(self, folder: Path, rounds: int, requests: int) -> None:
        self.folder = folder
        self.rounds = rounds
        self.requests = requests
        self._driver = Driver()
        self._made = 0

    def place(self) -> Path:
        """A folder that nobody has used."""
        self._made += 1
        return self.folder / str(self._made)

    def sides(self, make: Callable[..., Any], routes: int) -> dict[str, Any]:
        """An application bare and behind us, narrowed more and less."""
        ours = {
            name: guard(make(mark=marked), self.place(), routes, narrow=narrow) for name, narrow in NARROWING.items()
        }
        return {"bare": make()} | ours

    def cases(self, name: str, sides: Sides, path: Callable[[int], str], status: int = 200) -> list[Case]:
        """One case for each of `METRICS`."""
        for app in sides.values():
            self._driver.check(app, path(0), status)
        works = {side: partial(self._driver.run, app, path, self.requests) for side, app in sides.items()}
        found = take_turns(works, self.rounds)
        for app in sides.values():
            stop(app)
        return [
            Case(f"{name}: {told}", "us a request", "bare", found[metric], unranked=("bare",))
            for metric, told in METRICS.items()
        ]

    def close(self) -> None:
        """Ends the loop."""
        self._driver.close()


def measure(bench: Bench, *, quick: bool = False) -> list[Case]:
    """All cases of this file."""
    cases: list[Case] = []
    for routes in (60, 600):
        sides = bench.sides(partial(application, routes), routes)
        for name in peers.PEERS if routes == 60 else [name for name in ("OpenTelemetry",) if name in peers.PEERS]:
            sides[name] = variant(name, bench.place(), routes)
        cases += bench.cases(f"FastAPI, {routes} routes", sides, partial(path_of, routes=routes))
    for levels in (2, 4) if quick else (1, 2, 3, 4):
        sides = bench.sides(partial(application, 60, levels), 60)
        cases += bench.cases(f"60 routes, {levels} include levels", sides, partial(path_of, routes=60, levels=levels))
    for routes in (60, 600):
        sides = bench.sides(partial(plain, routes), routes)
        cases += bench.cases(f"Starlette, {routes} routes in mounts", sides, partial(path_of, routes=routes))
    path = partial(path_of, routes=60)
    sides = {"bare": application()} | {
        f"{OURS}, {rules}": guard(application(mark=marked), bench.place(), rules=rules)
        for rules in ("role", "conditions")
    }
    cases += bench.cases("allowed, by role and by three conditions", sides, path)
    refusing = {"bare": application(forbid=True), OURS: guard(application(mark=marked), bench.place(), rules="denied")}
    cases += bench.cases("denied; bare: the handler raises 403", refusing, path, 403)
    few = Bench(bench.place(), bench.rounds, max(20, bench.requests // 10))
    try:
        sides = {"bare": application(), f"{OURS}, before": guard(application(mark=marked), few.place(), rules="before")}
        cases += few.cases("guarantee: before (one request at a time waits for the disk)", sides, path)
    finally:
        few.close()
    return cases


def main() -> None:
    """Measures and writes ``added_time``."""
    given = parser(__doc__, rounds=ROUNDS).parse_args()
    if given.quick:
        given.rounds = 3
    folder = Path(tempfile.mkdtemp(prefix="audit-bench-"))
    bench = Bench(folder, given.rounds, 100 if given.quick else REQUESTS)
    try:
        cases = measure(bench, quick=given.quick)
    finally:
        bench.close()
    finish(Result("added_time", "Added to a request, in process", cases, absent=peers.ABSENT), given)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

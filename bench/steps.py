"""Where the time of one request goes, step by step, on the event loop and in the writer: ``python -m bench.steps``.

The real functions are timed in place, inside real requests to FastAPI with 60 routes, and once more alone in a hot loop
with the arguments that a request gave them: what lies between is what cold caches cost. Beside the times stand the
calls of Python and C functions and the memory in use at most, which no neighbour on the machine can change.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import fastapi.routing

from audit_middleware import middleware
from audit_middleware.frameworks import guard as guarding
from audit_middleware.frameworks.lane import Lane
from audit_middleware.frameworks.narrow import Narrower
from audit_middleware.identity.proxies import ClientAddress
from audit_middleware.ledger import checkpoint, tree
from audit_middleware.pipeline import arrive, batch, committer, observe, record
from audit_middleware.pipeline.append import MAX_LINGER_MS, Writer
from audit_middleware.privacy.redact import Redactor
from audit_middleware.stores import appender, filesystem, frames
from audit_middleware.stores.lock import ProcessLock
from audit_middleware.wiring.parts import Parts
from bench import OURS, drive
from bench.apps import guard, marked, middleware_of
from bench.drive import REQUESTS, Driver, scope, send
from bench.measure import Case, Result, Work, finish, parser, take_turns
from bench.services import WHOLE, application, path_of, settle, stop
from bench.stopwatch import Stopwatch

ROUNDS, SHORT = 60, 50
APPLICATION, SERVER, OURS_ALL = "the application", "the server's send", "all steps of ours"
BELOW = (APPLICATION, SERVER)
PATH = partial(path_of, routes=60)

LOOP: tuple[tuple[Any, str, str], ...] = (
    (middleware.AuditMiddleware, "__call__", "middleware, between the steps"),
    (middleware, "arrive", "arrival"),
    (arrive, "correlate", "arrival: correlation"),
    (arrive, "fresh_action_id", "arrival: action id"),
    (ClientAddress, "of", "arrival: address"),
    (guarding.RouterGuard, "__call__", "guard, between the steps"),
    (Narrower, "narrowed", "resolution: narrowing"),
    (guarding, "find", "resolution: what the router will run"),
    (Lane, "find", "resolution: what the router will run"),
    (Lane, "_found", "resolution: naming it"),
    (middleware, "resolve", "resolution: action"),
    (middleware, "describe", "resolution: facts"),
    (middleware, "identify", "identity"),
    (middleware.Admission, "admit", "admission, between the steps"),
    (Parts, "today", "decision: the day"),
    (Parts, "log_available", "decision: is there a log"),
    (Writer, "takes_records", "decision: is there a log"),
    (middleware, "context_of", "decision: context"),
    (middleware, "decide", "decision: rules"),
    (middleware, "decide_by_role", "decision: rules"),
    (middleware, "refusal", "decision: answer"),
    (middleware, "announced", "decision: answer"),
    (middleware, "begin_capture", "decision: answer"),
    (middleware, "arm", "holding the scope"),
    (guarding, "hold", "holding the scope"),
    (guarding.HeldScope, "__setitem__", "holding the scope"),
    (guarding.HeldScope, "setdefault", "holding the scope"),
    (guarding.HeldScope, "update", "holding the scope"),
    (middleware.Admission, "selected", "holding the scope"),
    (middleware, "response_headers", "headers"),
    (observe._Http, "_start", "headers"),
    (middleware, "observe", "observing"),
    (observe._Http, "send", "observing: send"),
    (observe._Http, "receive", "observing: receive"),
    (Parts, "_complete", "completion"),
    (Parts, "finish", "queueing"),
    (Writer, "submit", "queueing"),
    (fastapi.routing.APIRouter, "app", APPLICATION),
)
"""Owner, function, step: what runs on the event loop."""

WRITER: tuple[tuple[Any, str, str], ...] = (
    (record.Recorder, "encode", "building"),
    (Redactor, "value", "redaction: values"),
    (Redactor, "path", "redaction: path"),
    (Redactor, "headers", "redaction: headers"),
    (Redactor, "text", "redaction: text"),
    (record, "inputs_part", "building: inputs"),
    (record, "_encode_request", "encoding"),
    (batch, "check_entry", "checking the entry"),
    (batch.Batch, "_take", "taking from the queue"),
    (frames, "check_batch", "checking the entry"),
    (tree, "leaf_hashes", "hashing: leaves"),
    (tree, "append", "hashing: tree"),
    (checkpoint, "sign_checkpoint", "signing"),
    (appender.Appender, "append", "commit, between the steps"),
    (frames.Body, "__init__", "commit: frame"),
    (frames.Body, "frame", "commit: frame"),
    (ProcessLock, "held", "commit: lock"),
    (appender.Appender, "_catch_up", "commit: looking for others"),
    (filesystem, "write_all", "commit: write"),
    (os, "fdatasync", "commit: fdatasync"),
    (committer.Committer, "_commit", "commit, between the steps"),
)
"""The same of the writer's thread. Times are processor time: the wait for the disk is not in them."""


def in_place(folder: Path, rounds: int) -> tuple[list[Case], list[Any]]:
    """Steps inside real requests, the writer's beside them; and the facts of some requests.

    A round is so short that the writer still waits for company when its last request is done: the event loop is timed
    with nobody beside it, and then the writer.
    """
    loop, writer = Stopwatch(time.perf_counter_ns), Stopwatch()
    for owner, name, step in LOOP:
        loop.watch(owner, name, step)
    for owner, name, step in WRITER:
        writer.watch(owner, name, step)
    loop.watch(drive, "send", SERVER)
    app, driver = guard(application(mark=marked), folder, linger=MAX_LINGER_MS), Driver()
    of_loop: dict[str, list[float]] = {}
    of_writer: dict[str, list[float]] = {}
    try:
        driver.run(app, PATH, REQUESTS)
        loop.watch(middleware_of(app), "app", APPLICATION)
        for _ in range(rounds):
            gc.collect()
            loop.begin()
            writer.begin()
            driver.run(app, PATH, SHORT)
            _add(of_loop, loop.end(SHORT))
            _add(of_writer, writer.end(SHORT))
        kept = kept_facts(app, driver)
    finally:
        loop.restore()
        writer.restore()
        stop(app)
        driver.close()
    cases = []
    for name, found in (("event loop", of_loop), ("writer's thread", of_writer)):
        for values in found.values():  # a step that not every round has seen
            values.extend([0.0] * (rounds - len(values)))
        found[OURS_ALL] = [sum(found[step][at] for step in found if step not in BELOW) for at in range(rounds)]
        ordered = dict(sorted(found.items(), key=lambda pair: -statistics.median(pair[1])))
        cases.append(Case(f"{name}, inside requests", "us a request", OURS_ALL, ordered, unranked=tuple(ordered)))
    return cases, kept


def unwrapped(folder: Path, rounds: int) -> Case:
    """The event loop thread's processor time with nothing replaced, while the writer waits."""
    driver = Driver()
    apps = {
        "bare": application(),
        OURS: guard(application(mark=marked), folder / "1", linger=MAX_LINGER_MS),
        WHOLE: guard(application(mark=marked), folder / "2", narrow=False, linger=MAX_LINGER_MS),
    }
    for app in apps.values():
        driver.run(app, PATH, REQUESTS)
    works: dict[str, Work] = {name: partial(driver.run, app, PATH, SHORT) for name, app in apps.items()}
    found = take_turns(works, rounds)["loop"]
    for app in apps.values():
        stop(app)
    driver.close()
    return Case("event loop, nothing replaced, the writer waiting", "us a request", "bare", found, unranked=("bare",))


def _add(found: dict[str, list[float]], more: Mapping[str, float]) -> None:
    for name, value in more.items():
        found.setdefault(name, []).append(value)


def kept_facts(app: Any, driver: Driver, count: int = 256) -> list[Any]:
    """What so many requests gave to the writer."""
    kept: list[Any] = []
    original = Writer.submit

    def keep(self: Writer, item: Any, **options: Any) -> None:
        kept.append(item)
        original(self, item, **options)

    Writer.submit = keep  # type: ignore[method-assign]  # put back below
    try:
        driver.run(app, PATH, count)
    finally:
        Writer.submit = original  # type: ignore[method-assign]
    return kept


# --- alone, in a hot loop ----------------------------------------------------------------------------------------

ALONE = (
    "arrive", "correlate", "fresh_action_id", "of", "narrowed", "find", "resolve", "describe", "identify", "today",
    "log_available", "context_of", "decide", "refusal", "arm", "response_headers", "_start",
)  # fmt: skip
"""Functions that may be called again with the same arguments, and do the same then."""


def alone(folder: Path, rounds: int, times: int) -> Case:
    """The same functions with a real request's arguments and nothing else. Includes what they call."""
    first: dict[tuple[str, str], tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = {}
    chosen = [(owner, name, step) for owner, name, step in LOOP if name in ALONE]
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in chosen]

    def keeping(function: Callable[..., Any], key: tuple[str, str]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:  # of an async function: returns what is awaited
            first[key] = (function, args, kwargs)
            return function(*args, **kwargs)

        return called

    for owner, name, step in chosen:
        setattr(owner, name, keeping(getattr(owner, name), (step, name)))
    app, driver = guard(application(mark=marked), folder), Driver()
    try:
        driver.run(app, PATH, 2)
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        spent: Counter[str] = Counter()
        for (step, _), (function, args, kwargs) in first.items():
            spent[step] += asyncio.run(_hot(function, args, kwargs, times))
        _add(found, {step: value / times / 1e3 for step, value in spent.items()})
    stop(app)
    driver.close()
    base = "resolution: what the router will run"
    ordered = dict(sorted(found.items(), key=lambda pair: -statistics.median(pair[1])))
    return Case(
        "event loop, each function alone (with what it calls)", "us a call", base, ordered, unranked=tuple(found)
    )


async def _hot(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], times: int) -> int:
    """Nanoseconds of so many calls."""
    if inspect.iscoroutinefunction(function):
        started = time.thread_time_ns()
        for _ in range(times):
            await function(*args, **kwargs)
        return time.thread_time_ns() - started
    started = time.thread_time_ns()
    for _ in range(times):
        function(*args, **kwargs)
    return time.thread_time_ns() - started


def writer_alone(items: list[Any], rounds: int) -> Case:
    """The writer's work on the facts of real requests, in a hot loop."""
    recorder = record.Recorder(record.Service("bench", None, "bench:1:0", None), Redactor())
    steps: dict[str, Callable[[], Any]] = {
        "a record, whole": lambda: [recorder.encode(item, 1, item.arrived_ns) for item in items],
        "building and redaction": lambda: [recorder._request(item, 1, item.arrived_ns) for item in items],
    }
    built = [recorder._request(item, 1, item.arrived_ns) for item in items]
    entries = [record._encode_request(one) for one in built]
    leaves = tree.leaf_hashes(entries)
    steps |= {
        "encoding": lambda: [record._encode_request(one) for one in built],
        "checking the entry": lambda: frames.check_batch(entries),
        "hashing: leaves": lambda: tree.leaf_hashes(entries),
        "hashing: tree": lambda: tree.append(1_000_000, _peaks(), leaves),
    }
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 1):
        for name, step in steps.items():
            started = time.thread_time_ns()
            step()
            found[name].append((time.thread_time_ns() - started) / len(items) / 1e3)
    return Case(
        "writer, each step alone", "us a record", "a record, whole", {name: one[1:] for name, one in found.items()},
        unranked=tuple(steps),
    )  # fmt: skip


def _peaks() -> tuple[bytes, ...]:
    return tuple(bytes([at]) * 32 for at in range((1_000_000).bit_count()))


# --- counted, not timed ------------------------------------------------------------------------------------------


def counts(app: Any, driver: Driver, requests: int = 100) -> dict[str, float]:
    """Calls of Python functions and of C functions on the event loop's thread, and kB in use at most, by request."""
    driver.run(app, PATH, requests)
    seen: Counter[str] = Counter()

    def profile(frame: Any, event: str, argument: Any) -> None:
        seen[event] += 1

    async def profiled() -> None:
        for number in range(requests):
            sys.setprofile(profile)
            await app(scope(PATH(number)), drive.receive, send)
            sys.setprofile(None)

    driver.call(profiled())
    settle(app)
    return {
        "python": seen["call"] / requests,
        "c": seen["c_call"] / requests,
        "memory": driver.call(_peak(app)) / 1024,
    }


async def _peak(app: Any, requests: int = 50) -> float:
    """Bytes in use at most during a request, more than before it: median."""
    found = []
    tracemalloc.start()
    for number in range(requests):
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        await app(scope(PATH(number)), drive.receive, send)
        found.append(tracemalloc.get_traced_memory()[1] - before)
    tracemalloc.stop()
    return statistics.median(found)


def counted(folder: Path) -> list[Case]:
    """The bare application and ours, counted."""
    driver = Driver()
    apps = {
        "bare": application(),
        OURS: guard(application(mark=marked), folder / "1"),
        WHOLE: guard(application(mark=marked), folder / "2", narrow=False),
    }
    found: dict[str, dict[str, list[float]]] = {}
    for name, app in apps.items():
        for metric, value in counts(app, driver).items():
            found.setdefault(metric, {})[name] = [value]
        stop(app)
    driver.close()
    names = {"python": ("Python function calls", "calls"), "c": ("C function calls", "calls"),
             "memory": ("memory at most during a request", "kB")}  # fmt: skip
    return [
        Case(f"event loop: {title}", f"{unit} a request", "bare", found[name], unranked=("bare",))
        for name, (title, unit) in names.items()
    ]


def main() -> None:
    """Measures and writes ``steps``."""
    given = parser(__doc__, rounds=ROUNDS).parse_args()
    if given.quick:
        given.rounds = 4
    with tempfile.TemporaryDirectory(prefix="audit-bench-") as place:
        folder = Path(place)
        cases, items = in_place(folder / "place", given.rounds)
        cases.insert(0, unwrapped(folder / "unwrapped", given.rounds))
        cases.append(alone(folder / "alone", given.rounds // 4, 200 if given.quick else 2000))
        cases.append(writer_alone(items, given.rounds // 4))
        cases += counted(folder / "counted")
    finish(Result("steps", "Where a request's time goes", cases), given)


if __name__ == "__main__":
    main()

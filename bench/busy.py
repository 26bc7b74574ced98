"""Does a log keep up beside an event loop that never rests: ``python -m bench.busy [--seconds 2]``.

A thread that wants to write has to get the interpreter from the event loop, and gives it back at each call that
waits. So here an event loop works all the time, in pieces of about a tenth of a millisecond, and hands over one
record of 1.4 kB after each of them; another thread makes them durable. What counts is how much of its work the loop
still does, and how long after the last record was handed over all of them were durable. Records are made beforehand.
Beside us: the same with rows of SQLite, as many to a commit as wait, row by row (``executemany``) and in one
statement.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from audit_middleware.pipeline.append import Writer, make_sealer
from audit_middleware.stores.journal import JournalStore
from bench import OURS
from bench.logs import ORIGIN, SIGNER, entries, new_log
from bench.measure import Case, Result, Work, finish, parser, take_turns

ROUNDS, SECONDS, DIFFERENT, PIECE = 5, 2.0, 4096, 3_000
ALONE = "the event loop alone"

Submit = Callable[[bytes], object]
Side = Callable[[Path], contextlib.AbstractContextManager[Submit]]
"""Takes records while it is open; when it closes, all of them are durable."""


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[Submit]:
    """Nobody takes them."""
    yield lambda record: None


@contextlib.contextmanager
def ours(folder: Path) -> Iterator[Submit]:
    """The writer of a service, and its journal."""
    new_log(folder / "log").close()
    writer = Writer(
        lambda: JournalStore.open(folder / "log"),
        make_sealer(ORIGIN, [SIGNER]),
        lambda record, sequence, at: record,
        max_records=10**6,
        timeout_s=600,
    )
    yield writer.submit
    if writer.close():
        raise SystemExit("not all records were durable")


def one_by_one(database: sqlite3.Connection, records: Sequence[bytes]) -> None:
    """Lets go of the interpreter at every row."""
    database.executemany("INSERT INTO audit (record) VALUES (?)", [(one,) for one in records])


def at_once(database: sqlite3.Connection, records: Sequence[bytes]) -> None:
    """Lets go of it once."""
    ends, end = [], 0
    for one in records:
        ends.append(f"[{end + 1},{len(one)}]")
        end += len(one)
    database.execute(
        "INSERT INTO audit (record) SELECT substr(?1, value ->> 0, value ->> 1) FROM json_each(?2)",
        (b"".join(records), f"[{','.join(ends)}]"),
    )


@contextlib.contextmanager
def rows(folder: Path, insert: Callable[[sqlite3.Connection, Sequence[bytes]], None]) -> Iterator[Submit]:
    """A thread that commits all that waits, then all that came meanwhile. No index, no tree, no signature."""
    waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def run() -> None:
        database = sqlite3.connect(folder / "rows", isolation_level=None)
        database.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;")
        database.execute("CREATE TABLE audit (id INTEGER PRIMARY KEY, record BLOB)")
        ended = False
        while not ended:
            batch = [waiting.get()]
            while len(batch) < 1024 and not waiting.empty():
                batch.append(waiting.get())
            ended = batch[-1] is None
            database.execute("BEGIN IMMEDIATE")
            insert(database, [one for one in batch if one is not None])
            database.execute("COMMIT")
        database.close()

    thread = threading.Thread(target=run)
    thread.start()
    yield waiting.put
    waiting.put(None)
    thread.join()


def beside(side: Side, records: Sequence[bytes], seconds: float) -> Mapping[str, float]:
    """Pieces of work that the loop did in a second, and the milliseconds for which the last records waited."""
    with tempfile.TemporaryDirectory(prefix="audit-bench-") as folder, contextlib.ExitStack() as stack:
        submit = stack.enter_context(side(Path(folder)))
        done = asyncio.run(_work(submit, records, seconds))
        ended = time.perf_counter()
        stack.pop_all().close()
        return {"loop": done / seconds, "behind": (time.perf_counter() - ended) * 1e3}


async def _work(submit: Submit, records: Sequence[bytes], seconds: float) -> int:
    done, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        sum(number & 7 for number in range(PIECE))
        submit(records[done % len(records)])
        done += 1
        await asyncio.sleep(0)
    return done


SIDES: Mapping[str, Side] = {
    ALONE: alone,
    OURS: ours,
    "SQLite rows, one statement a commit": partial(rows, insert=at_once),
    "SQLite rows, executemany": partial(rows, insert=one_by_one),
}


def main() -> None:
    """Measures and writes ``busy``."""
    made = parser(__doc__, rounds=ROUNDS)
    made.add_argument("--seconds", type=float, default=SECONDS, help="how long the event loop works in a round")
    given = made.parse_args()
    if given.quick:
        given.rounds, given.seconds = 1, 0.2
    records = entries(0, DIFFERENT)
    works: dict[str, Work] = {name: partial(beside, side, records, given.seconds) for name, side in SIDES.items()}
    found = take_turns(works, given.rounds, warm=False)
    behind = {name: values for name, values in found["behind"].items() if name != ALONE}
    cases = [
        Case("an event loop that never rests: its work", "pieces/s", ALONE, found["loop"], "more", (ALONE,)),
        Case("an event loop that never rests: until all it handed over is durable", "ms", OURS, behind),
    ]
    finish(Result("busy", "Beside a busy event loop", cases, {"seconds": given.seconds}), given)


if __name__ == "__main__":
    main()

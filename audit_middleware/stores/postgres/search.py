"""The search index of a log in PostgreSQL: the same questions as `stores.index.SearchIndex` answers for the journal.

Its columns are filled in the transaction that appends an entry, so it never lags. It is derived and never trusted: what
a query shows is read from the log by its index, `PostgresIndex.check` compares every column with the entries, and
`rebuild_index` makes it anew. Texts longer than an index of PostgreSQL takes are kept as a beginning and a hash.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice, product
from typing import Any

from psycopg import sql

from ...errors import LogUnavailable
from ..columns import BLOCK, COLUMNS, COMMON, Filters, row_of
from ..places import entries_of
from .address import parse_url
from .reading import find_log
from .session import TIMEOUT, Lost, Session
from .store import PostgresStore
from .wire import as_found, columns_of

FIRST_PAGE = 50  # who wants the newest few shall not wait for a thousand
PAGE = 1000
_REBUILD = 5000
_ALL = "idx, " + ", ".join(f'"{name}"' for name in COLUMNS[1:])
CHECKED = 64 * BLOCK
"""Entries whose times are checked in one statement, which must not reach the limit of its time."""

_TIMED = ("bases", "search", "blocks")
_WRONG_TIMES = """
    WITH base AS (SELECT coalesce(max(size), 0) AS size FROM {} WHERE log_id = %s), found AS (
        SELECT idx / 1024 * 1024 AS first, min("timestamp") AS low, max("timestamp") AS high
        FROM {}, base WHERE log_id = %s AND idx >= %s AND idx < %s AND idx >= base.size AND "timestamp" IS NOT NULL
        GROUP BY 1)
    SELECT f.first FROM base, found f LEFT JOIN {} b ON b.log_id = %s AND b.first = f.first
    WHERE b.first IS NULL OR b.low > f.low OR b.high < f.high
       OR (f.first >= base.size AND (b.low, b.high) <> (f.low, f.high))
    ORDER BY 1 LIMIT 1"""
"""In one moment, so a writer may be ahead. Of a block of which a part was pruned the times may be wider."""

_NO_OUTCOME = "NOT EXISTS (SELECT FROM {} o WHERE o.log_id = s.log_id AND o.intent_id = s.action_id"


@dataclass(frozen=True, slots=True)
class _Condition:
    text: str
    values: tuple[Any, ...] = ()


class PostgresIndex:
    """The index of one log; shares its store's connection. Safe for threads, as the store is."""

    def __init__(self, store: PostgresStore) -> None:
        """``store`` must be of a role that may read."""
        self._store = store
        self._tables = store.tables
        self._log = store.log.log_id

    def close(self) -> None:
        """Nothing to close: the connection is the store's."""

    def catch_up(self) -> int:
        """Returns the log's size up to which the index reaches, which is always all of it."""
        return self._store.head().size

    # --- asking --------------------------------------------------------------------------------------------------

    def find(self, filters: Filters, *, newest_first: bool = True, limit: int | None = None) -> Iterator[int]:
        """Indexes of the entries that match, in the log's order or against it; streams, page by page."""
        low, high = self._span(filters)
        rest = [*_conditions(filters), *_times(filters)]
        streams = [self._pages([*lead, *rest], low, high, newest_first) for lead in product(*_either(filters))]
        merged = heapq.merge(*streams, reverse=newest_first)
        return islice((index for index, _ in groupby(merged)), limit)

    def unfinished(self) -> Iterator[int]:
        """Indexes of intents that no outcome names, oldest first."""
        outcome = _Condition(_NO_OUTCOME + " AND o.kind = 'outcome')")
        rare = _Condition("s.kind = 'intent' AND s.kind <> 'outcome'")
        return self._pages([rare, outcome], self._store.base.size, self._store.head().size, newest_first=False)

    def with_action_id(self, action_id: str) -> list[int]:
        """Indexes of all entries with this action id, oldest first: a retried record may be there twice."""
        return list(self.find(Filters(action_id=action_id), newest_first=False))

    def _pages(self, conditions: Sequence[_Condition], low: int, high: int, newest_first: bool) -> Iterator[int]:
        text = " AND ".join(["s.log_id = %s", "s.idx >= %s", "s.idx < %s", *(one.text for one in conditions)])
        order = "DESC" if newest_first else "ASC"
        # The conditions are ours; what was asked for is in the values.
        statement = f"SELECT s.idx FROM {{}} s WHERE {text} ORDER BY s.idx {order} LIMIT %s"  # noqa: S608
        names = ["search"] * statement.count("{}")
        values = [value for condition in conditions for value in condition.values]
        size = FIRST_PAGE
        while low < high:
            rows = self._tables.query(statement, *names, values=(self._log, low, high, *values, size))
            for (index,) in rows:
                yield index
            if len(rows) < size:
                return
            size = PAGE
            low, high = (low, rows[-1][0]) if newest_first else (rows[-1][0] + 1, high)

    def _span(self, filters: Filters) -> tuple[int, int]:
        """Where in the log an answer can lie: what was asked of time, by the times of the blocks."""
        low, high = self._store.base.size, self._store.head().size
        if filters.since is not None:
            statement = "SELECT min(first) FROM {} WHERE log_id = %s AND high >= %s"
            ((first,),) = self._tables.query(statement, "blocks", values=(self._log, filters.since))
            low = high if first is None else max(low, first)
        if filters.until is not None:
            statement = "SELECT max(first) FROM {} WHERE log_id = %s AND low < %s"
            ((first,),) = self._tables.query(statement, "blocks", values=(self._log, filters.until))
            high = low if first is None else min(high, first + BLOCK)
        return low, high

    def read(self, indexes: Iterable[int]) -> Iterator[tuple[int, bytes]]:
        """Yields each of these log indexes with its entry; a commit is read once for neighbours that are in it."""
        return entries_of(self._store, indexes)

    # --- checking ------------------------------------------------------------------------------------------------

    def check(self, first: int, entries: Sequence[bytes]) -> Iterator[tuple[int, str]]:
        """Yields (log index, words) for each of these entries that the index has wrong; the verifier's check 10.

        Called with the log's size and no entries for what the index has beyond the log's end, and for the times of the
        blocks. What the database's own structures look like is `pg_amcheck`'s to say.
        """
        yield from self._check_rows(first, entries) if entries else self._check_rest(first)

    def _check_rows(self, first: int, entries: Sequence[bytes]) -> Iterator[tuple[int, str]]:
        statement = f"SELECT {_ALL} FROM {{}} WHERE log_id = %s AND idx >= %s AND idx < %s"  # noqa: S608  # constants
        found = self._tables.query(statement, "search", values=(self._log, first, first + len(entries)))
        rows = {row[0]: row for row in found}
        for index, entry in enumerate(entries, first):
            row, should = rows.get(index), tuple(map(as_found, row_of(index, entry)))
            if row is None:
                yield index, "the search index has no row for this entry"
            elif row != should:
                wrong = [name for name, has, right in zip(COLUMNS, row, should, strict=True) if has != right]
                yield index, f"the search index says something else in {', '.join(wrong)}"

    def _check_rest(self, size: int) -> Iterator[tuple[int, str]]:
        beyond = "SELECT min(idx) FROM {} WHERE log_id = %s AND idx >= %s AND idx >= "
        head = "(SELECT size FROM {} WHERE log_id = %s)"  # a writer may be ahead of this verification
        ((index,),) = self._tables.query(beyond + head, "search", "heads", values=(self._log, size, self._log))
        if index is not None:
            yield index, "the search index has a row for an entry that is not in the log"
        for at in range(self._store.base.size // BLOCK * BLOCK, size, CHECKED):
            values = (self._log, self._log, at, at + CHECKED, self._log)
            found = self._tables.query(_WRONG_TIMES, *_TIMED, values=values)
            if found:
                yield found[0][0], "the search index has wrong times for the entries from here on"
                return


def rebuild_index(url: str, *, origin: str | None = None, schema: str | None = None) -> int:
    """Makes the search index of a log anew, as a member of the owner; returns how many entries it holds.

    One transaction, which locks the head: writers wait. If we die here, the old index is there.

    Raises:
        LogUnavailable: The database cannot be reached or refuses.
    """
    address = parse_url(url, origin=origin, schema=schema)
    session = Session(address, lock_timeout=None, timeout=TIMEOUT * 100, force=False)
    store = PostgresStore.open(url, origin=origin, schema=schema, writable=False)
    try:
        log = find_log(session).log_id
        with session.talking():
            connection = session.connect()
            connection.execute("BEGIN")
            lock = sql.SQL("SELECT size FROM {} WHERE log_id = %s FOR UPDATE").format(session.name("heads"))
            (size,) = connection.execute(lock, [log]).fetchone() or (0,)
            connection.execute(sql.SQL("SELECT {}(%s)").format(session.name("clear_index")), [log])
            add = sql.SQL("SELECT {}(%b, %b, %b)").format(session.name("index_entries"))
            done = store.base.size
            for frame in store.frames(None, size):
                for at in range(0, len(frame.entries), _REBUILD):
                    piece = frame.entries[at : at + _REBUILD]
                    connection.execute(add, [log, frame.first + at, columns_of(piece)])
                done = frame.first + len(frame.entries)
            connection.execute("COMMIT")
        return done - store.base.size
    except Lost as lost:
        raise LogUnavailable(f"{address.place}: {lost}; run it again") from None
    finally:
        session.drop()
        store.close()


def _either(filters: Filters) -> Iterator[list[_Condition]]:
    """What may be one of several: of each group one condition must hold, and each is looked up by itself."""
    if filters.trace is not None:
        yield [_Condition(f"s.{name} = %s", (as_found(filters.trace),)) for name in ("trace_id", "correlation_id")]
    for column, texts in (("user_id", filters.user_ids), ("resource_id", filters.resource_ids)):
        if texts:
            yield [_Condition(f"s.{column} = %s", (as_found(text),)) for text in texts]


def _conditions(filters: Filters) -> Iterator[_Condition]:
    """What was asked, but for times and `_either`. For rare values the index's own condition is said as well."""
    start = None if filters.action_start is None else str(as_found(filters.action_start))
    wanted: list[tuple[str, str | None]] = [
        ("action_id", filters.action_id),
        ("action", filters.action if start is None else None),
        ("kind", "intent" if filters.unfinished else filters.kind),
        ("effect", filters.decision),
        ("outcome", filters.outcome),
        ("severity", filters.severity),
        ("resource_type", None if filters.resource is None else filters.resource.partition("/")[0]),
    ]
    for column, value in wanted:
        if value is None:
            continue
        yield _Condition(f"s.{column} = %s", (as_found(value),))
        common = COMMON.get(column)
        if common is not None and value != common:
            yield _Condition(f"s.{column} <> '{common}'")
    if start:
        yield _Condition("s.action >= %s AND s.action < %s", (start, start + "\U0010ffff"))
    if filters.unfinished:
        yield _Condition(_NO_OUTCOME + ")")


def _times(filters: Filters) -> Iterator[_Condition]:
    if filters.since is not None:
        yield _Condition('s."timestamp" >= %s', (filters.since,))
    if filters.until is not None:
        yield _Condition('s."timestamp" < %s', (filters.until,))

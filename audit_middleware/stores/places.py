"""Where entries stand in the journal's files, so that a page of a query reads lines and not whole commits.

The search index keeps one row for each commit: its segment, its offset there, and for each entry the length of its line
and its leaf hash (RFC 6962), taken when the whole commit was read and fitted its hash. None of it is trusted. What is
read at a place is handed out only if

* its leaf hash is the one that was kept;
* the commit line behind the entries is in canonical form, says that it is the commit of these indexes, and holds the
  same first 4 bytes of this entry's leaf hash.

What does not fit is no finding: the commit is then read as a whole, and its hash has the last word (`entries_of`).
So what is shown stood in a commit that fitted its hash when it was indexed, or stands in one that fits it now. Whether
that is what was signed, no reader of a page finds out: that is for `verify` and for proofs.
"""

from __future__ import annotations

import os
import re
import sqlite3
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from ..errors import FormatError, LogDamaged
from ..model import Frame
from ..protocols import LogStore
from .frames import SUM_SIZE, Commit, parse_commit
from .segments import read_at, segment_path

_WHERE = re.compile(r".*?(\d{20})\.jsonl:(\d+)", re.DOTALL)
_HASH = 32
_COMMIT_LINE = 4096  # bytes beside those of the sums; one that is longer is read with its commit
_LEAF = f"substr(leaves, (?1 - first) * {_HASH} + 1, {_HASH})"
_BELOW = "FROM place WHERE first <= ?1 ORDER BY first DESC LIMIT 1"
_FIND = f"SELECT first, segment, offset, lengths, {_LEAF} {_BELOW}"


class _Row(NamedTuple):
    """One row, with the leaf hash of the entry that was asked for."""

    first: int
    segment: int
    offset: int
    lengths: bytes
    leaf: bytes


def place_row(frame: Frame) -> tuple[int, int, int, bytes, bytes] | None:
    """The row of one commit; ``None`` if it does not stand in a segment."""
    found = _WHERE.fullmatch(frame.where)
    if found is None:
        return None
    lengths, leaves = sizes_of(frame.entries)
    return frame.first, int(found[1]), int(found[2]), lengths, leaves


def sizes_of(entries: Sequence[bytes]) -> tuple[bytes, bytes]:
    """Lengths and leaf hashes of entries, as a row has them."""
    leaves = b"".join([sha256(b"\0" + entry).digest() for entry in entries])
    return array("H", map(len, entries)).tobytes(), leaves


def wrong_places(database: sqlite3.Connection, first: int, entries: Sequence[bytes]) -> Iterator[int]:
    """Yields the first log index of each commit among these entries whose lines or leaf hashes are not those kept.

    Where a commit stands is not compared: a wrong offset leads to no line, and then the commit is read as a whole.
    """
    statement = "SELECT first, lengths, leaves FROM place WHERE first BETWEEN ? AND ?"
    for at, lengths, leaves in database.execute(statement, [first, first + len(entries) - 1]).fetchall():
        count = len(lengths) // 2 if isinstance(lengths, bytes) and isinstance(leaves, bytes) else 0
        known = sizes_of(entries[at - first : at - first + count])
        same = count and all(kept.startswith(right) for kept, right in zip((lengths, leaves), known, strict=True))
        if not same or (len(lengths), len(leaves)) != (2 * count, _HASH * count):
            yield at


def move_places(database: sqlite3.Connection, base: int) -> None:
    """Drops the commits below a base; what shared a segment with them has one of its own since, named after the base.

    The caller has a transaction.
    """
    database.execute("DELETE FROM place WHERE first < ?", [base])
    found = database.execute("SELECT offset FROM place WHERE first = ?", [base]).fetchone()
    if found is not None and isinstance(found[0], int):
        statement = "UPDATE place SET segment = ?1, offset = offset - ?2 WHERE segment < ?1"
        database.execute(statement, [base, found[0]])


def entries_of(
    store: LogStore, indexes: Iterable[int], line: Callable[[int], bytes | None] = lambda index: None
) -> Iterator[tuple[int, bytes]]:
    """Yields each of these log indexes with its entry, checked against the log; streams.

    Args:
        store: The log.
        indexes: In any order; a commit is read once for neighbours that are in it.
        line: A quicker way to an entry, such as `Lines.read`; ``None`` where it does not lead there.

    Raises:
        EntriesPruned, LogDamaged, LogUnavailable: As `LogStore.frames`.
    """
    base = store.base.size
    frame: Frame | None = None
    for index in indexes:
        entry = line(index) if index >= base else None
        if entry is None:
            if frame is None or not frame.first <= index < frame.first + len(frame.entries):
                frame = next(iter(store.frames(index, index + 1)), None)
            if frame is None:
                raise LogDamaged(f"the log has no entry {index}")
            entry = frame.entries[index - frame.first]
        yield index, entry


class Lines:
    """Reads single lines; keeps the commit line that was parsed last."""

    def __init__(self, journal: Path, database: Callable[[], sqlite3.Connection]) -> None:
        """``journal`` is the directory of the segments; ``database`` gives the connection to the search index."""
        self._journal = journal
        self._database = database
        self._known: tuple[tuple[int, int], Commit] | None = None

    def read(self, index: int) -> bytes | None:
        """One entry; ``None`` where anything does not fit."""
        row = self._row(index)
        if row is None:
            return None
        try:
            descriptor = os.open(segment_path(self._journal, row.segment), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None  # pruned since; or the row is wrong
        try:
            return self._line(descriptor, row, index - row.first)
        except (OSError, OverflowError, FormatError):
            return None
        finally:
            os.close(descriptor)

    def _row(self, index: int) -> _Row | None:
        try:
            found = self._database().execute(_FIND, [index]).fetchone()
        except sqlite3.DatabaseError:
            return None
        if found is None or [type(one) for one in found] != [int, int, int, bytes, bytes]:
            return None
        row = _Row(*found)
        fits = min(row.segment, row.offset) >= 0 and index - row.first < len(row.lengths) // 2
        return row if fits and len(row.lengths) % 2 == 0 else None

    def _line(self, descriptor: int, row: _Row, position: int) -> bytes | None:
        lengths = array("H", row.lengths)
        start = row.offset + sum(lengths[:position]) + position
        entry = read_at(descriptor, start, lengths[position])
        if sha256(b"\0" + entry).digest() != row.leaf:
            return None
        commit = self._commit(descriptor, row, row.offset + sum(lengths) + len(lengths), len(lengths))
        if commit is None or (commit.first, commit.count) != (row.first, len(lengths)):
            return None
        told = commit.sums[position * SUM_SIZE : (position + 1) * SUM_SIZE]
        return entry if told == row.leaf[:SUM_SIZE] else None

    def _commit(self, descriptor: int, row: _Row, offset: int, count: int) -> Commit | None:
        """The commit line behind the entries. Raises `FormatError` if there is something else."""
        place = row.segment, offset
        if self._known is None or self._known[0] != place:
            data = read_at(descriptor, offset, _COMMIT_LINE + count * SUM_SIZE * 2)
            line, newline, _ = data.partition(b"\n")
            if not newline:
                return None
            self._known = place, parse_commit(line)
        return self._known[1]

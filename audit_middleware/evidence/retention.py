"""How long a log's entries are kept, and which are held longer: control records of the log itself.

``audit.retention_set`` (``months``) is the rule: what is older *may* be pruned, what is younger never is.
``audit.hold_placed`` (``name``, ``first``, ``last``, ``reason``) is a legal hold on a range of entries, both ends
included; ``last`` is ``null`` for all that follow. ``audit.hold_released`` (``name``, ``reason``) ends it. Each says
``by`` whom: the name of the account on this machine that ran the command. Nothing is pruned from the lowest hold on.

Times are those that records carry. An entry is *younger* than a moment if either of its times is, and it is *in* a span
of time if either of its times is: where clocks disagree, more is kept.
"""

from __future__ import annotations

import contextlib
import re
import time
from calendar import monthrange
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from ..context import clean
from ..errors import ConfigError
from ..model import Json
from ..protocols import Clock, LogStore
from ..signing import Ed25519Signer, read_key_file
from ..stores.opening import Place, Store, open_log, origin_of
from .changes import append_control, changing
from .control import as_owner
from .heads import open_compared
from .signers import signers_of
from .standing import (
    HELD,
    RELEASED,
    RETENTION,
    Standing,
    Standings,
    explanation,
    newest_explanation,
    read_standings,
)

LOCK = "retention"
"""Name of the lock under which rules change and prunes run."""

MOST_MONTHS = 1200
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_REASON = 1000  # bytes


@dataclass(frozen=True, slots=True)
class Hold:
    """A legal hold that was not released: entries ``first`` to ``last``, both included; ``None``: all that follow."""

    name: str
    first: int
    last: int | None
    reason: str
    record: int


@dataclass(frozen=True, slots=True)
class Retention:
    """What a log says of its own retention.

    Attributes:
        months: How long entries are kept; ``None``: for ever, because nothing else was recorded.
        record: Log index of the record that says so.
        holds: The legal holds, lowest first.
        base: Size of the log below which nothing is left.
        minimum: The index that the prune aimed at; entries from ``base`` to it are left because they shared a commit.
        explained: Log index of the ``audit.pruned`` record; ``None``: nothing was pruned, or entries are missing.
    """

    months: int | None
    record: int | None
    holds: tuple[Hold, ...]
    base: int
    minimum: int
    explained: int | None


def set_retention(log: Place, key_file: Path, months: int, by: str, *, clock: Clock = time.time_ns) -> int:
    """Records how long entries are kept; returns the log's size after it.

    Raises:
        ConfigError: That is no number of months.
        KeyFileError, NoteError, StoreError: The key or the log cannot be read or written.
    """
    if not 1 <= months <= MOST_MONTHS:
        raise ConfigError(f"{months} months: a retention is 1 to {MOST_MONTHS} months")
    with writing(log, key_file) as (store, signers):
        return append_control(store, signers, RETENTION, {"months": months, "by": by}, clock)


def place_hold(
    log: Place,
    key_file: Path,
    name: str,
    first: int | str,
    last: int | str | None,
    reason: str,
    by: str,
    *,
    clock: Clock = time.time_ns,
) -> Hold:
    """Records a legal hold and returns it.

    Args:
        log: The log.
        key_file: Its signing key.
        name: Of the hold: letters, digits, ``.``, ``_``, ``-``.
        first: The first entry held, or a time as records write it: the first entry that is not older.
        last: The last one, or a time: the last entry that is older; ``None``, or a time yet to come: no end.
        reason: Why; a case number.
        by: Who.
        clock: The time.

    Raises:
        ConfigError: The name is taken or is none, there is no reason, or the range is empty or not in the log.
        EntriesPruned: The range begins below the log's base.
        KeyFileError, NoteError, StoreError: The key or the log cannot be read or written.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"hold {name[:80]!r}: a name has 1 to 64 letters, digits, '.', '_' and '-'")
    with writing(log, key_file) as (store, signers):
        if name in read_standings(store).holds:
            raise ConfigError(f"hold {name}: is placed already; release it first, or give this one another name")
        begin = _first_at(store, first) if isinstance(first, str) else first
        end = _last_before(store, last) if isinstance(last, str) else last
        size = store.head().size
        if begin < store.base.size:
            for _ in store.frames(begin, begin + 1):
                pass  # raises with the words of the store
        if begin > size or (end is not None and not begin <= end):
            raise ConfigError(f"hold {name}: {begin} to {end} is no range of the log, which has {size} entries")
        text = _reason(reason)
        extra: dict[str, Json] = {"name": name, "first": begin, "last": end, "reason": text, "by": by}
        return Hold(name, begin, end, text, append_control(store, signers, HELD, extra, clock) - 1)


def release_hold(log: Place, key_file: Path, name: str, reason: str, by: str, *, clock: Clock = time.time_ns) -> int:
    """Records the end of a legal hold; returns the log's size after it.

    Raises:
        ConfigError: There is no such hold, or no reason.
        KeyFileError, NoteError, StoreError: The key or the log cannot be read or written.
    """
    with writing(log, key_file) as (store, signers):
        if name not in read_standings(store).holds:
            raise ConfigError(f"hold {name}: there is none of this name; see: audit-middleware hold list {log}")
        extra: dict[str, Json] = {"name": name, "reason": _reason(reason), "by": by}
        return append_control(store, signers, RELEASED, extra, clock)


def read_retention(log: Place) -> Retention:
    """Reads the log and returns what it says of its retention. Raises `StoreError`."""
    store = open_log(log)
    return retention_of(store, read_standings(store))


def retention_of(store: Store, found: Standings) -> Retention:
    """Returns the same from what was read already."""
    base, record = store.base, None
    if base.size:
        record = newest_explanation(found.pruned, base.checkpoint) or explanation(store)
    set_in = found.retention
    holds = sorted(map(_hold, found.holds.values()), key=lambda one: one.first)
    return Retention(
        months=_number(set_in, "months"),
        record=set_in.index if set_in else None,
        holds=tuple(holds),
        base=base.size,
        minimum=max(base.size, _number(record, "minimum") or 0),
        explained=record.index if record else None,
    )


@contextlib.contextmanager
def writing(log: Place, key_file: Path) -> Iterator[tuple[Store, tuple[Ed25519Signer, ...]]]:
    """Opens a log and its keys for a change of its retention, one at a time.

    Raises:
        ConfigError: The key is another log's.
        KeyFileError, NoteError, StoreError: The key or the log cannot be read or written.
    """
    origin_of(log)  # raises with the words for no log
    with as_owner(log), changing(log, LOCK):
        signers = signers_of(read_key_file(key_file))
        store = open_compared(log)
        with contextlib.closing(store):
            if signers[0].name != store.origin:
                raise ConfigError(f"{key_file}: is for {signers[0].name!r}, but the log is {store.origin!r}")
            yield store, signers


# --- times -----------------------------------------------------------------------------------------------------------


class _Times(msgspec.Struct, gc=False):
    timestamp: str = ""
    recorded_at: str = ""


_decoder = msgspec.json.Decoder(_Times)


def times(store: LogStore, start: int | None = None, stop: int | None = None) -> Iterator[tuple[int, str, str]]:
    """Yields (index, earliest time, latest time) of entries; both are empty for what says none as records do."""
    for frame in store.frames(start, stop):
        for index, entry in enumerate(frame.entries, frame.first):
            if index < (start or 0):
                continue
            try:
                found = _decoder.decode(entry)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                found = _Times()
            known = [one for one in (found.timestamp, found.recorded_at) if _TIME.fullmatch(one)]
            yield index, min(known, default=""), max(known, default="")


def months_before(now_ns: int, months: int) -> str:
    """Returns the moment so many calendar months before, as records write times."""
    now = datetime.fromtimestamp(now_ns // 10**9, UTC)
    year, month = divmod(now.year * 12 + now.month - 1 - months, 12)
    if year < 1:
        return "0001-01-01T00:00:00.000000Z"
    day = min(now.day, monthrange(year, month + 1)[1])
    # Not strftime, which writes years before 1000 without leading zeros.
    return f"{year:04d}-{month + 1:02d}-{day:02d}T{now:%H:%M:%S}.000000Z"


def _first_at(store: LogStore, moment: str) -> int:
    return next((index for index, _, latest in times(store) if latest >= moment), store.head().size)


def _last_before(store: LogStore, moment: str) -> int | None:
    last, newest = -1, ""
    for index, earliest, latest in times(store):
        newest = max(newest, latest)
        if earliest and earliest < moment:
            last = index
    return None if newest < moment else last


# --- inside ----------------------------------------------------------------------------------------------------------


def _hold(record: Standing) -> Hold:
    first, last = _number(record, "first"), _number(record, "last")
    # A hold whose range cannot be read holds everything.
    return Hold(str(record.extra.get("name")), first or 0, last, str(record.extra.get("reason")), record.index)


def _number(record: Standing | None, name: str) -> int | None:
    value = record.extra.get(name) if record else None
    return value if isinstance(value, int) else None


def _reason(text: str) -> str:
    if not text.strip():
        raise ConfigError("a hold needs a reason, such as a case number")
    return clean(text, _REASON)

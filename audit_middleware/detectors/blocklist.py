"""The list of who is blocked or flagged, beside the log: the file ``LOG/.state/blocks.json`` of a journal, or a row of
the database, which all hosts share (`sheet`).

::

    {"format": 1, "origin": ..., "entries": [{"kind": "user", "who": ..., "rule": ..., "finding_id": ...,
     "block": true, "since_ns": n, "until_ns": n}], "lifted": [{"finding_id": ..., "until_ns": n}]}

It is derived: every block is a record of the log first (`audit.finding`, `audit.block_added`, `audit.block_lifted`), so
the list can be made anew from the log. Whoever changes it reads it and replaces it as a whole, under a lock, or unless
somebody else was first; whoever reads it takes no lock. *If we die before the replacement*: the old list, and a record
of the log that says more; the follower looks for such records when it starts. A block that was lifted stays noted until
it would have ended, so that a finding that is found once more does not bring it back.

It is bounded in entries and bytes. Where there is no room, what changes nothing gives way first: another block of a
caller whose last one ends later. Or one caller's storm would let all others in. Then flags give way before blocks, and
what ends first before what ends later.
"""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import asdict, replace

from ..errors import BlocksError, Overtaken
from ..pipeline.blocks import Entry, Kind
from ..stores.layout import Layout
from ..stores.opening import Place, Store, folder_of, shared_shelf, state_of
from ..stores.shelf import SharedShelf
from .sheet import MAX_BYTES, File, Row, Sheet, Signature, Unfit

__all__ = ["LONGEST_S", "MAX_BYTES", "MAX_ENTRIES", "BlockList", "Listing", "Signature", "list_beside"]

FORMAT = 1
MAX_ENTRIES = 4_096
LONGEST_S = 30 * 86_400
"""The longest block, in seconds."""

_TEXT = 1_024  # characters of any text in an entry
_LATEST = 2**63
_TRIES = 20

_log = logging.getLogger(__name__)


class Listing(msgspec.Struct, frozen=True):
    """What stands there. ``lifted``: ids of findings that were lifted, each with when it would have ended."""

    entries: tuple[Entry, ...] = ()
    lifted: tuple[tuple[str, int], ...] = ()

    def add(self, *entries: Entry) -> Listing:
        """With these entries more, but for findings that are on the list already or were lifted."""
        lifted = {name for name, _ in self.lifted}
        found = {(one.kind, one.who, one.finding_id): one for one in self.entries}
        for one in entries:
            if one.finding_id not in lifted:
                found.setdefault((one.kind, one.who, one.finding_id), one)
        return self if len(found) == len(self.entries) else replace(self, entries=tuple(found.values()))

    def lift(self, kind: Kind, who: str) -> Listing:
        """Without what is held against one caller."""
        gone = self.about(kind, who)
        lifted = dict(self.lifted) | {one.finding_id: one.until_ns for one in gone}
        return Listing(tuple(one for one in self.entries if one not in gone), tuple(lifted.items()))

    def about(self, kind: Kind, who: str) -> tuple[Entry, ...]:
        """What is held against one caller."""
        return tuple(one for one in self.entries if (one.kind, one.who) == (kind, who))

    def at(self, now_ns: int) -> Listing:
        """Without what has ended, and within the bounds."""
        entries = [one for one in self.entries if one.until_ns > now_ns]
        if len(entries) > MAX_ENTRIES:
            _log.error("the list of blocks is full: of %d entries %d are kept", len(entries), MAX_ENTRIES)
            kept = set(_by_weight(entries)[:MAX_ENTRIES])
            entries = [one for one in entries if one in kept]
        lifted = sorted(((name, until) for name, until in self.lifted if until > now_ns), key=lambda one: one[1])
        return Listing(tuple(entries), tuple(lifted[-MAX_ENTRIES:]))


@dataclass(frozen=True, slots=True)
class BlockList:
    """The list of one log.

    Attributes:
        log: Which.
        origin: Its name.
        shared: Where it stands, of a log in a database.
    """

    log: Place
    origin: str

    shared: SharedShelf | None = field(default=None, compare=False, repr=False)

    @property
    def path(self) -> Path:
        """The file of a journal's list."""
        return Layout(folder_of(self.log)).state / "blocks.json"

    @property
    def place(self) -> str:
        """What it is called in messages."""
        return self._sheet.shown

    @property
    def _sheet(self) -> Sheet:
        return File(self.path) if self.shared is None else Row(self.shared)

    def there(self) -> bool:
        """Does it stand somewhere? Not before the first block, nor when it was lost. Raises `StoreError`."""
        return self._sheet.there()

    def signature(self) -> Signature:
        """Changes whenever the list is replaced. Raises `OSError`, `StoreError`."""
        return self._sheet.signature()

    def close(self) -> None:
        """Releases a connection; the next call makes another."""
        self._sheet.close()

    def read(self, *, there: bool = False) -> Listing:
        """What stands there; an empty list where there is none, unless it must be ``there``.

        Raises:
            BlocksError: It cannot be read, is damaged or another log's, or others than its owner may write it.
            StoreError: The log's database cannot be asked.
        """
        try:
            data = self._bytes()
        except FileNotFoundError:
            if there:
                raise self._wrong("has disappeared") from None
            return Listing()
        except Unfit as problem:
            raise self._wrong(str(problem)) from None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise self._wrong("is a link") from error
            raise self._wrong(f"cannot be read: {error.strerror}") from error
        return self._parsed(data)

    def _parsed(self, data: bytes) -> Listing:
        try:
            values = json.loads(data)
            if values["format"] != FORMAT:
                raise self._wrong(f"has format {values['format']!r}; this version reads {FORMAT}")
            if values["origin"] != self.origin:
                raise self._wrong(f"is the list of the log {str(values['origin'])[:200]!r}")
            entries = tuple(_entry(one) for one in values["entries"])
            lifted = tuple((_text(one["finding_id"]), _moment(one["until_ns"])) for one in values["lifted"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._wrong(f"is damaged ({type(error).__name__})") from error
        return Listing(entries, lifted)

    def change(
        self, how: Callable[[Listing], Listing], now_ns: int, *, anew: bool = False, lost: Listing | None = None
    ) -> Listing:
        """Changes the list, durably; what has ended leaves it. With ``anew`` what stands there is not looked at; where
        nothing stands, ``lost`` does: what the log says. Or the first block after a list was lost would end all others.

        Raises:
            BlocksError, StoreError: It cannot be read or written.
        """
        if self.shared is None:
            state_of(self.log)
        for last in (False,) * _TRIES + (True,):
            try:
                with self._sheet.held():
                    return self._changed(how, now_ns, anew, lost)
            except Overtaken:  # somebody else has changed it since it was read: change what there is now
                if last:
                    raise
        raise AssertionError

    def _changed(self, how: Callable[[Listing], Listing], now_ns: int, anew: bool, lost: Listing | None) -> Listing:
        before = Listing() if anew else self.read()
        after = how(before if lost is None or self.there() else lost).at(now_ns)
        if after == before and not anew:
            return after
        data = self._encoded(after)
        self._parsed(data)  # nothing is written that could not be read
        self._sheet.replace(data)
        return after

    def _bytes(self) -> bytes:
        return self._sheet.data()

    def _encoded(self, listing: Listing) -> bytes:
        values = {
            "format": FORMAT,
            "origin": self.origin,
            "entries": [asdict(one) for one in listing.entries],
            "lifted": [{"finding_id": name, "until_ns": until} for name, until in listing.lifted],
        }
        return json.dumps(values).encode() + b"\n"

    def _wrong(self, what: str) -> BlocksError:
        remedy = f"make it anew from the log: audit-middleware blocks rebuild {self.log}"
        return BlocksError(f"{self.place}: {what}; {remedy}")


def list_beside(log: Place, store: Store) -> BlockList:
    """The list of a log that is open as ``store``; in a database it shares the connection that this one reads by."""
    return BlockList(log, store.origin, shared_shelf(store))


def _by_weight(entries: list[Entry]) -> list[Entry]:
    """What is to be kept before the rest comes first."""
    seen: set[tuple[str, ...]] = set()
    first: list[Entry] = []
    rest: list[Entry] = []
    for one in sorted(entries, key=lambda one: (one.block, one.until_ns), reverse=True):
        caller = (one.kind, one.who) if one.block else (one.kind, one.who, one.rule)
        (rest if caller in seen else first).append(one)
        seen.add(caller)
    return first + rest


def _entry(value: Any) -> Entry:
    kind: Kind = "address" if value["kind"] == "address" else "user"
    if value["kind"] != kind or not isinstance(value["block"], bool):
        raise ValueError(value["kind"])
    since, until = _moment(value["since_ns"]), _moment(value["until_ns"])
    if not 0 < until - since <= LONGEST_S * 1_000_000_000:
        raise ValueError(until)
    who, rule, name = (_text(value[key]) for key in ("who", "rule", "finding_id"))
    return Entry(kind, who, rule, name, value["block"], since, until)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _TEXT:
        raise ValueError(type(value).__name__)
    value.encode()  # half a character would fit no record
    return value


def _moment(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _LATEST:
        raise ValueError(type(value).__name__)
    return value

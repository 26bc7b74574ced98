"""Who is blocked or flagged for a while, as requests see it: one attribute, replaced as a whole when the list changes.

Where the list comes from is no business of a request: no file is read and no lock is taken here. An entry is about a
subject's id as records write it, or about nobody at one address: who is known by name is never held responsible for
what strangers did at the same address.

An entry ends by the wall clock, at the time that the list says. It ends too when its own duration has passed by a clock
that nobody can set: a wall clock that was put back cannot prolong it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import msgspec

from ..context import clean
from ..model import Subject

__all__ = ["MANUAL", "MAX_FLAGS", "Blocks", "Entry", "Kind", "Standing", "Table", "recorded_id"]

Kind = Literal["user", "address"]

MAX_FLAGS = 8
"""So many rules are named in the flags of one record."""

MANUAL = "manual"
"""The rule of a block that an operator set."""

_ID = 256  # bytes of a user_id in a record


def recorded_id(subject_id: str) -> str:
    """A subject's id as every record writes it, so that what a finding names can be compared with who asks."""
    return clean(subject_id, _ID)


class Entry(msgspec.Struct, frozen=True):
    """One line of the list.

    Attributes:
        kind: What ``who`` is: a ``user_id`` of records, or the ``initiator_ip`` of requests by nobody.
        who: Whom it is about.
        rule: The id of the detector's rule, or `MANUAL`.
        finding_id: Of the finding; of a block by hand the ``action_id`` of the record that says so.
        block: Is the caller refused? Otherwise his records are flagged, no more.
        since_ns: When it was set, nanoseconds since the epoch.
        until_ns: When it ends.
    """

    kind: Kind
    who: str
    rule: str
    finding_id: str
    block: bool
    since_ns: int
    until_ns: int

    @property
    def why(self) -> str:
        """As a decision's detail says it."""
        return f"{'by hand' if self.rule == MANUAL else 'finding'} {self.finding_id}"


class Standing(msgspec.Struct, frozen=True):
    """What is held against one caller now: the rules, the block that ends last, and the seconds until then."""

    rules: tuple[str, ...]
    block: Entry | None
    left_s: float


class _Held(msgspec.Struct, frozen=True):
    entry: Entry
    ends: float  # by the monotonic clock


class Table(msgspec.Struct, frozen=True):
    """The list by caller. Immutable."""

    users: Mapping[str, tuple[_Held, ...]]
    addresses: Mapping[str, tuple[_Held, ...]]

    def standing(self, subject: Subject, address: str | None, now_ns: int, now: float) -> Standing | None:
        """What is held against a caller; ``now_ns`` is the wall clock, ``now`` the monotonic one, in seconds."""
        if not subject.anonymous:
            held = self.users.get(recorded_id(subject.id))
        else:
            held = None if address is None else self.addresses.get(address)
        if held is None:
            return None
        running = [one for one in held if one.entry.until_ns > now_ns and one.ends > now]
        if not running:
            return None
        rules = tuple(dict.fromkeys(one.entry.rule for one in running))[:MAX_FLAGS]
        blocks = [one for one in running if one.entry.block]
        last = max(blocks, key=lambda one: _left(one, now_ns, now), default=None)
        return Standing(rules, last.entry if last else None, _left(last, now_ns, now) if last else 0.0)


def _left(held: _Held, now_ns: int, now: float) -> float:
    return min((held.entry.until_ns - now_ns) / 1e9, held.ends - now)


class Blocks:
    """The list of one process. ``table`` is ``None`` while nobody stands on it."""

    __slots__ = ("_ends", "_first", "_monotonic", "table")

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """An empty list."""
        self.table: Table | None = None
        self._monotonic = monotonic
        self._ends: dict[Entry, float] = {}
        self._first: float | None = None  # when the first entry of the table ends

    def adopt(self, entries: Iterable[Entry], now_ns: int) -> None:
        """Puts a list in the place of the one before. To be called by one thread at a time; requests may go on.

        What stood on the list before keeps its end, also one that has passed: no clock prolongs it by being put back.
        """
        now = self._monotonic()
        ends: dict[Entry, float] = {}
        users: dict[str, list[_Held]] = {}
        addresses: dict[str, list[_Held]] = {}
        for entry in entries:
            left = min(entry.until_ns - now_ns, entry.until_ns - entry.since_ns) / 1e9
            end = min(self._ends.get(entry, now + left), now + left)
            ends[entry] = end
            if end > now:
                (users if entry.kind == "user" else addresses).setdefault(entry.who, []).append(_Held(entry, end))
        self._ends = ends
        self._first = min((end for end in ends.values() if end > now), default=None)
        self.table = Table(_frozen(users), _frozen(addresses)) if users or addresses else None

    def stale(self) -> bool:
        """Has an entry ended that the table still holds? Then it is time to adopt the same list again."""
        return self._first is not None and self._first <= self._monotonic()

    def standing(self, subject: Subject, address: str | None, now_ns: int) -> Standing | None:
        """What is held against a caller now."""
        table = self.table
        return None if table is None else table.standing(subject, address, now_ns, self._monotonic())


def _frozen(held: dict[str, list[_Held]]) -> dict[str, tuple[_Held, ...]]:
    return {who: tuple(ones) for who, ones in held.items()}

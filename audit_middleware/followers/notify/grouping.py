"""Keeps a storm to a handful of messages. A pure function of the records, in the order of the log.

1. The first record of a kind (rule, principal, action) is told at once; for ``cool_down`` seconds those like it are
   counted. Then one message says how many there were, and the counting goes on; after a quiet one it ends.
2. What differs by the principal only is a family: within ``group`` seconds of a message about a family, further ones
   about it are gathered into one. If it goes on, the next gathering takes twice as long, up to ``cool_down``.
3. Beyond ``per_hour`` messages in an hour, everything is counted into one summary at the end of that hour.

Time is the records' own ``recorded_at``, never running backwards; a quiet log lets the clock's time pass (`until`),
which changes only when a message is made, not what it says. So the same records give the same messages whether they are
read as they come or all together after an outage. The exception is a clock that was wrong: no record takes time further
than `AHEAD` of the clock's, and where it stands further ahead, it is put back (`put_back`). Or one record from next
year would keep a channel silent until then.

Bounded: at most `MOST` kinds are remembered; what is of none of them is gathered with its family.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from .message import Event, Kind, Notification

MOST = 500
"""Kinds that are remembered at once."""
LISTED = 16
"""Indexes that a message lists."""
NAMED = 8
"""Principals that a message names."""
HOUR = 3_600
AHEAD = 3_600
"""Seconds that records may be ahead of the clock."""
_SECOND = 1_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """In seconds, but for ``per_hour``, which is messages of one channel."""

    group: int = 60
    cool_down: int = 600
    per_hour: int = 60
    give_up: int = 86_400


class Count(msgspec.Struct):
    """Records that were not told one by one; times in microseconds."""

    event: Event
    count: int = 0
    first: int = 0
    last: int = 0
    indexes: list[int] = []
    users: list[str] = []
    others: bool = False

    def add(self, told: Notification) -> None:
        """Counts the records of a message instead of sending it."""
        if not self.count:
            self.event, self.first, self.indexes, self.users = told.event, told.first, [], []
            self.others = False
        self.count += told.count
        self.first, self.last = min(self.first, told.first), max(self.last, told.last)
        self.indexes.extend(told.indexes[: LISTED - len(self.indexes)])
        fresh = [one for one in told.users if one not in self.users]
        self.users.extend(fresh[: NAMED - len(self.users)])
        self.others = self.others or told.others or any(one not in self.users for one in fresh)


class Group(msgspec.Struct):
    """What is counted until ``ends``, and for how long after that."""

    ends: int
    period: int
    counted: Count


class Grouped(msgspec.Struct):
    """All that must outlive the process. ``hour_ends`` is 0 while there is no hour."""

    now: int = 0
    kinds: dict[str, Group] = {}
    families: dict[str, Group] = {}
    hour_ends: int = 0
    sent: int = 0
    held: Count | None = None


class Grouping:
    """The grouping of one channel."""

    def __init__(self, limits: Limits, origin: str, channel: str, kept: Grouped | None = None) -> None:
        """``kept`` is the state to go on with; it is changed in place."""
        self._limits, self._origin, self._channel = limits, origin, channel
        self.kept = kept if kept is not None else Grouped()
        self._soonest = self._find_soonest()

    def take(self, event: Event, clock: int | None = None) -> list[Notification]:
        """The messages that a record brings about, those before it first. ``clock`` is the time now, if it is known."""
        at = event.at if clock is None else min(event.at, clock + AHEAD * _SECOND)
        now = max(self.kept.now, at)
        made = self.until(now)
        told = self._made("alert", event, Count(event, 1, event.at, event.at, [event.index], [event.user_id]))
        kind = self.kept.kinds.get(event.key)
        if kind is not None:
            kind.counted.add(told)
            return made
        if len(self.kept.kinds) < MOST:
            period = self._limits.cool_down * _SECOND
            self.kept.kinds[event.key] = Group(now + period, period, Count(_slim(event)))
            self._will_end(now + period)
        return made + self._family(told, now)

    def until(self, now: int) -> list[Notification]:
        """The messages that time alone brings about, up to a moment in microseconds."""
        made: list[Notification] = []
        while self._soonest and self._soonest <= now:
            made += self._end(self._soonest)
            self._soonest = self._find_soonest()
        self.kept.now = max(self.kept.now, now)
        return made

    def put_back(self, clock: int) -> bool:
        """Whether time was so far ahead of the clock that it was put back; what is counted ends as much later as it
        would have."""
        gone = self.kept.now - clock
        if gone <= AHEAD * _SECOND:
            return False
        for groups in (self.kept.kinds, self.kept.families):
            for group in groups.values():
                group.ends -= gone
        self.kept.hour_ends -= gone if self.kept.hour_ends else 0
        self.kept.now = clock
        self._soonest = self._find_soonest()
        return True

    def due(self, now: int) -> bool:
        """Whether `until` would do anything."""
        return bool(self._soonest and self._soonest <= now)

    def hold(self, told: Notification) -> None:
        """Counts a message that cannot be sent into the summary of the hour."""
        if not self.kept.hour_ends:
            self.kept.hour_ends = self.kept.now + HOUR * _SECOND
            self._will_end(self.kept.hour_ends)
        if self.kept.held is None:
            self.kept.held = Count(_slim(told.event))
        self.kept.held.add(told)

    def _will_end(self, moment: int) -> None:
        self._soonest = min(self._soonest or moment, moment)

    def _find_soonest(self) -> int:
        ends = [group.ends for groups in (self.kept.kinds, self.kept.families) for group in groups.values()]
        return min([*ends, self.kept.hour_ends] if self.kept.hour_ends else ends, default=0)

    def _end(self, moment: int) -> Iterator[Notification]:
        """Ends what ends at a moment: kinds first, because a family may gather what they tell."""
        for groups in (self.kept.kinds, self.kept.families):
            for key in [key for key, group in groups.items() if group.ends == moment]:
                group = groups[key]
                if not group.counted.count:
                    del groups[key]
                    continue
                several = len(group.counted.users) > 1 or group.counted.others
                told = self._made("gathered" if several else "repeated", group.counted.event, group.counted)
                group.counted = Count(_slim(group.counted.event))
                if groups is self.kept.families:
                    group.period = min(group.period * 2, max(self._limits.cool_down * _SECOND, group.period))
                    yield from self._count(told, moment)
                else:
                    yield from self._family(told, moment)
                group.ends = moment + group.period
        if self.kept.hour_ends == moment:
            held, self.kept.held = self.kept.held, None
            self.kept.hour_ends = self.kept.sent = 0
            if held is not None:
                yield self._made("held", held.event, held)

    def _family(self, told: Notification, now: int) -> list[Notification]:
        family = self.kept.families.get(told.event.family)
        if family is not None:
            family.counted.add(told)
            return []
        period = self._limits.group * _SECOND
        self.kept.families[told.event.family] = Group(now + period, period, Count(_slim(told.event)))
        self._will_end(now + period)
        return self._count(told, now)

    def _count(self, told: Notification, now: int) -> list[Notification]:
        if not self.kept.hour_ends:
            self.kept.hour_ends, self.kept.sent = now + HOUR * _SECOND, 0
            self._will_end(self.kept.hour_ends)
        if self.kept.sent >= self._limits.per_hour:
            self.hold(told)
            return []
        self.kept.sent += 1
        return [told]

    def _made(self, kind: Kind, event: Event, counted: Count) -> Notification:
        what = (
            self._origin,
            self._channel,
            kind,
            event.key,
            counted.first,
            counted.last,
            counted.count,
            counted.indexes,
        )
        id = hashlib.sha256(msgspec.json.encode(what)).hexdigest()[:32]
        return Notification(
            f"ntf_{id}", kind, self._origin, event if kind == "alert" else _slim(event), counted.count, counted.first,
            counted.last, tuple(counted.indexes), tuple(counted.users), counted.others,
        )  # fmt: skip


def _slim(event: Event) -> Event:
    """Without what is about one record only."""
    return msgspec.structs.replace(event, full=None) if event.full is not None else event

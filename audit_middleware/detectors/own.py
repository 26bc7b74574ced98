"""The detectors that Sigma has no words for. Each looks at the records that its rule's detection selects."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from ..formats.facts import micros
from ..model import Json
from .finding import MAX_EVIDENCE
from .model import (
    SECOND,
    Baseline,
    Concurrency,
    Counters,
    Detector,
    Dormant,
    FirstSeen,
    OffHours,
    Silence,
)
from .robust import bound
from .windows import Event, Group, Groups, Hit, Mark, Watch, marks, short, within

__all__ = ["SilenceWatch", "watch"]

_INTERVALS: Final = 128  # requests of a group that are compared with each other
_BUCKETS: Final = 96
_VALUES: Final = 50_000
_PROCESSES: Final = 1_000


def watch(detector: Detector) -> Watch:
    """What looks for what a rule describes."""
    match detector:
        case Concurrency():
            return ConcurrencyWatch(detector)
        case Baseline():
            return BaselineWatch(detector)
        case FirstSeen():
            return FirstSeenWatch(detector)
        case Dormant():
            return DormantWatch(detector)
        case OffHours():
            return OffHoursWatch(detector)
        case Silence():
            return SilenceWatch()
        case Counters():
            return CountersWatch()


class ConcurrencyWatch:
    """How many requests ran at the same time, from arrival to the last byte. Of a group the last 128 are compared."""

    def __init__(self, rule: Concurrency) -> None:
        self._rule = rule
        self.groups: Groups[deque[tuple[int, int, Mark]]] = Groups()

    def feed(self, event: Event, group: Group) -> Sequence[Hit]:
        """A record comes when its request has ended: those that still run are compared when they have."""
        while (oldest := self.groups.oldest()) is not None and event.time - oldest[1][-1][2].time >= self._rule.span:
            self.groups.drop(oldest[0])
        running = self.groups.get(group)
        if running is None:
            running = deque(maxlen=_INTERVALS)
        while running and not within(event.time, running[0][2].time, self._rule.span):
            running.popleft()
        start = micros(event.view.record["timestamp"])
        end = start + (event.view.record["duration_us"] or 1)
        together = [one for one in running if one[0] < end and one[1] > start]
        mine = (start, end, event.mark)
        running.append(mine)
        self.groups.put(group, running)
        if len(together) + 1 < self._rule.limit:
            return ()
        peak = _peak([*together, mine], start)
        if len(peak) < self._rule.limit:
            return ()
        return (Hit(group, sorted(peak), len(peak), {"limit": self._rule.limit}, self._rule.span),)

    def dump(self) -> Json:
        """Starts, ends and entries by group."""
        return self.groups.dump(lambda running: [[start, end, *mark] for start, end, mark in running])

    def load(self, data: Any) -> None:
        """Starts, ends and entries by group."""
        self.groups.load(
            data, lambda kept: deque(((start, end, Mark(at, time)) for start, end, at, time in kept), _INTERVALS)
        )


def _peak(intervals: Sequence[tuple[int, int, Mark]], since: int) -> list[Mark]:
    """The intervals that run at the moment, not before ``since``, at which most of them do; of several, the first."""
    changes = sorted(
        change for start, end, _ in intervals for change in ((max(start, since), 1), (end, -1))
    )  # an end comes before a start at the same moment
    running = most = moment = 0
    for when, change in changes:
        running += change
        if running > most:
            most, moment = running, when
    return [mark for start, end, mark in intervals if start <= moment < end]


class _Bucket:
    """Counts of one group: the running bucket, those before it, and what follows from them."""

    __slots__ = ("before", "bound", "count", "first", "last", "number")

    def __init__(self, number: int, first: Mark) -> None:
        self.number, self.count, self.first = number, 0, first
        self.last: deque[Mark] = deque(maxlen=MAX_EVIDENCE - 1)
        self.before: deque[int] = deque(maxlen=_BUCKETS)
        self.bound: Any = None


class BaselineWatch:
    """More in a bucket of time than usual. Buckets without a record do not count: nights would make days unusual."""

    def __init__(self, rule: Baseline) -> None:
        self._rule = rule
        self.groups: Groups[_Bucket] = Groups()

    def feed(self, event: Event, group: Group) -> Sequence[Hit]:
        """The verdict falls at the first record that is one too many."""
        number = event.time // self._rule.bucket
        one = self.groups.get(group)
        if one is None:
            one = _Bucket(number, event.mark)
        elif not one.number - 1 <= number <= one.number:  # a clock may be a little behind another's
            one.before.append(one.count)
            one.number, one.count, one.first = number, 0, event.mark
            one.last.clear()
            self._judge(one)
        if one.count:
            one.last.append(event.mark)
        one.count += 1
        self.groups.put(group, one)
        if one.bound is None or one.count <= one.bound.limit:
            return ()
        found = {"limit": one.bound.limit, "median": one.bound.median, "mad": one.bound.mad, "buckets": len(one.before)}
        return (Hit(group, (one.first, *one.last), one.count, found, self._rule.bucket, one.count),)

    def _judge(self, one: _Bucket) -> None:
        one.bound = bound(one.before) if len(one.before) >= self._rule.history else None

    def dump(self) -> Json:
        """Buckets by group."""
        return self.groups.dump(lambda one: [one.number, *one.first, one.count, list(one.last), list(one.before)])

    def load(self, data: Any) -> None:
        """Buckets by group."""
        self.groups.load(data, self._bucket)

    def _bucket(self, data: Any) -> _Bucket:
        one = _Bucket(int(data[0]), Mark(int(data[1]), int(data[2])))
        one.count = int(data[3])
        one.last.extend(marks(data[4]))
        one.before.extend(int(count) for count in data[5])
        self._judge(one)
        return one


class FirstSeenWatch:
    """A value that a group never had, or not for long."""

    def __init__(self, rule: FirstSeen) -> None:
        self._rule = rule
        self.groups: Groups[int] = Groups(_VALUES)

    def feed(self, event: Event, group: Group) -> Sequence[Hit]:
        """Values that were forgotten for want of room come back as new ones."""
        while (oldest := self.groups.oldest()) is not None and event.time - oldest[1] >= self._rule.forget:
            self.groups.drop(oldest[0])
        value = short(self._rule.field.get(event.view))
        if value is None:
            return ()
        key = (*group, value)
        last = self.groups.get(key)
        self.groups.put(key, event.time)
        new = last is None or event.time - last >= self._rule.forget
        if not new or event.time - event.begun < self._rule.learn:
            return ()
        baseline = {"value": value}
        return (Hit(group, (event.mark,), 1, baseline, self._rule.forget),)

    def dump(self) -> Json:
        """When each value was last there."""
        return self.groups.dump(int)

    def load(self, data: Any) -> None:
        """When each value was last there."""
        self.groups.load(data, int)


class DormantWatch:
    """The first record of a group after a long time without any."""

    def __init__(self, rule: Dormant) -> None:
        self._rule = rule
        self.groups: Groups[Mark] = Groups(_VALUES)

    def feed(self, event: Event, group: Group) -> Sequence[Hit]:
        """Whoever was never there has not been dormant."""
        last = self.groups.get(group)
        self.groups.put(group, event.mark)
        if last is None or event.time - last.time < self._rule.after:
            return ()
        silent, limit = (event.time - last.time) // SECOND, self._rule.after // SECOND
        return (Hit(group, (last, event.mark), silent, {"limit": limit}, self._rule.after),)

    def dump(self) -> Json:
        """Last records by group."""
        return self.groups.dump(list)

    def load(self, data: Any) -> None:
        """Last records by group."""
        self.groups.load(data, lambda mark: Mark(*mark))


class OffHoursWatch:
    """A record outside of working hours. What local time it was, the time zone database of this machine says."""

    def __init__(self, rule: OffHours) -> None:
        self._rule = rule
        self.groups: Groups[None] = Groups()  # none is ever there
        self._zone = UTC if rule.zone == "UTC" else ZoneInfo(rule.zone)

    def feed(self, event: Event, group: Group) -> Sequence[Hit]:
        """Remembers nothing."""
        local = datetime.fromtimestamp(event.time // SECOND, self._zone)
        rule, minute = self._rule, local.hour * 60 + local.minute
        if local.weekday() in rule.days and rule.start <= minute < rule.stop:
            return ()
        baseline = {
            "from": f"{rule.start // 60:02d}:{rule.start % 60:02d}",
            "to": f"{rule.stop // 60:02d}:{rule.stop % 60:02d}",
            "zone": rule.zone,
            "local": f"{local:%Y-%m-%dT%H:%M:%S}",
        }
        return (Hit(group, (event.mark,), 1, baseline),)

    def dump(self) -> Json:
        """Nothing."""
        return None

    def load(self, data: Any) -> None:
        """Nothing."""


class _Process:
    """A process that promised signs of life; ``told``: its silence was found already."""

    __slots__ = ("interval", "last", "told")

    def __init__(self, interval: int, last: Mark, told: bool = False) -> None:
        self.interval, self.last, self.told = interval, last, told

    @property
    def allowed(self) -> int:
        """Seconds of silence that are none, as `verify` counts them: one sign may be late, and a little more."""
        return 2 * self.interval + 5

    @property
    def deadline(self) -> int:
        return self.last.time + self.allowed * SECOND


class SilenceWatch:
    """Processes that started or gave a sign of life, did not say that they stop, and are silent for too long.

    It shows with the next record of any process. The evidence is the silent one's last record alone, so that the
    finding has the same id whenever and however it was found.
    """

    def __init__(self) -> None:
        self.groups: Groups[_Process] = Groups(_PROCESSES)
        self._next: int | None = None

    def feed(self, event: Event, group: Group) -> Sequence[Hit]:
        """Looks who is overdue, and then at what this record says of its own process."""
        found = self.overdue(event.time)
        record = event.view.record
        action = record["action"] if record["kind"] == "control" else None
        known = self.groups.get(group)
        interval = 0 if known is None else known.interval
        if action == "audit.stopped":
            self.groups.drop(group)
        elif promised := _promise(action, record["extra"]) or interval:
            one = _Process(promised, event.mark)
            self.groups.put(group, one)
            self._next = one.deadline if self._next is None else min(self._next, one.deadline)
        return found

    def overdue(self, now: int) -> Sequence[Hit]:
        """Who should have said something by now, each once."""
        if self._next is None or now <= self._next:
            return ()
        found = []
        for group, one in self.groups:
            if not one.told and now > one.deadline:
                one.told = True
                silent = (now - one.last.time) // SECOND
                found.append(Hit(group, (one.last,), silent, {"limit": one.allowed}, one.allowed * SECOND))
        self._next = min((one.deadline for _, one in self.groups if not one.told), default=None)
        return found

    def dump(self) -> Json:
        """Processes, and what is looked at next."""
        return [self._next, self.groups.dump(lambda one: [one.interval, *one.last, one.told])]

    def load(self, data: Any) -> None:
        """Processes, and what is looked at next."""
        self._next = data[0]
        self.groups.load(data[1], lambda one: _Process(one[0], Mark(one[1], one[2]), one[3]))


def _promise(action: str | None, extra: Mapping[str, Any]) -> int:
    """Seconds between signs of life that this record promises; 0: none."""
    if action == "audit.heartbeat":
        found = extra.get("interval_s")
    elif action == "audit.started":
        found = extra.get("configuration", {}).get("settings", {}).get("heartbeat")
    else:
        return 0
    return found if isinstance(found, int) and 0 < found <= 86_400 else 0


class CountersWatch:
    """A process numbers its records: a number that is left out is a record that did not reach the log."""

    def __init__(self) -> None:
        self.groups: Groups[tuple[int, Mark]] = Groups()

    def feed(self, event: Event, group: Group) -> Sequence[Hit]:
        """A number that comes again is a record that was sent twice. What was before the first one may be pruned."""
        sequence = event.view.record["sequence"]
        last = self.groups.get(group)
        expected = 0 if last is None else last[0] + 1
        if last is not None and sequence < expected:
            return ()
        self.groups.put(group, (sequence, event.mark))
        if sequence == expected or (last is None and (not event.whole or self.groups.evicted)):
            return ()
        evidence = (event.mark,) if last is None else (last[1], event.mark)
        return (Hit(group, evidence, sequence - expected, {"expected": expected}),)

    def dump(self) -> Json:
        """Last numbers by process."""
        return self.groups.dump(lambda one: [one[0], *one[1]])

    def load(self, data: Any) -> None:
        """Last numbers by process."""
        self.groups.load(data, lambda one: (one[0], Mark(one[1], one[2])))

"""``custom`` of a rule file: what Sigma has no words for, in the place that it leaves to such.

::

    custom:
      group-by: [user.id]        # of a detection: for whom; the default
      cooldown: 10m              # of a detection: no other finding of the same group so soon
      respond: block 15m         # what the service is asked to do with the user
      detector: {type: baseline, bucket: 1h, history: 24}
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from zoneinfo import ZoneInfo

from ..policy.document import ListNode, Pair
from ..policy.findings import join
from .fields import Field
from .finding import Respond
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
from .read import RuleReader

__all__ = ["Custom", "read_custom"]

USER: Final = ("user.id", "user.name", "user_id")
INSTANCE: Final = ("service.node.name", "service.instance")
_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_TIME = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])|24:00")
Read = tuple[Detector | None, int]
_DAY, _HOUR, _MINUTE = 86_400 * SECOND, 3_600 * SECOND, 60 * SECOND


@dataclass(frozen=True, slots=True)
class Custom:
    """What ``custom`` says, with defaults; ``line`` of it."""

    group_by: tuple[Field, ...] = ()
    cooldown: int = 0
    respond: Respond | None = None
    detector: Detector | None = None


def read_custom(reader: RuleReader, pair: Pair | None, *, correlation: bool) -> Custom:
    """Reads it; a correlation says itself for whom and how long."""
    known = ("respond",) if correlation else ("respond", "group-by", "cooldown", "detector")
    pairs = {} if pair is None else reader.table(pair.value, "custom", known)
    detector, otherwise = None, 0
    if "detector" in pairs:
        detector, otherwise = _Options(reader, pairs["detector"]).read()
    user = reader.field_named("user.id" if reader.taxonomy == "ecs" else "user_id", 1, "")
    group: tuple[Field, ...] = () if user is None or correlation else (user,)
    if "group-by" in pairs:
        group = reader.group(pairs["group-by"].value, "custom.group-by")
    if isinstance(detector, Silence | Counters):
        group = _instance(reader, pairs)
    cooldown = reader.span(pairs["cooldown"].value, "custom.cooldown") if "cooldown" in pairs else otherwise
    respond = _respond(reader, pairs["respond"]) if "respond" in pairs else None
    if respond is not None and not correlation and not any(one.name in USER for one in group):
        text = "only a rule whose group-by has the user can respond"
        reader.findings.add(pairs["respond"].line, "custom.respond", text)
    return Custom(group, cooldown, respond, detector)


def _instance(reader: RuleReader, pairs: Mapping[str, Pair]) -> tuple[Field, ...]:
    """The group of detectors that look at processes, not at people."""
    for key in ("group-by", "respond"):
        if key in pairs:
            reader.findings.add(pairs[key].line, f"custom.{key}", "this detector looks at processes: remove it")
    found = reader.field_named(INSTANCE[0] if reader.taxonomy == "ecs" else INSTANCE[1], 1, "")
    return () if found is None else (found,)


def _respond(reader: RuleReader, pair: Pair) -> Respond:
    word, _, span = reader.word(pair.value, "custom.respond").partition(" ")
    found = re.fullmatch(r"([1-9][0-9]{0,5})([smhd])", span)
    seconds = int(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400}[found[2]] if found else 0
    if word != "block" or not 0 < seconds <= 30 * 86_400:
        reader.findings.add(pair.line, "custom.respond", "expected block and a time of up to 30d, as in block 15m")
    return Respond("block", seconds)


class _Options:
    """The settings of one detector."""

    def __init__(self, reader: RuleReader, pair: Pair) -> None:
        self._reader, self._path, self._line = reader, "custom.detector", pair.line
        self._node = pair.value
        self._pairs: Mapping[str, Pair] = {}

    def read(self) -> Read:
        """The detector, and its cooldown where none is given."""
        head = self._reader.table(self._node, self._path)
        if "type" not in head:
            self._reader.findings.add(self._line, join(self._path, "type"), f"missing; one of {', '.join(_TYPES)}")
            return None, 0
        kind = self._reader.choice(head["type"].value, join(self._path, "type"), tuple(_TYPES), "silence")
        keys, make = _TYPES[kind]
        self._pairs = self._reader.table(self._node, self._path, ("type", *keys))
        return make(self)

    def concurrency(self) -> Read:
        span = self._span("timespan", 5 * _MINUTE)
        return Concurrency(self._integer("gte", None, 2, 100), span), span

    def baseline(self) -> Read:
        bucket = self._span("bucket", _HOUR)
        return Baseline(bucket, self._integer("history", 24, 8, 96)), bucket

    def first_seen(self) -> Read:
        pair = self._pair("field")
        found = None if pair is None else self._reader.field(pair.value, join(self._path, "field"))
        learn, forget = self._span("learn", 7 * _DAY), self._span("forget", 90 * _DAY)
        return (None if found is None else FirstSeen(found, learn, forget)), 0

    def dormant(self) -> Read:
        return Dormant(self._span("after", 90 * _DAY)), 0

    def off_hours(self) -> Read:
        zone, start, stop = self._zone(), self._time("from", 7 * 60), self._time("to", 19 * 60)
        if start >= stop:
            self._reader.findings.add(self._line, self._path, "from must be before to")
        days = frozenset(range(5))
        if "days" in self._pairs:
            pair, path = self._pairs["days"], join(self._path, "days")
            listed = self._reader.words(pair.value, path)
            for day in listed:
                if day not in _DAYS:
                    self._reader.findings.add(pair.line, path, f"'{day}' is not one of {', '.join(_DAYS)}")
            days = frozenset(_DAYS.index(day) for day in listed if day in _DAYS)
            if isinstance(pair.value, ListNode) and not pair.value.items:
                self._reader.findings.add(pair.line, path, "an empty list")
        return OffHours(zone, start, stop, days), _DAY // 2

    def silence(self) -> Read:
        return Silence(), 0

    def counters(self) -> Read:
        return Counters(), 0

    def _pair(self, key: str) -> Pair | None:
        if key not in self._pairs:
            self._reader.findings.add(self._line, join(self._path, key), "missing")
        return self._pairs.get(key)

    def _span(self, key: str, otherwise: int) -> int:
        found = self._pairs.get(key)
        return otherwise if found is None else self._reader.span(found.value, join(self._path, key))

    def _integer(self, key: str, otherwise: int | None, least: int, most: int) -> int:
        found = self._pairs.get(key) if otherwise is not None else self._pair(key)
        if found is None:
            return least if otherwise is None else otherwise
        return self._reader.integer(found.value, join(self._path, key), least, most)

    def _time(self, key: str, otherwise: int) -> int:
        """Minutes of the day."""
        found = self._pairs.get(key)
        if found is None:
            return otherwise
        text = self._reader.word(found.value, join(self._path, key))
        if not _TIME.fullmatch(text):
            self._reader.findings.add(found.line, join(self._path, key), f"expected a time as '07:00', found {text}")
            return otherwise
        return int(text[:2]) * 60 + int(text[3:])

    def _zone(self) -> str:
        found = self._pairs.get("zone")
        if found is None:
            return "UTC"
        name = self._reader.word(found.value, join(self._path, "zone"))
        try:
            return ZoneInfo(name).key
        except (ValueError, OSError, KeyError):  # a KeyError where there is none, an OSError for the name of a folder
            self._reader.findings.add(found.line, join(self._path, "zone"), f"there is no time zone '{name}' here")
            return "UTC"


_TYPES: Final[Mapping[str, tuple[tuple[str, ...], Callable[[_Options], Read]]]] = {
    "concurrency": (("gte", "timespan"), _Options.concurrency),
    "baseline": (("bucket", "history"), _Options.baseline),
    "first_seen": (("field", "learn", "forget"), _Options.first_seen),
    "dormant": (("after",), _Options.dormant),
    "off_hours": (("zone", "from", "to", "days"), _Options.off_hours),
    "silence": ((), _Options.silence),
    "counters": ((), _Options.counters),
}

"""Tells one channel of the records that it hears of.

The order of the steps, and what a crash after each leaves:

1. A record is counted, or becomes a message that waits; both stand in the state file. *If we die here*: it comes again,
   and is known.
2. A message is sent. *If we die here*: it is sent again, with the same id.
3. The log gets a record of it. *If we die here*: message and record are there twice.
4. The message is taken out of the state file.

A message that cannot be sent waits while the records go on being counted, so that what is said does not depend on when
it could be said. After ``give_up`` seconds it is given up, and the log says so.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ...errors import AuditError, FollowerError
from ...model import Json
from ..channels.seam import Answer, Channel, Line
from ..sink import Item, Sent, Sink, Way
from .grouping import LISTED, Grouping, Limits
from .keeping import Waiting, read_kept, write_kept
from .message import Notification, describe, naming, shown_time
from .rules import NOTIFICATION_FAILED, NOTIFIED, Heard

WAITING = 200
"""Messages that wait at most; what would be more is counted into the summary of the hour."""
LATE = 5.0
"""Seconds that a record may come later than it was recorded, without the clock having gone past it."""
_LONGEST = 20.0
"""Seconds after which one call begins no further message."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Notifying:
    """The destination of a follower that notifies one channel."""

    name: str
    type: str
    channel: Channel
    heard: Heard
    limits: Limits = field(default_factory=Limits)
    full: bool = False

    def open(self, way: Way) -> Sink:
        """See `Destination`."""
        return Notifier(self, way, self.channel.open())


class Notifier:
    """Sends messages one after the other, in the order in which they came about."""

    def __init__(self, settings: Notifying, way: Way, line: Line) -> None:
        """Raises `FollowerError` for a state that cannot be used."""
        self._settings, self._way, self._line = settings, way, line
        self._kept = read_kept(way.shelf, way.name, way.origin)
        self._grouping = Grouping(settings.limits, way.origin, settings.name, self._kept.grouped)
        self._problem: str | None = None
        self._unsaved = False
        self._not_before = self._sent_at = float("-inf")

    def send(self, items: Sequence[Item]) -> Sent:
        """See `Sink`. Everything is settled that was counted; what cannot be sent waits here, and `idle` says why."""
        if self._works():
            self._deliver()
        self._put_back()
        settled = 0
        for item in items:
            if self._works() and settled and len(self._kept.waiting) >= WAITING:
                break
            settled += 1
            if item.index < self._kept.next:
                continue
            rule = self._settings.heard.rule_of(item.record)
            if rule is not None:
                event = describe(item.record, item.index, rule, full=self._settings.full)
                self._queue(self._grouping.take(event, self._way.clock() // 1000))
                self._kept.next, self._unsaved = item.index + 1, True
        if self._unsaved:  # also what was counted when a full disk took no state: the cursor moves past it now
            self._save()
        if self._works():
            self._deliver()
        return Sent(settled)

    def idle(self) -> str | None:
        """See `Sink`: lets time pass, and tries what waits."""
        self._put_back()
        moment = self._way.clock() // 1000 - round(LATE * 1_000_000)
        if self._grouping.due(moment):
            self._queue(self._grouping.until(moment))
            self._unsaved = True
        if self._unsaved:
            self._save()
        return self._deliver()

    def close(self) -> None:
        """See `Sink`."""
        self._line.close()

    def _works(self) -> bool:
        return self._problem is None and self._kept.disabled is None

    def _put_back(self) -> None:
        """Where the clock was ahead and has been put back, time goes on from there."""
        now = self._way.clock()
        if self._grouping.put_back(now // 1000):
            _log.warning("channel %s: records or the clock were ahead of the time by far", self._settings.name)
            for one in self._kept.waiting:
                one.since = min(one.since, now)
            self._unsaved = True

    def _save(self) -> None:
        self._unsaved = True
        write_kept(self._way.shelf, self._way.name, self._kept)
        self._unsaved = False

    def _queue(self, made: Iterable[Notification]) -> None:
        for told in made:
            if len(self._kept.waiting) < WAITING:
                self._kept.waiting.append(Waiting(told, self._way.clock()))
            else:
                self._grouping.hold(told)

    # --- delivery ----------------------------------------------------------------------------------------------------

    def _deliver(self) -> str | None:
        """Sends what waits; returns why it must go on waiting."""
        began = time.monotonic()
        while self._kept.waiting and time.monotonic() - began < _LONGEST:
            first = self._kept.waiting[0]
            old = self._way.clock() - first.since >= self._settings.limits.give_up * 1_000_000_000
            if self._kept.disabled is not None or time.monotonic() < self._not_before:
                if old and (first.tries or self._kept.disabled is not None):
                    self._gave_up(first)
                    continue
                break
            answer = self._attempt(first)
            if answer.verdict == "taken":
                self._problem = None
                self._done(NOTIFIED, first, answer.why)
            elif answer.verdict != "later":
                self._kept.disabled = answer.why if answer.verdict == "gone" else None
                self._done(NOTIFICATION_FAILED, first, answer.why)
            else:
                self._problem = f"{self._settings.type}: {answer.why}"
                self._not_before = time.monotonic() + (answer.after or 0.0)
                if old:
                    self._gave_up(first)
                    continue
                self._save()
                break
        if self._kept.disabled is not None:
            return f"the channel is disabled ({self._kept.disabled}): correct it, then reset this follower"
        return self._problem if self._kept.waiting else None

    def _attempt(self, first: Waiting) -> Answer:
        if (rest := self._sent_at + self._line.pause - time.monotonic()) > 0:
            time.sleep(rest)
        first.tries += 1
        try:
            # Named here, and nowhere else: what waits, and what the log is told, has tokens.
            return self._line.send(naming(first.notification, self._way.named))
        except FollowerError as problem:
            return Answer("later", str(problem))
        except OSError as problem:
            return Answer("later", type(problem).__name__)
        finally:
            self._sent_at = time.monotonic()

    def _gave_up(self, first: Waiting) -> None:
        why = self._kept.disabled or self._problem or "not delivered"
        seconds = self._settings.limits.give_up
        span = f"{seconds / 3600:g} hours" if seconds >= 3600 else f"{seconds} seconds"
        self._done(NOTIFICATION_FAILED, first, f"given up after {span}: {why}")

    def _done(self, action: str, first: Waiting, why: str | None) -> None:
        told = first.notification
        extra: dict[str, Json] = {
            "channel": self._settings.name,
            "type": self._settings.type,
            "notification": told.id,
            "kind": told.kind,
            "rule": told.event.rule,
            "key": told.event.key,
            "count": told.count,
            "indexes": list(told.indexes[:LISTED]),
            "first": shown_time(told.first),
            "last": shown_time(told.last),
            "tries": first.tries,
            "why": why,
        }
        if action == NOTIFICATION_FAILED:
            _log.error(
                "channel %s: a notification of rule %s was not delivered: %s", extra["channel"], extra["rule"], why
            )
        try:
            self._way.tell(action, extra)
        except AuditError as problem:
            _log.error(
                "channel %s: the log does not hold the record %s: %s: %s", extra["channel"], action, problem, extra
            )
        self._kept.waiting.pop(0)
        self._save()

"""What the log's own records say of the log, and whether that is coherent.

Control records (``kind: control``) are as believable as any other entry: signed, ordered, and written by whoever holds
the key. Their value is that they are there *before* anybody asks: a gap, a pruning or a stopped clock that is admitted
in the log can be weighed, one that is not admitted shows as a counter, an hour of silence, a missing beginning.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from .report import Finding
from .told_persons import PersonsTold

HEARTBEAT, STOPPED = "audit.heartbeat", "audit.stopped"
GAP, JUMP = "audit.gap", "audit.clock_jump"
RETENTION, PRUNED = "audit.retention_set", "audit.pruned"
ROTATED, RETIRED = "audit.key_rotated", "audit.key_retired"
KEYS, ERASED = "audit.subject_keys", "audit.subject_erased"

_LONGEST = 10**8  # seconds: who promises a sign of life every three years promises nothing
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_TEXT = 200  # characters of a record's text that a finding repeats


class _Service(msgspec.Struct, gc=False, frozen=True):
    instance: str = ""


class _Record(msgspec.Struct, frozen=True):
    action: str = ""
    service: _Service = _Service()
    extra: dict[str, Any] = {}


class Control(msgspec.Struct, frozen=True):
    """A record about the log itself: its position in the frame, who wrote it, what it says."""

    position: int
    action: str
    instance: str
    extra: dict[str, Any]


_read = msgspec.json.Decoder(_Record).decode


def read_controls(entries: Sequence[bytes], positions: Iterable[int]) -> tuple[Control, ...]:
    """Returns the control records that stand at these positions; one of another shape is left out."""
    found = []
    for position in positions:
        try:
            record = _read(entries[position])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue  # the check of entries says so
        found.append(Control(position, record.action, record.service.instance, record.extra))
    return tuple(found)


class Coherence:
    """Gaps, clock jumps, retention and pruning, as the log admits them.

    Attributes:
        retention: Log index of the first record that set a retention rule.
        pruned: The largest minimum index that a record of a pruning names, and that record's index.
        gaps, lost, jumps: See `report.Counts`.
        undecided: Log index of the first pruning whose rule may stand among entries that were not read.
        persons: The keys of persons that the log tells of.
    """

    def __init__(self, retention: int | None = None, pruned: tuple[int, int] | None = None, *, whole: bool) -> None:
        """``whole``: nothing stands before what will be added, or what stood there is in the first two arguments."""
        self.retention = retention
        self.pruned = pruned
        self.gaps = self.lost = self.jumps = 0
        self.undecided: int | None = None
        self.persons = PersonsTold()
        self._whole = whole

    def add(self, first: int, controls: Sequence[Control]) -> Iterator[Finding]:
        """Takes the control records of one frame and yields what is worth knowing or wrong."""
        for control in controls:
            index, extra = first + control.position, control.extra
            if control.action == GAP:
                yield self._gap(index, extra)
            elif control.action == JUMP:
                self.jumps += 1
                yield Finding(16, "clock", index, f"a clock jumped: {_said(extra)}", level="note")
            elif control.action == RETENTION and self.retention is None:
                self.retention = index
            elif control.action == PRUNED:
                yield from self._pruning(index, extra)
            elif control.action == KEYS:
                self.persons.made(extra)
            elif control.action == ERASED:
                self.persons.erased_by(index, extra)

    def _gap(self, index: int, extra: dict[str, Any]) -> Finding:
        count = whole_number(extra.get("count"))
        self.gaps += 1
        self.lost += count or 0
        text = (
            f"{'an unknown number of' if count is None else count} records could not be kept, "
            f"from {_short(extra.get('from'))} to {_short(extra.get('to'))}: {_short(extra.get('cause'))}"
        )
        return Finding(14, "gap", index, text, level="note")

    def _pruning(self, index: int, extra: dict[str, Any]) -> Iterator[Finding]:
        minimum = whole_number(extra.get("minimum"))
        if minimum is None or minimum > index:
            yield Finding(15, "unexplained", index, "a record of a pruning does not say up to which entry")
            return
        if self.pruned is None or minimum > self.pruned[0]:
            self.pruned = minimum, index
        if self.retention is None and not self._whole:
            self.retention = _carried_rule(extra, index)
        if self.retention is not None:
            return
        if self._whole:
            text = f"the entries below {minimum} were pruned, but no record before that sets a retention rule"
            yield Finding(15, "unexplained", index, text)
        elif self.undecided is None:
            self.undecided = index


def seconds(value: Any) -> int:
    """A promised interval in whole seconds, rounded up; entries hold no floats, so it may be text. 0 if it is none."""
    if isinstance(value, str) and _SECONDS.fullmatch(value):
        value = math.ceil(float(value))
    number = whole_number(value)
    return number if number is not None and number <= _LONGEST else 0


def _carried_rule(extra: dict[str, Any], index: int) -> int | None:
    """Where the retention rule stood that the record of a pruning carries along, because it is pruned itself."""
    listed = extra.get("carried")
    for one in listed if isinstance(listed, list) else ():
        if isinstance(one, dict) and one.get("action") == RETENTION:
            at = whole_number(one.get("index"))
            if at is not None and at < index:
                return at
    return None


def whole_number(value: Any) -> int | None:
    """The value if it is one, and not negative."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _said(extra: dict[str, Any]) -> str:
    return ", ".join(f"{_short(name)} {_short(value)}" for name, value in list(extra.items())[:8]) or "no details"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _TEXT else text[:_TEXT] + "..."

"""What happened in a period, counted while the log passes by: the numbers of the periodic review.

Streams: memory is bounded whatever the log holds (`tally`). Reads no content, only who, what and how it ended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from ..model import ANONYMOUS, Frame, Json
from ..persons import pseudonym
from .tally import Tally

KEPT = 50
"""Control records kept one by one, of each kind; the others are counted."""

CLOCK_STEP_S = 2.0
"""``recorded_at`` of neighbouring entries may differ by so much between hosts before it is called a jump."""

SEVERE = ("high", "critical")


class _Subject(msgspec.Struct, gc=False):
    type: str = ""
    roles: tuple[str, ...] = ()


class _Decision(msgspec.Struct, gc=False):
    effect: str = "not_applicable"
    cause: str = ""
    rule: str | None = None
    mode: str = "enforce"


class _Service(msgspec.Struct, gc=False):
    name: str = ""
    instance: str = ""


class Entry(msgspec.Struct, gc=False):
    """What the review looks at in one record."""

    kind: str = ""
    timestamp: str = ""
    recorded_at: str = ""
    sequence: int = -1
    action: str | None = None
    severity: str = "info"
    user_id: str = ""
    outcome: str | None = None
    subject: _Subject = msgspec.field(default_factory=_Subject)
    decision: _Decision = msgspec.field(default_factory=_Decision)
    service: _Service = msgspec.field(default_factory=_Service)
    flags: tuple[str, ...] = ()
    extra: msgspec.Raw = msgspec.Raw(b"{}")


_decode = msgspec.json.Decoder(Entry).decode


@dataclass(frozen=True, slots=True)
class Event:
    """One control record."""

    index: int
    time: str
    action: str
    user: str
    extra: Json


@dataclass(slots=True)
class Process:
    """A process that started in the period and has not said that it stopped."""

    service: str
    started: str
    last: str
    next: int


@dataclass(slots=True)
class Activity:
    """The counts. ``since`` and ``until`` bound ``timestamp``, as a query does; ``None`` is unbounded."""

    since: str | None = None
    until: str | None = None
    entries: int = 0
    first: str | None = None
    last: str | None = None
    unreadable: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    effects: Counter[str] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    severities: Counter[str] = field(default_factory=Counter)
    flags: Tally[str] = field(default_factory=Tally)
    users: Tally[str] = field(default_factory=Tally)
    actions: Tally[str] = field(default_factory=Tally)
    roles: Tally[str] = field(default_factory=Tally)
    rules: Tally[tuple[str, str]] = field(default_factory=Tally)
    denied_actions: Tally[str] = field(default_factory=Tally)
    denied_users: Tally[str] = field(default_factory=Tally)
    noted: Tally[str] = field(default_factory=Tally)
    severe: Tally[tuple[str, str, str]] = field(default_factory=Tally)  # user, action, severity
    anonymous: Tally[str] = field(default_factory=Tally)  # actions allowed to nobody in particular
    controls: Counter[str] = field(default_factory=Counter)
    events: dict[str, list[Event]] = field(default_factory=dict)
    in_force: dict[str, str] = field(default_factory=dict)  # digest of the policy last loaded, by service
    policies: list[tuple[int, str, str, str]] = field(default_factory=list)  # index, time, service, digest
    policy_changes: int = 0
    started: int = 0
    stopped: int = 0
    processes: dict[str, Process] = field(default_factory=dict)
    ended_silently: Tally[str] = field(default_factory=Tally)
    missing: int = 0  # sequence numbers that are not in the log
    jumps: int = 0
    _recorded_at: str = ""

    def read(self, frames: Iterable[Frame]) -> None:
        """Counts the entries of these frames, those outside the period left out."""
        for frame in frames:
            for index, data in enumerate(frame.entries, frame.first):
                try:
                    entry = _decode(data)
                except (msgspec.DecodeError, UnicodeDecodeError):
                    self.unreadable += 1
                    continue
                _name_by_token(entry)
                self._follow_process(entry)
                if (self.since is None or entry.timestamp >= self.since) and (
                    self.until is None or entry.timestamp < self.until
                ):
                    self._count(index, entry)

    def _count(self, index: int, entry: Entry) -> None:
        self.entries += 1
        self.first = min(self.first or entry.timestamp, entry.timestamp)
        self.last = max(self.last or entry.timestamp, entry.timestamp)
        self.kinds[entry.kind] += 1
        if _moved_back(self._recorded_at, entry.recorded_at):
            self.jumps += 1
        self._recorded_at = entry.recorded_at
        for flag in entry.flags:
            self.flags.add(flag)
        if entry.kind == "control":
            self._count_control(index, entry)
        elif entry.kind == "outcome":
            self._count_outcome(entry)

    def _count_control(self, index: int, entry: Entry) -> None:
        action = entry.action or ""
        self.controls[action] += 1
        kept = self.events.setdefault(action, [])
        extra = msgspec.json.decode(entry.extra)
        if len(kept) < KEPT:
            kept.append(Event(index, entry.timestamp, action, entry.user_id, extra))
        if action == "audit.policy_loaded":
            self.policy_loaded(index, entry.timestamp, entry.service.name, str(extra.get("digest")))

    def policy_loaded(self, index: int, time: str, service: str, digest: str) -> None:
        """A service loaded a policy; every start of a process does, and mostly it is the one before."""
        before = self.in_force.get(service)
        if before not in (None, digest):
            self.policy_changes += 1
            if len(self.policies) < KEPT:
                self.policies.append((index, time, service, digest))
        self.in_force[service] = digest

    def _count_outcome(self, entry: Entry) -> None:
        decision, action = entry.decision, entry.action or "(no action)"
        self.effects[decision.effect] += 1
        self.outcomes[entry.outcome or "unknown"] += 1
        self.severities[entry.severity] += 1
        self.users.add(entry.user_id)
        if entry.action is not None:
            self.actions.add(action)
        if decision.cause == "rule" and decision.rule is not None:
            self.rules.add((action, decision.rule))
        if decision.effect == "deny":
            self.causes[decision.cause] += 1
            self.denied_actions.add(action)
            self.denied_users.add(entry.user_id)
            if entry.outcome != "denied":
                self.noted.add(action)
        if decision.effect != "deny" and entry.action is not None:
            for role in entry.subject.roles:
                self.roles.add(role)
            if entry.severity in SEVERE:
                self.severe.add((entry.user_id, action, entry.severity))
            if entry.subject.type == ANONYMOUS:
                self.anonymous.add(action)

    def _follow_process(self, entry: Entry) -> None:
        """A process is followed from its first record to its last word, and then forgotten."""
        name = entry.service.instance
        known = self.processes.get(name)
        if known is None:
            if entry.kind == "control" and entry.action == "audit.started":
                self.started += 1
                self._replace_silent(entry)
                self.processes[name] = Process(entry.service.name, entry.timestamp, entry.recorded_at, 1)
            return
        if entry.sequence > known.next:
            self.missing += entry.sequence - known.next
        known.next = max(known.next, entry.sequence + 1)
        known.last = max(known.last, entry.recorded_at)
        if entry.kind == "control" and entry.action == "audit.stopped":
            self.stopped += 1
            del self.processes[name]

    def _replace_silent(self, entry: Entry) -> None:
        """Bounds the processes followed: the one that has been silent longest is taken for ended."""
        if len(self.processes) >= KEPT * 20:
            name = min(self.processes, key=lambda one: self.processes[one].last)
            self.ended_silently.add(self.processes.pop(name).service)


def _name_by_token(entry: Entry) -> None:
    """One sealed person is one user, and what roles were sealed is no list of roles."""
    entry.user_id = pseudonym(entry.user_id) or ""
    entry.subject.roles = tuple("(sealed)" if pseudonym(role) != role else role for role in entry.subject.roles)


def _moved_back(before: str, after: str) -> bool:
    """Did the clock go back by more than a step? Times are RFC 3339 UTC with microseconds."""
    if after >= before:
        return False
    return _seconds(before) - _seconds(after) > CLOCK_STEP_S


def _seconds(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


def detail(event: Event, *names: str) -> str:
    """Some of what a control record says besides, for a line of text."""
    extra: Any = event.extra if isinstance(event.extra, dict) else {}
    return ", ".join(f"{name} {extra[name]}" for name in names if extra.get(name) is not None)

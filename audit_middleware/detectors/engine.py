"""Records in the log's order to findings: pure, deterministic, bounded.

A record goes the same way every time: detections whose key fields do not rule them out, then what they feed. Which
detections those are is kept for each combination of kind, action, event, severity, outcome, effect, subject's type and
service, of which there are few; for most records most rules cost nothing.

What detectors cause is no evidence: the record of a finding, that somebody was notified of it or that it could not be
delivered, and a request that was refused because its caller is blocked, are signs of life of the process that wrote
them, and no more. Or a rule over
``audit.*`` would feed on itself, and a block would prolong itself for as long as its caller tries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from pydantic import ValidationError

from ..errors import ConfigError
from ..formats.facts import micros
from ..formats.text import canonical
from ..model import ANONYMOUS, SCHEMA_VERSION
from ..persons import pseudonym
from ..schema import Record
from .condition import decided
from .fields import View, rfc3339
from .finding import Finding, finding_id
from .model import SECOND, Correlation, Detection, Rule, Rules
from .own import CountersWatch, SilenceWatch, watch
from .windows import CORRELATIONS, Event, Group, Grouping, Groups, Hit, Mark, State, Watch, listed, within

__all__ = ["Engine"]

VERSION: Final = 1  # of what a snapshot holds and of how rules are evaluated
REMIND: Final = 86_400 * SECOND
"""A storm that does not end gives another finding after so long."""

_MAX_PLANS = 4_096
_UNSHAPED = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
_LAST = micros("9999-01-01T00:00:00.000000Z")  # what comes later has no time in every zone


@dataclass(slots=True)
class _Alarm:
    """A group of which there was a finding: when the rule last held, and when that was last told."""

    held: int
    told: int


@dataclass(slots=True)
class _Runner:
    """A rule at work."""

    rule: Rule
    grouping: Grouping
    watch: Watch | None = None
    state: State | None = None
    inputs: frozenset[str] = frozenset()
    alarms: Groups[_Alarm] = field(default_factory=Groups)


class Engine:
    """Evaluates rules over the records of one log, in the order of their indexes.

    The same records give the same findings in whatever portions they come, and if the engine is put away (`snapshot`)
    and brought back (`restore`) between any two of them. Not safe for use by several threads.

    Attributes:
        next: Index after that of the last record; records before it are not looked at again.
        unread: Entries that are no records of a schema that this version knows; they were passed over.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self.next = 0
        self.unread = 0
        self._begun: tuple[int, int] | None = None  # index and time of the first record
        self._detecting: list[_Runner] = []
        self._correlating: list[_Runner] = []
        for rule in rules.rules:
            body = rule.body
            if isinstance(body, Detection):
                looking = None if body.detector is None else watch(body.detector)
                self._detecting.append(_Runner(rule, Grouping(rule.fields), watch=looking))
            else:
                inputs = frozenset(one.rule for one in body.inputs)
                self._correlating.append(
                    _Runner(rule, Grouping(()), state=CORRELATIONS[body.type](body), inputs=inputs)
                )
        self._plans: dict[tuple[Any, ...], list[tuple[_Runner, Detection, bool]]] = {}

    def feed(self, index: int, record: Mapping[str, Any]) -> tuple[Finding, ...]:
        """What this record brings to light. ``index`` is its place in the log; what was fed already gives nothing."""
        if index < self.next:
            return ()
        self.next = index + 1
        try:
            if record["schema_version"] != SCHEMA_VERSION:
                self.unread += 1
                return ()
            return self._feed(index, record)
        except _UNSHAPED:
            if _sound(record):
                raise
            self.unread += 1
            return ()

    def _feed(self, index: int, record: Mapping[str, Any]) -> tuple[Finding, ...]:
        time = micros(record["recorded_at"])
        begun = self._begun = self._begun or (index, time)
        view = View(record)
        event = Event(index, time, view, begun[1], begun[0] == 0, Mark(index, time))
        hits: dict[str, Hit] = {}
        found: list[Finding] = []
        plain: Hit | None = None
        caused = _caused(record)
        for runner, body, sure in self._plan(record, view):
            if caused and not isinstance(runner.watch, SilenceWatch | CountersWatch):
                continue
            if not sure and not body.condition.holds(view):
                continue
            rule = runner.rule
            if not rule.alone and runner.watch is None:
                hits[rule.id] = plain = plain or Hit((), (event.mark,))
                continue
            group = runner.grouping.of(view)
            if runner.watch is None:
                got: Sequence[Hit] = (Hit(group or (), (event.mark,)),)
            else:
                got = () if group is None else runner.watch.feed(event, group)
            for hit in got:
                hits[rule.id] = hit
                self._tell(runner, hit, time, record, found)
        if hits:
            for runner in self._correlating:
                if runner.state is not None and not runner.inputs.isdisjoint(hits):
                    held = runner.state.feed(event, hits)
                    if held is not None:
                        hits[runner.rule.id] = held
                        self._tell(runner, held, time, record, found)
        return tuple(found)

    def quiet(self, now_ns: int) -> tuple[Finding, ...]:
        """What only time shows: a process that should have said something by ``now_ns`` (since 1970) and has not.

        For a log that is followed live; `feed` finds the same, with the same ``finding_id``, when the next record
        comes. Whichever is first gives the finding, the other does not repeat it. Only ``observed`` differs: the
        seconds of silence until then. After `restore` of an earlier snapshot it is given again.
        """
        found: list[Finding] = []
        now = now_ns // 1000
        for runner in self._detecting:
            if isinstance(runner.watch, SilenceWatch):
                for hit in runner.watch.overdue(now):
                    self._tell(runner, hit, now, None, found)
        return tuple(found)

    @property
    def forgotten(self) -> dict[str, int]:
        """By rule, how many groups were forgotten for want of room."""
        found = {}
        for runner in (*self._detecting, *self._correlating):
            kept = [runner.alarms, *(one.groups for one in (runner.watch, runner.state) if one is not None)]
            found[runner.rule.id] = sum(groups.evicted for groups in kept)
        return {rule: count for rule, count in found.items() if count}

    # --- which rules, and whether to tell ----------------------------------------------------------------------------

    def _plan(self, record: Mapping[str, Any], view: View) -> list[tuple[_Runner, Detection, bool]]:
        """The detections that this record may satisfy; true: that it satisfies, whatever its other fields are."""
        key = (
            record["kind"], record["action"], record["event"], record["severity"], record["outcome"],
            record["decision"]["effect"], record["subject"]["type"], record["service"]["name"],
        )  # fmt: skip
        plan = self._plans.get(key)
        if plan is None:
            plan = []
            for runner in self._detecting:
                body = runner.rule.body
                if isinstance(body, Correlation) or not _of_source(body, record):
                    continue
                answer = decided(body.condition, view)
                if answer is not False:
                    plan.append((runner, body, answer is True))
            if len(self._plans) >= _MAX_PLANS:
                self._plans.clear()
            self._plans[key] = plan
        return plan

    def _tell(
        self, runner: _Runner, hit: Hit, now: int, record: Mapping[str, Any] | None, found: list[Finding]
    ) -> None:
        """Makes a finding, unless there was one of this group just now, or the storm that it told of goes on."""
        rule, alarms = runner.rule, runner.alarms
        if not rule.alone:
            return
        if rule.cooldown:
            while (oldest := alarms.oldest()) is not None and now - oldest[1].held >= rule.cooldown:
                alarms.drop(oldest[0])
            alarm = alarms.get(hit.group)
            if alarm is not None and within(now, alarm.held, rule.cooldown) and within(now, alarm.told, REMIND):
                alarm.held = now
                alarms.put(hit.group, alarm)
                return
            alarms.put(hit.group, _Alarm(now, now))
        found.append(_finding(rule, hit, record))

    # --- put away and brought back -----------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        """All that the engine remembers, as canonical JSON."""
        states = [
            {
                "alarms": runner.alarms.dump(lambda alarm: [alarm.held, alarm.told]),
                "watch": None if runner.watch is None else runner.watch.dump(),
                "state": None if runner.state is None else runner.state.dump(),
            }
            for runner in (*self._detecting, *self._correlating)
        ]
        return canonical(
            {"version": VERSION, "rules": self._rules.digest, "next": self.next, "unread": self.unread,
             "begun": None if self._begun is None else list(self._begun), "states": states}
        )  # fmt: skip

    @classmethod
    def restore(cls, rules: Rules, data: bytes) -> Engine:
        """The engine that a snapshot was taken of.

        Raises:
            ConfigError: It was taken with other rules or by another version, or it is damaged: feed the records again.
        """
        again = "begin with a new engine and feed it the log's records again"
        try:
            kept = msgspec.json.decode(data)
            version, digest = kept["version"], kept["rules"]
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
            raise ConfigError(f"the detectors' state is no snapshot: {again}") from None
        if version != VERSION:
            raise ConfigError(f"the detectors' state is of version {version}, this is {VERSION}: {again}")
        if digest != rules.digest:
            raise ConfigError(f"the detectors' state was made with other rules (digest {str(digest)[:16]}): {again}")
        engine = cls(rules)
        try:
            engine._load(kept)
        except (*_UNSHAPED, IndexError):
            raise ConfigError(f"the detectors' state is damaged: {again}") from None
        return engine

    def _load(self, kept: Any) -> None:
        self.next, self.unread = int(kept["next"]), int(kept["unread"])
        self._begun = None if kept["begun"] is None else (int(kept["begun"][0]), int(kept["begun"][1]))
        for runner, state in zip((*self._detecting, *self._correlating), kept["states"], strict=True):
            runner.alarms.load(state["alarms"], lambda alarm: _Alarm(int(alarm[0]), int(alarm[1])))
            if runner.watch is not None:
                runner.watch.load(state["watch"])
            if runner.state is not None:
                runner.state.load(state["state"])


def _caused(record: Mapping[str, Any]) -> bool:
    """Is this record there because of a finding?"""
    decision = record["decision"]
    if decision["cause"] == "blocked":
        return bool(decision["mode"] == "enforce")
    if record["kind"] != "control":
        return False
    if record["action"] == "audit.delivery_failed":  # of findings alone: they could not be taken somewhere else
        return bool(record["extra"].get("actions") == ["audit.finding"])
    if record["action"] in ("audit.notified", "audit.notification_failed"):  # the key is RULE/ACTION/…
        return str(record["extra"].get("key")).split("/")[1:2] == ["audit.finding"]
    return bool(record["action"] == "audit.finding")


def _of_source(body: Detection, record: Mapping[str, Any]) -> bool:
    return body.kind in (None, record["kind"]) and body.service in (None, record["service"]["name"])


def _finding(rule: Rule, hit: Hit, record: Mapping[str, Any] | None) -> Finding:
    group = _named(rule, hit.group)
    evidence = listed(hit.evidence)
    return Finding(
        finding_id=finding_id(rule.id, group, evidence[0].at, evidence[-1].at),
        rule=rule.id,
        title=rule.title,
        level=rule.level,
        dimension=_dimension(rule),
        group=group,
        observed=hit.observed,
        baseline=hit.baseline,
        window_s=hit.window // SECOND,
        first=rfc3339(evidence[0].time),
        last=rfc3339(evidence[-1].time),
        evidence=tuple(mark.at for mark in evidence),
        evidence_count=max(hit.count, len(hit.evidence)),
        user_id=_user(rule, record),
        respond=rule.respond,
    )


def _named(rule: Rule, group: Group) -> dict[str, str]:
    return dict(zip(rule.group_by, group, strict=False))


def _user(rule: Rule, record: Mapping[str, Any] | None) -> str | None:
    """Who did it: whoever asked for the last record of the evidence, where the group is one user."""
    if record is None or not rule.users or record["kind"] == "control" or record["subject"]["type"] == ANONYMOUS:
        return None
    return str(pseudonym(record["user_id"]))


def _dimension(rule: Rule) -> str:
    body = rule.body
    if isinstance(body, Correlation):
        kind: str = body.type
    else:
        kind = "record" if body.detector is None else type(body.detector).__name__.lower()
    return f"{kind} by {', '.join(rule.group_by)}" if rule.group_by else kind


def _sound(record: Mapping[str, Any]) -> bool:
    """Whether it is a record as this version writes it, at times that there are."""
    try:
        Record.model_validate(record)
        return max(micros(record["recorded_at"]), micros(record["timestamp"])) < _LAST
    except (ValidationError, ValueError):
        return False

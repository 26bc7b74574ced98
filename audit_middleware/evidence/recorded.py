"""A recorded decision, read back: what was asked, by whom, with which inputs, and what was decided."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import msgspec

from ..model import Frame, Resource, Subject
from ..pipeline.inputs import standing
from ..policy.requirements import CONFIRM, REASON
from ..privacy.patterns import REDACTED
from ..privacy.sealed import place_of

__all__ = ["Inputs", "Open", "Recorded", "decisions", "inputs_of", "is_hidden"]


class _Subject(msgspec.Struct, frozen=True, gc=False):
    type: str
    roles: list[str]
    tenant: str | None
    session: str | None


class _Request(msgspec.Struct, frozen=True, gc=False):
    protocol: str | None
    method: str | None
    route: str | None


class _Inputs(msgspec.Struct, frozen=True):
    values: dict[str, Any]
    missing: list[str]
    withheld: dict[str, str]


class _Decision(msgspec.Struct, frozen=True):
    effect: str
    cause: str
    rule: str | None
    policy_digest: str | None
    mode: str
    detail: str | None
    inputs: _Inputs | None = None


class _Service(msgspec.Struct, frozen=True, gc=False):
    name: str


class Recorded(msgspec.Struct, frozen=True):
    """The part of a record that tells its decision."""

    kind: str
    timestamp: str
    recorded_at: str
    action: str | None
    user_id: str
    intent_id: str | None
    initiator_ip: str | None
    reason: str | None
    service: _Service
    subject: _Subject
    request: _Request
    decision: _Decision

    @property
    def days(self) -> frozenset[date]:
        """The days (UTC) on which it may have been decided."""
        return frozenset(date.fromisoformat(text[:10]) for text in (self.timestamp, self.recorded_at))

    @property
    def method(self) -> str:
        """The method as a policy's ``routes:`` name it."""
        return "WS" if self.request.protocol == "websocket" else self.request.method or ""


Open = Callable[[dict[str, Any]], dict[str, Any]]
"""Makes of a record one in which sealed values are opened, as far as they open."""

_read = msgspec.json.Decoder(Recorded).decode
_CONTROL = b'"kind":"control"'
_MAX_BITS = 1000  # so that it can be compared with a float


def decisions(
    frames: Iterable[Frame],
    start: int,
    stop: int,
    since: str | None = None,
    until: str | None = None,
    opened: Open | None = None,
) -> Iterator[tuple[int, Recorded | None]]:
    """Every decision in ``[start, stop)`` and the period, with its index; ``None`` for an entry that is no record."""
    for frame in frames:
        for index, entry in enumerate(frame.entries, frame.first):
            if not start <= index < stop:
                continue
            try:
                record = _read(entry) if opened is None else _opened(entry, opened)
                datetime.fromisoformat(record.timestamp), datetime.fromisoformat(record.recorded_at)
            except (msgspec.DecodeError, ValueError, RecursionError):  # also UnicodeDecodeError
                if _CONTROL not in entry:
                    yield index, None
                continue
            inside = (since is None or record.timestamp >= since) and (until is None or record.timestamp < until)
            if record.kind != "control" and inside:
                yield index, record


def _opened(entry: bytes, opened: Open) -> Recorded:
    if b".v1." not in entry:
        return _read(entry)
    return msgspec.convert(opened(msgspec.json.decode(entry)), Recorded)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the rules read, rebuilt. ``known`` names every attribute that the record tells, be it as missing; ``sealed``
    those of which it only tells that they are sealed, ``*`` for any."""

    subject: Subject
    resource: Resource
    context: Mapping[str, Any]
    reason: str | None
    confirmed: bool
    now: datetime
    known: frozenset[str]
    withheld: Mapping[str, str]
    sealed: frozenset[str] = frozenset()


def is_hidden(value: object) -> bool:
    """Is a value only there as what stands for it, or dropped?"""
    return place_of(value) is not None or value in (REDACTED, [REDACTED], {"personal": REDACTED})


class _Other:
    """Stands for a value that is no text, number, boolean, list or moment: no operator compares it with anything."""


def inputs_of(record: Recorded) -> Inputs:
    """The inputs that a record tells. Raises `ValueError` where they are not of the form that is written."""
    part = record.decision.inputs
    told = standing(msgspec.to_builtins(record))
    sealed = {name for name, value in told.items() if is_hidden(value)}
    values = {name: value for name, value in told.items() if value is not None}
    known = set(told)
    withheld: Mapping[str, str] = {}
    if part is not None and is_hidden(part.values):
        sealed.add("*")  # all of what was read
    elif part is not None:
        sealed -= part.values.keys()
        sealed |= {name for name, value in part.values.items() if is_hidden(value)}
        values |= {name: _value(value) for name, value in part.values.items() if not is_hidden(value)}
        values = {name: value for name, value in values.items() if name not in part.missing}
        known |= {*part.values, *part.missing}
        withheld = part.withheld
    known -= sealed
    # Who asked is one of the arguments, whatever the rules read: the token will do.
    values = {name: value for name, value in values.items() if name not in sealed or name == "subject.id"}
    if "subject.roles" in sealed:
        values["subject.roles"] = []
    if "subject.type" in sealed:
        values["subject.type"] = record.subject.type
    now = datetime.fromisoformat(record.timestamp)
    values["context.time"] = now
    reason, confirmed = values.pop(REASON, None), values.pop(CONFIRM, False)
    roles = values.pop("subject.roles")
    if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
        raise ValueError("subject.roles")
    own: dict[str, dict[str, Any]] = {"subject": {}, "resource": {}}
    for name in ("id", "type", "tenant", "session"):
        own["subject"][name] = values.pop(f"subject.{name}", None)
    for name in ("id", "type"):
        own["resource"][name] = values.pop(f"resource.{name}", None)
    tree = _tree(values)
    return Inputs(
        Subject(**own["subject"], roles=tuple(roles), properties=tree["subject"]),
        Resource(**own["resource"], properties=tree["resource"]),
        tree["context"],
        reason if isinstance(reason, str) else None,
        confirmed is True,
        now.astimezone(UTC),
        frozenset(known),
        withheld,
        frozenset(sealed),
    )


def _tree(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Attributes by dotted name as nested mappings; a mapping that was read itself is one by what stands below it."""
    tree: dict[str, dict[str, Any]] = {"subject": {}, "resource": {}, "context": {}}
    for name in sorted(values, key=lambda name: name.count(".")):
        root, *parents, last = name.split(".")
        if root not in tree or not (parents or last):
            raise ValueError(name)
        place = tree[root]
        for parent in parents:
            if not isinstance(place.get(parent), dict):
                place[parent] = {}
            place = place[parent]
        place[last] = values[name]
    return tree


def _value(shown: Any) -> Any:
    if isinstance(shown, list):
        return [_value(item) for item in shown]
    if not isinstance(shown, dict):
        return shown
    (kind, text), *more = shown.items()
    if more or not isinstance(text, str):
        raise ValueError(kind)
    if kind == "number":
        number = int(text) if text.removeprefix("-").isdecimal() else float(text)
        if isinstance(number, int) and number.bit_length() > _MAX_BITS:
            raise ValueError(kind)
        return number
    if kind == "time":
        return datetime.fromisoformat(text)
    if kind == "type":
        return _Other()
    raise ValueError(kind)

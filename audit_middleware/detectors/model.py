"""Rules as they were read and checked: frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .condition import Node
from .fields import Field
from .finding import Level, Respond

__all__ = [
    "Baseline",
    "Concurrency",
    "Correlation",
    "Counters",
    "Detection",
    "Detector",
    "Dormant",
    "FirstSeen",
    "Input",
    "Kind",
    "OffHours",
    "Rule",
    "Rules",
    "Silence",
]

Kind = Literal["outcome", "intent", "control"]
CorrelationType = Literal["event_count", "value_count", "temporal", "temporal_ordered"]
Comparison = Literal["gt", "gte", "lt", "lte", "eq"]
SECOND = 1_000_000  # times are in microseconds


@dataclass(frozen=True, slots=True)
class Concurrency:
    """At least ``limit`` requests at the same time; ``span`` in microseconds: how far back requests are looked at."""

    limit: int
    span: int


@dataclass(frozen=True, slots=True)
class Baseline:
    """More records in a bucket of time than the median of such buckets lets expect, once there are ``history``."""

    bucket: int
    history: int


@dataclass(frozen=True, slots=True)
class FirstSeen:
    """A value of ``field`` that was not there in the last ``forget``; nothing in the first ``learn`` of the log."""

    field: Field
    learn: int
    forget: int


@dataclass(frozen=True, slots=True)
class Dormant:
    """The first record after at least ``after`` without any."""

    after: int


@dataclass(frozen=True, slots=True)
class OffHours:
    """A record outside of working hours: minutes of the day, weekdays from Monday 0, in an IANA time zone."""

    zone: str
    start: int
    stop: int
    days: frozenset[int]


@dataclass(frozen=True, slots=True)
class Silence:
    """A process that promised signs of life gives none."""


@dataclass(frozen=True, slots=True)
class Counters:
    """A process's counter leaves numbers out."""


Detector = Concurrency | Baseline | FirstSeen | Dormant | OffHours | Silence | Counters


@dataclass(frozen=True, slots=True)
class Detection:
    """Records of these kinds, of this service, for which the condition holds; and what is looked for among them."""

    kind: Kind | None
    service: str | None
    condition: Node
    detector: Detector | None = None


@dataclass(frozen=True, slots=True)
class Input:
    """A rule that a correlation refers to, and its fields for group-by and for the values that are counted.

    Of another correlation there are no fields, but ``positions`` in its group.
    """

    rule: str
    group_by: tuple[Field, ...]
    value: Field | None = None
    positions: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Correlation:
    """What several records show together. ``span`` in microseconds; ``limit`` and ``compare`` of counts only."""

    type: CorrelationType
    inputs: tuple[Input, ...]
    span: int
    compare: Comparison = "gte"
    limit: int = 1


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        id: A UUID.
        name: What correlations may call it, else its id.
        group_by: Names of the group's fields, as findings show them.
        fields: The same fields, of a detection; a correlation's inputs have their own.
        cooldown: In microseconds; as long after a finding there is no other one of the same group.
        alone: Whether it gives findings itself; what only a correlation uses does not.
        users: Whether a group is one user.
    """

    id: str
    name: str
    title: str
    level: Level
    body: Detection | Correlation
    group_by: tuple[str, ...]
    fields: tuple[Field, ...]
    cooldown: int
    alone: bool
    users: bool
    respond: Respond | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """A set of rules; each stands after those that it refers to. ``digest``: SHA-256 over all they say, in hex.

    ``sources`` says of each rule's id in which file it stands.
    """

    rules: tuple[Rule, ...]
    digest: str
    sources: Mapping[str, str]

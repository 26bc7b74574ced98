"""The columns of the search index, and what a query may ask of them.

Text is kept as the record has it, but of what is sealed the token alone. Times compare as text because records write
them in one way only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from ..errors import ConfigError
from ..persons import pseudonym, pseudonym_of

COLUMNS = (
    "idx", "action_id", "timestamp", "recorded_at", "kind", "intent_id", "action", "event", "severity", "user_id",
    "initiator_ip", "resource_type", "resource_id", "effect", "cause", "outcome", "status", "trace_id",
    "correlation_id", "instance", "sequence",
)  # fmt: skip

COMMON = {"kind": "outcome", "effect": "allow", "outcome": "success", "severity": "info"}
"""Values that most entries have: they are not looked up but met on the way; only the others have an index."""

BLOCK = 1024
"""The smallest and the largest time are kept per so many entries, so that a query for a span reads little else."""

_LOOKUPS = ("action_id", "user_id", "action", "resource_id", "resource_type", "trace_id", "correlation_id", "intent_id")

SCHEMA = {
    "meta": "CREATE TABLE meta (version INTEGER, origin TEXT, size INTEGER, last TEXT)",
    "entry": f"CREATE TABLE entry (idx INTEGER PRIMARY KEY, {', '.join(COLUMNS[1:])})",
    "block": "CREATE TABLE block (first INTEGER PRIMARY KEY, low, high)",
    "place": "CREATE TABLE place (first INTEGER PRIMARY KEY, segment, offset, lengths, leaves)",
    **{
        f"by_{name}": f"CREATE INDEX by_{name} ON entry ({name}) WHERE {name} IS NOT NULL"
        for name in _LOOKUPS
    },
    **{
        f"by_{name}": f"CREATE INDEX by_{name} ON entry ({name}) WHERE {name} <> '{common}'"
        for name, common in COMMON.items()
    },
}  # fmt: skip
"""Every table and index, by name, as SQLite keeps its text."""

Row = tuple[Any, ...]


class _Service(msgspec.Struct, gc=False):
    instance: str | None = None


class _Resource(msgspec.Struct, gc=False):
    type: str | None = None
    id: str | None = None


class _Decision(msgspec.Struct, gc=False):
    effect: str | None = None
    cause: str | None = None


class _Response(msgspec.Struct, gc=False):
    status: int | None = None


class _Trace(msgspec.Struct, gc=False):
    trace_id: str | None = None
    correlation_id: str | None = None


class _Columns(msgspec.Struct, gc=False):
    action_id: str | None = None
    timestamp: str | None = None
    recorded_at: str | None = None
    kind: str | None = None
    intent_id: str | None = None
    action: str | None = None
    event: str | None = None
    severity: str | None = None
    user_id: str | None = None
    initiator_ip: str | None = None
    resource: _Resource = msgspec.field(default_factory=_Resource)
    decision: _Decision = msgspec.field(default_factory=_Decision)
    outcome: str | None = None
    response: _Response = msgspec.field(default_factory=_Response)
    trace: _Trace = msgspec.field(default_factory=_Trace)
    service: _Service = msgspec.field(default_factory=_Service)
    sequence: int | None = None


_decoder = msgspec.json.Decoder(_Columns)
_LARGEST = 2**63 - 1


def row_of(index: int, entry: bytes) -> Row:
    """The columns of one entry. An entry that is no record has its index and nothing else."""
    try:
        found = _decoder.decode(entry)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = _Columns()
    return (
        index, found.action_id, found.timestamp, found.recorded_at, found.kind, found.intent_id, found.action,
        found.event, found.severity, pseudonym(found.user_id), pseudonym(found.initiator_ip), found.resource.type,
        pseudonym(found.resource.id), found.decision.effect, found.decision.cause, found.outcome,
        _number(found.response.status),
        found.trace.trace_id, found.trace.correlation_id, found.service.instance, _number(found.sequence),
    )  # fmt: skip


def _number(value: int | None) -> int | None:
    # SQLite holds 64 bits; a record holds at most 53, and what is no record must not stop the index.
    return value if value is None or -_LARGEST <= value <= _LARGEST else None


class Term(NamedTuple):
    """A condition, and its values. ``lookup``: the same as conditions that an index answers in the log's order, if any;
    the term holds where one of them does. ``condition`` is spelt so that SQLite uses no index for it (unary +)."""

    condition: str
    values: tuple[Any, ...]
    lookup: tuple[tuple[str, tuple[Any, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class Filters:
    """What a query asks for; ``None`` is anything. Times are RFC 3339 UTC with microseconds, as records have them.

    ``action`` may end in ``*``. ``resource`` is ``type/id`` or a type. ``trace`` is a trace id or a correlation id.
    ``since`` is inclusive, ``until`` exclusive. ``unfinished``: only intents that no outcome names. With ``user_token``
    or ``resource_token`` the records where this token stands for the user or the resource's id are found as well.
    """

    user: str | None = None
    action: str | None = None
    decision: str | None = None
    outcome: str | None = None
    severity: str | None = None
    kind: str | None = None
    resource: str | None = None
    trace: str | None = None
    action_id: str | None = None
    since: str | None = None
    until: str | None = None
    unfinished: bool = False
    user_token: str | None = None
    resource_token: str | None = None

    def __post_init__(self) -> None:
        """Raises `ConfigError` for text that no record can hold, such as bytes of a command line that are not UTF-8."""
        for name in self.__slots__:
            value = getattr(self, name)
            if isinstance(value, str) and not _is_unicode(value):
                raise ConfigError(f"{name.replace('_', '-')} {value!r}: is not Unicode text")

    @property
    def action_start(self) -> str | None:
        """What an action must start with, if it is asked for that way."""
        return self.action[:-1] if self.action is not None and self.action.endswith("*") else None

    @property
    def user_ids(self) -> tuple[str, ...]:
        """What may stand for the user, one or two texts; none: any user."""
        return _either(self.user, self.user_token)

    @property
    def resource_ids(self) -> tuple[str, ...]:
        """As `user_ids`, for the resource's id."""
        _, slash, name = (self.resource or "").partition("/")
        return _either(name if slash else None, self.resource_token)

    def terms(self) -> list[Term]:
        """All conditions but those on time and on the start of an action; the most selective lookup first."""
        wanted: list[Term | None] = [
            _equals("action_id", self.action_id),
            self._trace_term(),
            _any_of("resource_id", self.resource_ids),
            _any_of("user_id", self.user_ids),
            _equals("action", self.action if self.action_start is None else None),
            _UNFINISHED if self.unfinished else None,
            _rare("kind", "intent" if self.unfinished else self.kind),
            _rare("effect", self.decision),
            _rare("outcome", self.outcome),
            _rare("severity", self.severity),
            _equals("resource_type", None if self.resource is None else self.resource.partition("/")[0]),
        ]
        return [term for term in wanted if term is not None]

    def _trace_term(self) -> Term | None:
        if self.trace is None:
            return None
        values = (self.trace,)
        lookup = (("trace_id = ?", values), ("correlation_id = ?", values))
        return Term("(+trace_id = ? OR +correlation_id = ?)", values * 2, lookup)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True


_UNFINISHED = Term(
    "NOT EXISTS (SELECT 1 FROM entry AS outcome WHERE outcome.intent_id = entry.action_id)",
    (),
)
"""The outcome of an intent is looked up by the index on ``intent_id``."""


def _either(clear: str | None, token: str | None) -> tuple[str, ...]:
    return tuple(text for text in (clear, None if token is None else pseudonym_of(token)) if text is not None)


def _any_of(column: str, values: tuple[str, ...]) -> Term | None:
    if not values:
        return None
    condition = " OR ".join([f"+{column} = ?"] * len(values))
    return Term(f"({condition})", values, tuple((f"{column} = ?", (value,)) for value in values))


def _equals(column: str, value: str | None) -> Term | None:
    if value is None:
        return None
    return Term(f"+{column} = ?", (value,), ((f"{column} = ?", (value,)),))


def _rare(column: str, value: str | None) -> Term | None:
    """A condition that is looked up only for values that few entries have."""
    if value is None:
        return None
    lookup: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    if value != COMMON[column]:
        # Said twice, because SQLite uses a partial index only where the query repeats its condition.
        lookup = ((f"{column} = ? AND {column} <> '{COMMON[column]}'", (value,)),)
    return Term(f"+{column} = ?", (value,), lookup)

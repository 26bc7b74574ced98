"""The running request's notes: `annotate`, the IDs it runs under, and how values become plain JSON.

The middleware sets one `Notes` holder per request in the ContextVar `RUNNING`; `annotate` finds it from async and sync
handlers, dependencies and background tasks. A *holder*, because a value set in a ContextVar by a handler's thread or
below a ``BaseHTTPMiddleware`` is set in a copy of the context and never comes back.

Correlation is read from a request and sent on by `identity.correlation`; here is only what it found. Nothing in this
module logs, starts a task or changes thread: all of it is on the path of every request.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextvars import ContextVar
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from itertools import islice
from pathlib import PurePath
from typing import Any, Never
from uuid import UUID

import msgspec
from msgspec.json import encode as _encode
from pydantic import AnyUrl, BaseModel

from .errors import AuditError
from .model import Action, Json, Resource, Subject

CUT = "…"
MAX_ORIGINAL, MAX_REASON, MAX_NOTE = 256, 2048, 8192  # bytes of UTF-8, bytes of JSON

_MAX_INT = 2**53 - 1
_MAX_DEPTH, _MAX_ITEMS, _MAX_KEY = 16, 1000, 128
_FEW = 8  # members of a mapping that is looked at before it is copied
_MARK = 40  # bytes of JSON kept free in each container for the mark that says it was cut
_ROOM = 44  # bytes of JSON that the largest indivisible value, an empty container, can take


def clean(text: str | bytes, limit: int) -> str:
    """Valid UTF-8 of at most ``limit`` bytes (>= 3), cut between characters, the cut marked by a trailing ``…``.

    Bytes that are not UTF-8 and lone surrogates become U+FFFD. Control characters stay: JSON escapes them.
    """
    if type(text) is str and len(text) <= limit and text.isascii():
        return text  # nearly always
    if isinstance(text, bytes):
        text = text[: limit + 4].decode("utf-8", "replace")
    elif type(text) is not str:
        text = str.__str__(text)[: limit + 1]  # a subclass (markup, a database's id) has no canonical form
    elif len(text) > limit:
        text = text[: limit + 1]
    if text.isascii():
        return text if len(text) <= limit else text[: limit - 3] + CUT
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    raw = text.encode()
    return text if len(raw) <= limit else raw[: limit - 3].decode("utf-8", "ignore") + CUT


class Correlation(msgspec.Struct, frozen=True, gc=False):
    """What ties this request to others. Ids of a trace are lower-case hex; unknown is ``None``.

    ``span_id`` is the span this request runs in (ours creates none); ``parent`` the caller's, from ``traceparent``.
    ``client_*_id`` hold what the client sent where that was refused: at most 256 bytes, valid UTF-8, untrusted.
    """

    correlation_id: str
    trace_id: str | None = None
    span_id: str | None = None
    parent: str | None = None
    trace_flags: str | None = None
    tracestate: str | None = None
    request_id: str | None = None
    client_correlation_id: str | None = None
    client_request_id: str | None = None


def new_action_id(clock_ns: int, tail: str) -> str:
    """A UUIDv7 (RFC 9562): ``clock_ns`` since the epoch to the millisecond, and an `action_tail`."""
    time_ms = f"{clock_ns // 1_000_000 & 0xFFFF_FFFF_FFFF:012x}"
    return f"{time_ms[:8]}-{time_ms[8:]}{tail}"


def action_tail(random: str) -> str:
    """The part of an action ID that is not its time: 74 bits of 19 random hex digits."""
    return f"-7{random[:3]}-{_VARIANT[random[3]]}{random[4:7]}-{random[7:19]}"


_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


# --- the running request's notes ---------------------------------------------------------------------------------

_closing = threading.Lock()  # for the notes of all requests: one of its own would be one more object for each
os.register_at_fork(after_in_child=lambda: globals().update(_closing=threading.Lock()))  # a thread may have held it


class Notes(msgspec.Struct, eq=False):
    """What is noted about one request while it runs. Safe to write from several threads: per field the last one wins.

    After `close` the fields no longer change; what is annotated then goes to ``on_late`` as the dictionary of the
    fields given (already plain JSON), with these notes, on the annotating thread, so that it can become a record of
    its own.
    """

    action_id: str
    correlation: Correlation
    on_late: Callable[[Notes, dict[str, Json]], None] | None = None
    subject: Subject | None = None  # who was admitted; set by the middleware
    action: Action | None = None  # what was decided on, set when the record is about to be made;
    params: Mapping[str, Any] | None = None  # the path parameters, which tell what it acts on,
    about: Resource | None = None  # and what it acts on, where that was asked for already
    reason: str | None = None
    impact: dict[str, Json] | None = None  # of before, after, count: those given
    resource: dict[str, Json] = msgspec.field(default_factory=dict)  # of type, id, properties: those given
    extra: dict[str, Json] = msgspec.field(default_factory=dict)
    closed: bool = False

    def close(self) -> None:
        """The record is about to be made: what comes later is late."""
        with _closing:
            self.closed = True

    def add(self, given: dict[str, Json]) -> None:
        """Takes checked fields (see `annotate`); raises `AuditError` where a late one could only be lost."""
        with _closing:
            if not self.closed:
                return self._merge(given)
        if self.on_late is None:
            raise AuditError("annotate() came after this request's record was written, and nothing takes late notes")
        return self.on_late(self, given)

    def _merge(self, given: dict[str, Json]) -> None:
        self.reason = given.get("reason", self.reason)
        if "impact" in given:
            self.impact = {**(self.impact or {}), **given["impact"]}
        if "resource" in given:
            properties = _merged(self.resource.get("properties", {}), given["resource"].get("properties", {}))
            self.resource = {**self.resource, **given["resource"], "properties": properties}
        if "extra" in given:
            self.extra = _merged(self.extra, given["extra"])


def _merged(old: dict[str, Json], new: dict[str, Json]) -> dict[str, Json]:
    # Through plain() again, so that a handler that annotates in a loop cannot grow the record without bound.
    return plain({**old, **new}, limit=MAX_NOTE) if old else new


RUNNING: ContextVar[Notes | None] = ContextVar("audit_middleware_notes", default=None)

_listening: set[int] = set()


def listen(middleware: int, on: bool) -> None:
    """A middleware has started or stopped: while any runs here, a note outside of a request could only be lost."""
    (_listening.add if on else _listening.discard)(middleware)


def annotate(
    *,
    reason: str | None = None,
    impact: Mapping[str, object] | None = None,
    resource: Resource | Mapping[str, object] | None = None,
    extra: Mapping[str, object] | None = None,
    **unknown: Never,
) -> None:
    """Notes facts about the running request for its audit record; ``None`` is "not given".

    ``reason``: the caller's justification. ``impact``: ``before``, ``after`` and ``count`` of what was changed.
    ``resource``: a mapping of properties, or a `Resource` where only the handler knows what it acted on (an id it has
    just made). ``extra``: anything else. Mappings given in several calls are merged. Values are copied at once, as
    `plain` JSON of at most 8 KiB each. Raises `AuditError` for a name or type not listed, and outside of a request
    while a middleware runs in this process; where none does, as in tests of the bare application, nothing happens.
    """
    _refuse_unknown("annotate()", unknown, ("reason", "impact", "resource", "extra"))
    notes = RUNNING.get()
    if notes is None:
        if not _listening:
            return  # the bare application, in its own tests: nobody listens, so nothing is lost
        raise AuditError("annotate() works only while a request runs; for work that no request asked for, use record()")
    notes.add(noted(reason, impact, extra, resource))


def noted(
    reason: str | None,
    impact: Mapping[str, object] | None,
    extra: Mapping[str, object] | None,
    resource: Resource | Mapping[str, object] | None = None,
) -> dict[str, Json]:
    """The fields given, checked and copied as plain JSON; see `annotate`."""
    given: dict[str, Json] = {}
    if reason is not None:
        given["reason"] = clean(_checked("reason", reason, str), MAX_REASON)
    if impact is not None:
        given["impact"] = _impact(_checked("impact", impact, Mapping))
    if resource is not None:
        given["resource"] = _resource(_checked("resource", resource, Mapping, Resource))
    if extra is not None:
        given["extra"] = plain(_checked("extra", extra, Mapping), limit=MAX_NOTE)
    return given


def _impact(impact: Mapping[str, object]) -> dict[str, Json]:
    _refuse_unknown("annotate(impact=)", impact, ("before", "after", "count"))
    given = {name: plain(impact[name], limit=MAX_NOTE) for name in ("before", "after") if name in impact}
    if "count" in impact:
        given["count"] = count = impact["count"]
        if count is not None and (type(count) is not int or not 0 <= count <= _MAX_INT):
            raise AuditError("annotate(impact=): count must be an integer from 0 to 2**53 - 1")
    return given


def _resource(resource: Resource | Mapping[str, object]) -> dict[str, Json]:
    if not isinstance(resource, Resource):
        return {"properties": plain(resource, limit=MAX_NOTE)}
    named = (("type", resource.type), ("id", resource.id))
    given = {name: clean(str(text), MAX_ORIGINAL) for name, text in named if text is not None}
    return {**given, "properties": plain(resource.properties, limit=MAX_NOTE)}


def _checked(name: str, value: Any, *kinds: type) -> Any:
    if isinstance(value, kinds):
        return value
    wanted = " or ".join(kind.__name__ for kind in kinds)
    raise AuditError(f"annotate(): {name} must be {wanted}, not {type(value).__name__}")


def _refuse_unknown(where: str, given: Iterable[object], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            from difflib import get_close_matches

            near = get_close_matches(str(name), known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(known)}"
            raise AuditError(f"{where} does not take {str(name)[:64]!r}: {hint}")


def current_correlation_id() -> str | None:
    """The running request's correlation ID, or ``None`` outside of one."""
    notes = RUNNING.get()
    return notes.correlation.correlation_id if notes else None


def current_subject() -> Subject | None:
    """Who the running request was admitted for; ``None`` outside of one and before its route was decided on."""
    notes = RUNNING.get()
    return notes.subject if notes else None


def current_action_id() -> str | None:
    """The running request's action ID: the one its record and its ``Audit-ID`` header carry."""
    notes = RUNNING.get()
    return notes.action_id if notes else None


# --- plain JSON --------------------------------------------------------------------------------------------------


def plain(value: object, *, limit: int = MAX_NOTE) -> Json:
    """A copy of any value as JSON that the canonical form takes: no floats, no big integers, ASCII member names.

    Never raises, and what it returns takes at most ``limit`` (>= 64) bytes as compact JSON. What was left out is
    marked: ``…`` ends a cut text, ``"<7 more>"`` a cut list (in a mapping under the name ``...``), and ``"<Type>"``
    stands for a value that is no data, is too deep (16) or contains itself.

    float and Decimal: text, always (``"1.0"``). Integers beyond 2**53 - 1: text. datetime: RFC 3339 in UTC; a naive one
    without zone. bytes: ``sha256`` and ``size``. Sets: a list ordered by JSON text. Member names: others than text as
    their JSON, non-ASCII as Python's ``\\xe9`` and ``\\u2026``, at most 128; the second of one name gets a ``~``.
    """
    texts = few_texts(value, limit)
    return _Copy(limit).of(value, ()) if texts is None else texts


def few_texts(value: object, limit: int) -> dict[str, Json] | None:
    """What `plain` makes of a few short ASCII texts by name, as path parameters are: a copy. ``None`` of all else."""
    if type(value) is not dict or len(value) > _FEW:
        return None
    copy: dict[str, Json] = value.copy()  # at once: another thread may change the original
    size = 2 + _MARK + _ROOM
    for name, text in copy.items():
        if type(name) is not str or type(text) is not str or len(name) > _MAX_KEY:
            return None
        if not (name.isascii() and text.isascii()):
            return None
        size += 6 * (len(name) + len(text)) + 6  # as if each character were escaped
    return copy if size <= limit else None


@dataclass(slots=True)
class _Copy:
    """One copy in progress; ``left`` is how many bytes of JSON it may still take."""

    left: int

    def of(self, value: object, above: tuple[int, ...]) -> Json:
        """``above`` are the identities of the containers around the value: its length is the depth."""
        if type(value) is str:
            return self.text(value)
        if value is None or value is True or value is False:
            self.left -= 5
            return value
        before = self.left
        try:
            if type(value) not in _COMMON and isinstance(value, _SCALARS):
                return self.scalar(value, above)
            return self.container(value, above)
        except Exception:  # a foreign object may raise anything from anywhere; it must not break the request
            self.left = before
            return self.text(f"<{_TYPE_NAME(type(value))}>")

    def text(self, value: str) -> str:
        short = clean(value, max(3, self.left - 2))
        size = len(_encode(short))
        if size > self.left:  # escapes: six bytes for a control character
            short = clean(value, max(3, (self.left - 2) // 6))
            size = len(_encode(short))
        self.left -= size
        return short

    def scalar(self, value: Any, above: tuple[int, ...]) -> Json:
        if isinstance(value, Enum):
            return self.of(value.value, above)
        if isinstance(value, int):
            number = int.__pos__(value)  # of a subclass, the plain number
            if -_MAX_INT <= number <= _MAX_INT:
                self.left -= len(int.__repr__(number))
                return number
            return self.text(int.__repr__(number))
        if isinstance(value, float):
            return self.text(float.__repr__(value))
        if isinstance(value, datetime) and value.tzinfo is not None:
            return self.text(value.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z")
        text = value.isoformat() if isinstance(value, date | time) else str(value)
        return self.text(str.__str__(text))  # of a subclass, the plain text

    def container(self, value: Any, above: tuple[int, ...]) -> Json:
        if isinstance(value, bytes | bytearray | memoryview):
            return self.mapping({"sha256": hashlib.sha256(value).hexdigest(), "size": memoryview(value).nbytes}, above)
        if len(above) >= _MAX_DEPTH or id(value) in above:
            raise ValueError("too deep, or contains itself")
        above += (id(value),)
        if isinstance(value, Mapping):
            return self.mapping(value, above)
        if isinstance(value, BaseModel):
            return self.mapping(value.model_dump(warnings=False), above)
        if is_dataclass(value) and not isinstance(value, type):
            return self.mapping({one.name: getattr(value, one.name) for one in fields(value)}, above)
        if isinstance(value, Set):
            return sorted(self.sequence(value, above), key=_encode)
        if isinstance(value, Sequence):
            return self.sequence(value, above)
        raise TypeError("not data")

    def sequence(self, values: Any, above: tuple[int, ...]) -> list[Json]:
        self.left -= 2 + _MARK
        out: list[Json] = []
        # islice() over a list or dict copies without letting another thread in.
        for value in list(islice(values, _MAX_ITEMS)):
            if self.left <= _ROOM:
                break
            self.left -= 1
            out.append(self.of(value, above))
        if len(out) < len(values):
            return [*out, f"<{len(values) - len(out)} more>"]
        self.left += _MARK
        return out

    def mapping(self, values: Any, above: tuple[int, ...]) -> dict[str, Json]:
        self.left -= 2 + _MARK
        out: dict[str, Json] = {}
        for key, value in list(islice(values.items(), _MAX_ITEMS)):
            name = key if type(key) is str and len(key) <= _MAX_KEY and key.isascii() else _name(key)
            while name in out:
                name += "~"
            size = len(_encode(name)) + 2
            if self.left - size <= _ROOM:
                break
            self.left -= size
            out[name] = self.of(value, above)
        if len(out) < len(values):
            return {**out, "...": f"<{len(values) - len(out)} more>"}
        self.left += _MARK
        return out


_COMMON = frozenset((dict, list, tuple))
_SCALARS = (str, int, float, Decimal, Enum, date, time, timedelta, UUID, PurePath, IPv4Address, IPv6Address, AnyUrl)
_TYPE_NAME = type.__dict__["__name__"].__get__  # the name itself: a metaclass may hide it behind a property that raises


def _name(key: object) -> str:
    text = plain(key, limit=4 * _MAX_KEY)
    name = (text if isinstance(text, str) else _encode(text).decode()).encode("ascii", "backslashreplace").decode()
    return name if len(name) <= _MAX_KEY else name[: _MAX_KEY - 3] + "..."

"""What a notification says, as values that survive a restart. All text that came from outside is made harmless here.

*Harmless*: one line, without control characters, line or paragraph separators, or characters that reverse or hide text;
of bounded length. What a channel's own notation gives a meaning to, the channel escapes itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from ...model import Json

Kind = Literal["alert", "repeated", "gathered", "held", "test"]

LONGEST = 200
"""Characters of one value."""
KEY = 255
"""Characters of a key; PagerDuty takes no more of a ``dedup_key``."""

_FINDING_FIELDS = (
    "finding_id",
    "rule",
    "title",
    "dimension",
    "group",
    "observed",
    "baseline",
    "window_s",
    "evidence_count",
)


class Event(msgspec.Struct, frozen=True):
    """One record, as far as a message speaks of it.

    ``at`` is ``recorded_at`` in microseconds since the epoch. ``key`` is of records that are alike: rule, principal and
    action; ``family`` of those that are but for the principal; ``incident`` is rule and principal. ``finding`` is what
    a detector found, ``full`` what is said with ``detail: full`` only.
    """

    rule: str
    index: int
    action_id: str
    at: int
    action: str
    event: str
    outcome: str
    severity: str
    user_id: str
    service: str
    key: str
    family: str
    incident: str
    finding: dict[str, str] | None = None
    full: dict[str, str] | None = None


class Notification(msgspec.Struct, frozen=True):
    """One message: about one record (``alert``), or about ``count`` more between ``first`` and ``last``.

    ``id`` is the same at every attempt. ``indexes`` are some of the records, ``users`` some of the principals;
    ``others`` says that there were more.
    """

    id: str
    kind: Kind
    origin: str
    event: Event
    count: int
    first: int
    last: int
    indexes: tuple[int, ...]
    users: tuple[str, ...]
    others: bool = False


def clean(value: object, most: int = LONGEST) -> str:
    """Text as a message may show it."""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    cut = text[:most]
    shown = "".join(one if one.isprintable() else " " if one.isspace() else "\ufffd" for one in cut)
    return shown if len(text) <= most else f"{shown[: most - 1]}…"


def bounded(*parts: str) -> str:
    """The parts as one key of at most `KEY` characters; what does not fit, or cannot be shown, is there as a digest."""
    text = "/".join(parts)
    shown = clean(text, KEY)
    if shown == text:
        return text
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()
    return f"{shown[: KEY - 65]}~{digest}"


def moment(text: object) -> int:
    """Microseconds since the epoch of an RFC 3339 time; 0 of anything else."""
    try:
        found = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return 0
    return round(found.timestamp() * 1_000_000) if found is not None and found.tzinfo is not None else 0


def shown_time(at: int) -> str:
    """RFC 3339, to the second."""
    return datetime.fromtimestamp(at // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def describe(record: Mapping[str, Any], index: int, rule: str, *, full: bool) -> Event:
    """What a message says about a record that a rule matched."""
    action = str(record.get("action") or "request")
    extra = record.get("extra")
    found = extra if record.get("kind") == "control" and isinstance(extra, Mapping) and "finding_id" in extra else None
    user, what = str(record.get("user_id") or "anonymous"), action
    if found is not None:  # about whom it is; the record itself is the detector's
        user = _text(found.get("user_id") or found.get("group") or user)
        what = f"{action}/{_text(found.get('rule') or '')}"
    return Event(
        rule=rule,
        index=index,
        action_id=clean(record.get("action_id") or f"entry-{index}"),
        at=moment(record.get("recorded_at")),
        action=clean(action),
        event=clean(record.get("event") or ""),
        outcome=clean(record.get("outcome") or "") if record.get("kind") != "control" else "",
        severity=clean(record.get("severity") or "info"),
        user_id=clean(user),
        service=clean((record.get("service") or {}).get("name") or ""),
        key=bounded(rule, what, user),
        family=bounded(rule, what),
        incident=bounded(rule, user),
        finding=_finding(found) if found is not None else None,
        full=_full(record) if full else None,
    )


def naming(told: Notification, named: Callable[[str], str]) -> Notification:
    """The message with names in the place of the tokens in its texts; keys keep them, to be the same every time."""

    def each(texts: dict[str, str] | None) -> dict[str, str] | None:
        return None if texts is None else {name: clean(named(text)) for name, text in texts.items()}

    users = tuple(clean(named(user)) for user in told.users)
    event = told.event
    event = msgspec.structs.replace(
        event, user_id=clean(named(event.user_id)), finding=each(event.finding), full=each(event.full)
    )
    return msgspec.structs.replace(told, users=users, event=event)


def trial(origin: str, id: str, at: int) -> Notification:
    """A message that only shows that a channel works; ``at`` is in microseconds since the epoch."""
    event = Event("test", 0, "", at, "test", "", "", "info", "nobody", "", "test", "test", "test")
    return Notification(id, "test", origin, event, 1, at, at, (), ())


def _text(value: Json) -> str:
    if isinstance(value, Mapping):  # a group: nobody wants to be woken up by braces
        return ", ".join(f"{name} {text}" for name, text in value.items())
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _finding(extra: Mapping[str, Json]) -> dict[str, str]:
    return {name: clean(extra[name]) for name in _FINDING_FIELDS if extra.get(name) is not None}


def _full(record: Mapping[str, Any]) -> dict[str, str]:
    parts = {name: record.get(name) or {} for name in ("resource", "decision", "request")}
    resource = [str(one) for one in (parts["resource"].get("type"), parts["resource"].get("id")) if one is not None]
    decided = [str(one) for one in (parts["decision"].get("cause"), parts["decision"].get("rule")) if one is not None]
    route = [str(one) for one in (parts["request"].get("method"), parts["request"].get("route")) if one is not None]
    said = {
        "reason": clean(record.get("reason") or "", 500),
        "resource": clean("/".join(resource)),
        "decided_by": clean(": ".join(decided)),
        "route": clean(" ".join(route)),
        "initiator_ip": clean(record.get("initiator_ip") or ""),
    }
    return {name: text for name, text in said.items() if text}

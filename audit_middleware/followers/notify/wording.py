"""A notification as text and as data; every channel says the same."""

from __future__ import annotations

from typing import Any

from .message import Notification, clean, shown_time


def title(told: Notification) -> str:
    """One line."""
    event = told.event
    if told.kind == "test":
        return f"Test notification of {told.origin}"
    if event.finding is not None:
        what = event.finding.get("title") or event.finding.get("rule") or event.action
    else:
        what = f"{event.action} {event.outcome}".strip()
    about = ", ".join(told.users[:3]) + (" and others" if told.others or len(told.users) > 3 else "")
    if told.kind == "alert":
        return f"[{event.severity}] {what}: {about}"
    between = f"between {shown_time(told.first)} and {shown_time(told.last)} (suppressed {told.count})"
    if told.kind == "held":
        return (
            f"[{event.severity}] and {told.count} more alerts {between}, too many to be sent one by one; first {what}"
        )
    return f"[{event.severity}] and {told.count} more like this {between}: {what}: {about}"


def lines(told: Notification) -> list[tuple[str, str]]:
    """Labels and values, each of them one line."""
    event = told.event
    found = [("severity", event.severity), ("action", event.action), ("outcome", event.outcome)]
    found += [("user", ", ".join(told.users) + (" and others" if told.others else ""))]
    if event.finding is not None:
        names = ("title", "rule", "dimension", "group", "observed", "baseline", "window_s", "evidence_count")
        found += [(f"finding {name.replace('_', ' ')}", event.finding.get(name, "")) for name in names]
    if told.kind in ("alert", "test"):
        found += [("time", shown_time(told.first))]
    else:
        found += [("records", str(told.count)), ("from", shown_time(told.first)), ("to", shown_time(told.last))]
    found += [("rule", event.rule), ("service", event.service), ("log", clean(told.origin))]
    if told.kind != "test":
        found += [("entry" if told.kind == "alert" else "entries", ", ".join(map(str, told.indexes)))]
        found += [("action_id", event.action_id)] if told.kind == "alert" else []
    found += [(name.replace("_", " "), text) for name, text in (event.full or {}).items()]
    return [(label, value) for label, value in found if value]


def data(told: Notification) -> dict[str, Any]:
    """JSON, for receivers that are programs."""
    event = told.event
    found: dict[str, Any] = {
        "id": told.id,
        "kind": told.kind,
        "rule": event.rule,
        "key": event.key,
        "severity": event.severity,
        "action": event.action,
        "event": event.event or None,
        "outcome": event.outcome or None,
        "user_id": event.user_id,
        "action_id": event.action_id,
        "service": event.service or None,
        "log": told.origin,
        "index": event.index,
        "time": shown_time(event.at),
        "count": told.count,
        "first": shown_time(told.first),
        "last": shown_time(told.last),
        "indexes": list(told.indexes),
        "users": list(told.users),
        "more_users": told.others,
        "finding": event.finding,
    }
    return found | ({"detail": event.full} if event.full is not None else {})

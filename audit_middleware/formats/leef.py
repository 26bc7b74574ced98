"""IBM QRadar's Log Event Extended Format 2.0: one line, six header parts, then ``key=value`` with tabs between.

LEEF has no escapes: what would end a value (a tab) or a line is shown as text (``\\t``, ``\\n``), and so is a ``|`` in
the header (``\\x7c``). A value may hold ``=``; only the first of a field divides.

Source: IBM QRadar LEEF components, "LEEF header" and "predefined LEEF event attributes".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .facts import VENDOR, Record, address, operation, severity
from .fields import SEVERITIES, Field, field, fitted, told
from .place import Place
from .text import shortened, visible

_TIME_FORMAT: Final = "yyyy-MM-dd'T'HH:mm:ss.SSSX"
_NAMES: Final = {
    "externalId": "action_id", "sequence": "sequence", "cat": "kind", "usrName": "user_id", "role": "roles",
    "accountName": "tenant", "action": "action", "outcome": "outcome", "decision": "effect", "mode": "mode",
    "cause": "cause", "rule": "rule", "detail": "detail", "policy": "policy_digest", "resource": "resource",
    "target": "target", "reason": "reason", "url": "url", "method": "method", "route": "route", "status": "status",
    "error": "error", "userAgent": "user_agent", "durationUs": "duration_us", "instance": "instance",
    "environment": "environment", "subjectType": "subject_type", "authMethod": "source", "session": "session",
    "traceId": "trace_id", "correlationId": "correlation_id", "requestId": "request_id", "intentId": "intent_id",
    "flags": "flags", "msg": "message",
}  # fmt: skip
_WHOLE: Final = frozenset(("externalId", "sequence"))


def encode(record: Record, place: Place | None = None, limit: int | None = None) -> bytes:
    """One line."""
    known, ip, service = told(record), record["initiator_ip"], record["service"]
    found = [
        Field("devTime", f"{record['timestamp'][:23]}Z", whole=True),
        Field("devTimeFormat", _TIME_FORMAT, whole=True),
        Field("sev", str(SEVERITIES[severity(record)]), whole=True),
        field("src" if address(ip) is not None else "srcName", ip),
        *(field(key, known[name], whole=key in _WHOLE) for key, name in _NAMES.items()),
    ]
    if place is not None:
        found += [Field("log", place.origin, whole=True), Field("index", str(place.index), whole=True)]

    def render(short: Sequence[Field], cap: int) -> str:
        header = (VENDOR, service["name"], service["version"] or "-", record["event"] or operation(record))
        parts = [visible(shortened(text, cap)).replace("|", "\\x7c") for text in header]
        return f"LEEF:2.0|{'|'.join(parts)}|x09|" + "\t".join(f"{one.name}={visible(one.value)}" for one in short)

    return fitted(found, render, limit)

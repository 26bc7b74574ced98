"""ArcSight Common Event Format, version 0: one line, seven header parts, then ``key=value`` with spaces between.

``\\`` and ``|`` of a header and ``\\`` and ``=`` of a value are escaped with ``\\``, a newline of a value is ``\\n``;
other characters that are not printed are shown as text (``\\u2028``). Nothing from outside stands unescaped.

Source: ArcSight Common Event Format, implementation standard, version 25.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Address
from typing import Final

from .facts import VENDOR, Record, address, host, micros, operation, severity
from .fields import SEVERITIES, Field, field, fitted, told
from .findings import finding
from .place import Place
from .text import shortened, visible

_WITHOUT_NEWLINES = re.compile(r"[^\r\n]+")
_CUSTOM: Final = {"cs1": "rule", "cs2": "resource", "cs3": "correlation_id", "cs4": "policy_digest", "cs5": "trace_id",
                  "cs6": "cause", "cn1": "sequence", "cn2": "status", "cn3": "duration_us",
                  "flexString1": "tenant", "flexString2": "detail"}  # fmt: skip
_NAMES: Final = {
    "externalId": "action_id", "cat": "kind", "act": "act", "outcome": "outcome", "reason": "reason",
    "suser": "user_id", "suid": "user_id", "spriv": "roles", "duser": "target",
    "requestMethod": "method", "request": "url", "requestClientApplication": "user_agent",
    "app": "protocol", "in": "request_size", "out": "response_size",
    "deviceProcessName": "instance", "msg": "message",
}  # fmt: skip
_WHOLE: Final = frozenset(("externalId", "cn1"))


def encode(record: Record, place: Place | None = None, limit: int | None = None) -> bytes:
    """One line."""
    known = told(record)
    found = [field("rt", micros(record["timestamp"]) // 1000, whole=True)]
    found += [field(key, known[name], whole=key in _WHOLE) for key, name in _NAMES.items()]
    found += [field("dvchost", shortened(host(record), 100)), _source(record["initiator_ip"])]
    if known["initiator_ip"] and isinstance(found[-1], Field) and found[-1].name == "c6a2":
        found.append(Field("c6a2Label", "source", whole=True))
    for key, name in _CUSTOM.items():
        custom = field(key, known[name], whole=key in _WHOLE)
        found += [custom, Field(f"{key}Label", name, whole=True)] if custom is not None else []
    service, kind, name, seen = record["service"], operation(record), record["event"] or "-", finding(record)
    if seen is not None:
        kind, name = seen.rule or kind, seen.name
        found += [field("cnt", seen.count), field("start", seen.first), field("end", seen.last)]
    if place is not None:
        where = {"deviceExternalId": place.origin, "flexNumber1": str(place.index), "flexNumber1Label": "log index"}
        found += [Field(key, value, whole=True) for key, value in where.items()]

    def render(short: Sequence[Field], cap: int) -> str:
        header = [VENDOR, service["name"], service["version"] or "-", kind, name]
        parts = [_header(shortened(text, cap)) for text in header]
        return f"CEF:0|{'|'.join(parts)}|{SEVERITIES[severity(record)]}|" + " ".join(
            f"{one.name}={_value(one.value)}" for one in short
        )

    return fitted(found, render, limit)


def _source(ip: str | None) -> Field | None:
    valid = address(ip)
    if valid is None:
        return field("shost", ip)
    return field("src" if isinstance(valid, IPv4Address) else "c6a2", ip)


def _header(text: str) -> str:
    return visible(text).replace("\\", "\\\\").replace("|", "\\|")


def _value(text: str) -> str:
    if not text.isprintable():
        text = _WITHOUT_NEWLINES.sub(lambda found: visible(found[0]), text)
    text = text.replace("\\", "\\\\").replace("=", "\\=")
    return text.replace("\n", "\\n").replace("\r", "\\r")

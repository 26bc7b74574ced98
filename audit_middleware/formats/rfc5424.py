"""Syslog as RFC 5424 has it: facility 13 ("log audit"), the record as structured data, one sentence as the message.

Values escape ``"``, ``\\`` and ``]``; what is not printed is shown as text (``\\n``), so a message is one line also
where lines are the framing. The SD-ID needs a private enterprise number: 32473 is the one for documentation; give your
own.

Source: RFC 5424 sections 6 and 6.3.3; RFC 5424 section 6.1 for sizes (2048 octets should be taken, more may be).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from ..errors import ConfigError
from .facts import Record, host, severity
from .fields import Field, field, fitted, told
from .place import Place
from .text import shortened, visible

ENTERPRISE: Final = 32473
_FACILITY: Final = 13
_SEVERITIES: Final = {"info": 6, "low": 5, "medium": 4, "high": 3, "critical": 2}
_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{1,6}Z")
_NOT_PRINTED = re.compile(r"[^!-~]")
_LEFT_OUT: Final = frozenset(("timestamp", "message", "act"))
_WHOLE: Final = frozenset(("action_id", "sequence"))


def check_enterprise(enterprise: int) -> None:
    """Raises `ConfigError` if a private enterprise number cannot be one."""
    if not 0 < enterprise < 2**32:
        raise ConfigError(f"a private enterprise number is from 1 to 4294967295, not {enterprise}")


def encode(record: Record, place: Place | None = None, enterprise: int = ENTERPRISE, limit: int | None = None) -> bytes:
    """One message, without framing."""
    known = told(record)
    found = [field(name, value, whole=name in _WHOLE) for name, value in known.items() if name not in _LEFT_OUT]
    if place is not None:
        found += [Field("log", place.origin, whole=True), Field("index", str(place.index), whole=True)]
    head = header(record)
    message = str(known["message"])
    mark = "" if message.isascii() else "\ufeff"  # section 6.4: what is not ASCII says that it is UTF-8

    def render(short: Sequence[Field], cap: int) -> str:
        data = " ".join(f'{one.name}="{_value(one.value)}"' for one in short)
        return f"{head} [audit@{enterprise} {data}] {mark}{shortened(message, cap)}"

    return fitted(found, render, limit)


def header(record: Record) -> str:
    """What stands before the structured data; the application is the service.

    Raises `ValueError` for a time that is none: it is the one part of a record that stands here as it is.
    """
    service = record["service"]
    if not _MOMENT.fullmatch(record["timestamp"]):
        raise ValueError("the record's time is none")
    parts = (
        f"<{_FACILITY * 8 + _SEVERITIES[severity(record)]}>1",
        record["timestamp"],
        _token(host(record), 255),
        _token(service["name"], 48),
        _token(service["instance"].partition(":")[2].partition(":")[0], 128),
        _token(record["event"] or record["action"], 32),
    )
    return " ".join(parts)


def _token(text: Any, limit: int) -> str:
    return _NOT_PRINTED.sub("_", text or "")[:limit] or "-"


def _value(text: str) -> str:
    return visible(text).replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")

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
from .facts import Record, host
from .fields import Field, field, fitted, told
from .text import shortened, visible

ENTERPRISE: Final = 32473
_FACILITY: Final = 13
_SEVERITIES: Final = {"info": 6, "low": 5, "medium": 4, "high": 3, "critical": 2}
_NOT_PRINTED = re.compile(r"[^!-~]")
_LEFT_OUT: Final = frozenset(("timestamp", "message", "act"))
_WHOLE: Final = frozenset(("action_id", "sequence"))


def check_enterprise(enterprise: int) -> None:
    """Raises `ConfigError` if a private enterprise number cannot be one."""
    if not 0 < enterprise < 2**32:
        raise ConfigError(f"a private enterprise number is from 1 to 4294967295, not {enterprise}")


def encode(record: Record, enterprise: int = ENTERPRISE) -> bytes:
    """One message, without framing."""
    known = told(record)
    found = [field(name, value, whole=name in _WHOLE) for name, value in known.items() if name not in _LEFT_OUT]
    service = record["service"]
    header = (
        f"<{_FACILITY * 8 + _SEVERITIES[record['severity']]}>1",
        record["timestamp"],
        _token(host(record), 255),
        _token(service["name"], 48),
        _token(service["instance"].partition(":")[2].partition(":")[0], 128),
        _token(record["event"] or record["action"], 32),
    )
    message = str(known["message"])
    mark = "" if message.isascii() else "\ufeff"  # section 6.4: what is not ASCII says that it is UTF-8

    def render(short: Sequence[Field], cap: int) -> str:
        data = " ".join(f'{one.name}="{_value(one.value)}"' for one in short)
        return f"{' '.join(header)} [audit@{enterprise} {data}] {mark}{shortened(message, cap)}"

    return fitted(found, render)


def _token(text: Any, limit: int) -> str:
    return _NOT_PRINTED.sub("_", text or "")[:limit] or "-"


def _value(text: str) -> str:
    return visible(text).replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")

"""What the three line formats (CEF, LEEF, RFC 5424) share: named text fields, cut until the line fits its limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from ..errors import ConfigError
from .facts import Record, message, resource_name, severity
from .findings import finding
from .identities import change
from .text import shortened

LIMIT: Final = 8192
"""Most bytes of a line: what rsyslog and the usual collectors take without being told to take more."""

LEAST, MOST = 3072, 1 << 18
"""Which limits may be set: every record can be cut to the least one."""

_CAPS: Final = (1023, 512, 256, 128, 64, 32, 16)
SEVERITIES: Final = {"info": 2, "low": 4, "medium": 6, "high": 8, "critical": 10}


class Field(NamedTuple):
    """One field. ``whole``: it identifies the record, and is never cut."""

    name: str
    value: str
    whole: bool = False


def field(name: str, value: str | int | None, *, whole: bool = False) -> Field | None:
    """A field, or ``None`` where there is no value."""
    return None if value is None or value == "" else Field(name, str(value), whole)


def fitted(
    found: Sequence[Field | None], render: Callable[[Sequence[Field], int], str], limit: int | None = None
) -> bytes:
    """The first rendering that fits the limit in bytes (`LIMIT`), with all text cut at 1023 bytes, 512, ... 16.

    A cut is marked by ``…``. ``render`` gets the fields and how many bytes anything else from outside may have.
    """
    given = [one for one in found if one is not None]
    line = b""
    for cap in _CAPS:
        short = [one if one.whole else one._replace(value=shortened(one.value, cap)) for one in given]
        line = render(short, cap).encode("utf-8", "replace")
        if len(line) <= (limit or LIMIT):
            break
    return line


def check_limit(limit: int) -> None:
    """Raises `ConfigError` for a limit that not every record can be cut to, or that is beyond reason."""
    if not LEAST <= limit <= MOST:
        raise ConfigError(f"a line may have from {LEAST} to {MOST} bytes, not {limit}")


def told(record: Record) -> dict[str, str | int | None]:
    """What all three say of a record, by our own names; each format has its own names for them."""
    decision, request, response = record["decision"], record["request"], record["response"]
    made, trace, path, found = change(record), record["trace"], request["path"], finding(record)
    return {
        "action_id": record["action_id"],
        "timestamp": record["timestamp"],
        "sequence": record["sequence"],
        "instance": record["service"]["instance"],
        "environment": record["service"]["environment"],
        "kind": record["kind"],
        "action": record["action"],
        "event": record["event"],
        "severity": severity(record),
        "outcome": record["outcome"] or "intent",
        "user_id": record["user_id"],
        "subject_type": record["subject"]["type"],
        "roles": ",".join(role.replace(",", "\\x2c") for role in record["subject"]["roles"]),
        "tenant": record["subject"]["tenant"],
        "session": record["subject"]["session"],
        "source": record["source"]["method"],
        "initiator_ip": record["initiator_ip"],
        "user_agent": record["user_agent"],
        "resource": resource_name(record),
        "target": found.user if found is not None else None if made is None else made.target,
        "reason": record["reason"],
        "effect": decision["effect"],
        "act": decision["effect"] if decision["mode"] == "enforce" else f"{decision['effect']}, only noted",
        "mode": decision["mode"],
        "cause": decision["cause"],
        "rule": decision["rule"] if found is None else found.rule,
        "detail": decision["detail"],
        "policy_digest": decision["policy_digest"],
        "protocol": request["protocol"],
        "method": request["method"],
        "route": request["route"],
        "url": None if path is None else f"{path}?{request['query']}" if request["query"] else path,
        "request_size": request["size"],
        "status": response["status"],
        "response_size": response["size"],
        "error": response["error"],
        "duration_us": record["duration_us"],
        "trace_id": trace["trace_id"],
        "correlation_id": trace["correlation_id"],
        "request_id": trace["request_id"],
        "intent_id": record["intent_id"],
        "flags": ",".join(record["flags"]),
        "message": message(record),
    }

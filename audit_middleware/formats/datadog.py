"""An item of Datadog's logs intake (v2), with Datadog's standard attributes; the intake takes arrays of them.

Source: https://docs.datadoghq.com/standard-attributes/ and the API's limits: 1 MB for one log, more is cut in silence.
"""

from __future__ import annotations

from typing import Any, Final

from .ecs import custom
from .facts import Record, address, content, host, level, message, micros, operation, resource_name, verb
from .text import compact, sentence, shortened, to_json, without_nothing

_STATUSES: Final = ("info", "notice", "warning", "error", "critical")


def item(record: Record) -> dict[str, Any]:
    """One item. ``timestamp`` is in milliseconds, ``duration`` in nanoseconds, as Datadog has them."""
    service, request, trace, ip = record["service"], record["request"], record["trace"], record["initiator_ip"]
    found = {
        "message": message(record),
        "ddsource": "audit_middleware",
        "service": service["name"],
        "hostname": host(record),
        "status": _STATUSES[level(record)],
        "timestamp": micros(record["timestamp"]) // 1000,
        "ddtags": ",".join(_tags(record)),
        "dd": {"trace_id": trace["trace_id"], "span_id": trace["span_id"], "env": service["environment"],
               "version": service["version"]},
        "usr": {"id": record["user_id"], "roles": record["subject"]["roles"], "tenant": record["subject"]["tenant"]},
        "evt": {"name": operation(record), "outcome": record["outcome"] or "intent", "category": verb(record)},
        "network": {"client": {"ip": ip if address(ip) is not None else None}},
        "http": {
            "method": request["method"],
            "status_code": record["response"]["status"],
            "useragent": record["user_agent"],
            "request_id": trace["request_id"],
            "url_details": {"path": request["path"], "queryString": request["query"]},
        },
        "duration": None if record["duration_us"] is None else record["duration_us"] * 1000,
        "error": {"kind": record["response"]["error"]},
        "audit": {
            **custom(record),
            "id": record["action_id"],
            "event": record["event"],
            "reason": record["reason"],
            "recorded_at": record["recorded_at"],
            "sequence": record["sequence"],
            "instance": service["instance"],
            "target": resource_name(record),
            "rule": record["decision"]["rule"],
            "policy_digest": record["decision"]["policy_digest"],
            "flags": record["flags"],
            "request_body": compact(content(request)),
            "response_body": compact(content(record["response"])),
        },
    }  # fmt: skip
    return without_nothing(found)


def encode(record: Record) -> bytes:
    """One item as JSON."""
    return to_json(item(record))


def _tags(record: Record) -> list[str]:
    """Tags are a list with commas: what stands in one must not make two."""
    known = {"kind": record["kind"], "severity": record["severity"], "env": record["service"]["environment"]}
    return [f"{name}:{_tag(value)}" for name, value in known.items() if value]


def _tag(value: str) -> str:
    return sentence(shortened(value, 128)).replace(",", "_").replace(":", "_")

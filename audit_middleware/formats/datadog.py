"""An item of Datadog's logs intake (v2), with Datadog's standard attributes; the intake takes arrays of them.

Source: https://docs.datadoghq.com/standard-attributes/ and the API's limits: 1 MB for one log, more is cut in silence.
"""

from __future__ import annotations

import re
from typing import Any, Final

from ..errors import ConfigError
from .ecs import custom
from .facts import Record, address, content, host, level, message, micros, operation, resource_name, severity, verb
from .findings import finding
from .place import Place
from .text import compact, sentence, shortened, to_json, without_nothing

_STATUSES: Final = ("info", "notice", "warning", "error", "critical")


def item(record: Record, place: Place | None = None, tags: str | None = None) -> dict[str, Any]:
    """One item, with further tags as Datadog writes them. ``timestamp`` is in ms, ``duration`` in ns, as it wants."""
    service, request, trace, ip = record["service"], record["request"], record["trace"], record["initiator_ip"]
    seen = finding(record)
    user = record["user_id"] if seen is None or seen.user is None else seen.user
    category = verb(record) if seen is None else "finding"
    found = {
        "message": message(record),
        "ddsource": "audit_middleware",
        "service": service["name"],
        "hostname": host(record),
        "status": _STATUSES[level(record)],
        "timestamp": micros(record["timestamp"]) // 1000,
        "ddtags": ",".join([*_tags(record), *([tags] if tags else [])]),
        "dd": {"trace_id": trace["trace_id"], "span_id": trace["span_id"], "env": service["environment"],
               "version": service["version"]},
        "usr": {"id": user, "roles": record["subject"]["roles"], "tenant": record["subject"]["tenant"]},
        "evt": {"name": operation(record), "outcome": record["outcome"] or "intent", "category": category},
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
            **custom(record, place),
            "id": record["action_id"],
            "event": record["event"],
            "reason": record["reason"],
            "recorded_at": record["recorded_at"],
            "sequence": record["sequence"],
            "instance": service["instance"],
            "target": resource_name(record),
            "rule": record["decision"]["rule"] if seen is None else seen.rule,
            "policy_digest": record["decision"]["policy_digest"],
            "flags": record["flags"],
            "request_body": compact(content(request)),
            "response_body": compact(content(record["response"])),
        },
    }  # fmt: skip
    return without_nothing(found)


def encode(record: Record, place: Place | None = None, tags: str | None = None) -> bytes:
    """One item as JSON."""
    return to_json(item(record, place, tags))


def check_tags(tags: str) -> None:
    """Raises `ConfigError` for tags that are none."""
    if not re.fullmatch(r"[^\s,]+(,[^\s,]+)*", tags):
        raise ConfigError(f"{tags[:64]!r} are no tags, such as env:production,team:billing")


def _tags(record: Record) -> list[str]:
    """Tags are a list with commas: what stands in one must not make two."""
    known = {"kind": record["kind"], "severity": severity(record), "env": record["service"]["environment"]}
    return [f"{name}:{_tag(value)}" for name, value in known.items() if value]


def _tag(value: str) -> str:
    return sentence(shortened(value, 128)).replace(",", "_").replace(":", "_")

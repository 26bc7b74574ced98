"""OpenTelemetry log records, in the JSON encoding of OTLP: each line is one ``LogsData`` with one record.

Attributes have OpenTelemetry's names where there are any, stable or in development, and ``audit.*`` otherwise; the
name of the event stands in the record's own field. Integers are text and ids hexadecimal, as OTLP/JSON demands.

Source: https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding and the OTLP file exporter.
"""

from __future__ import annotations

import re
from typing import Any, Final

from .facts import LEVELS, VENDOR, Record, content, host, message, micros, operation, severity
from .place import Place
from .text import compact, to_json

_SEVERITIES: Final = (9, 10, 13, 17, 21)  # INFO, INFO2, WARN, ERROR, FATAL
_TRACE, _SPAN = re.compile(r"(?!0+\Z)[0-9a-f]{32}\Z"), re.compile(r"(?!0+\Z)[0-9a-f]{16}\Z")


def log_record(record: Record, place: Place | None = None) -> dict[str, Any]:
    """One ``LogRecord``."""
    trace = record["trace"]
    found: dict[str, Any] = {
        "timeUnixNano": str(micros(record["timestamp"]) * 1000),
        "observedTimeUnixNano": str(micros(record["recorded_at"]) * 1000),
        "severityNumber": _SEVERITIES[LEVELS[severity(record)]],
        "severityText": severity(record),
        "eventName": record["event"] or operation(record),
        "body": {"stringValue": message(record)},
        "attributes": attributes(_known(record, place)),
    }
    if _TRACE.match(trace["trace_id"] or ""):
        found["traceId"] = trace["trace_id"]
        if _SPAN.match(trace["span_id"] or ""):
            found["spanId"] = trace["span_id"]
    return found


def resource(record: Record) -> dict[str, Any]:
    """The ``Resource``: the process that wrote the record."""
    service = record["service"]
    known = {
        "service.name": service["name"],
        "service.version": service["version"],
        "service.instance.id": service["instance"],
        "deployment.environment.name": service["environment"],
        "host.name": host(record),
    }
    return {"attributes": attributes(known)}


def logs_data(record: Record, place: Place | None = None) -> dict[str, Any]:
    """One ``LogsData``, which is an ``ExportLogsServiceRequest`` as well."""
    scope = {"scope": {"name": VENDOR}, "logRecords": [log_record(record, place)]}
    return {"resourceLogs": [{"resource": resource(record), "scopeLogs": [scope]}]}


def encode(record: Record, place: Place | None = None) -> bytes:
    """One line of JSON."""
    return to_json(logs_data(record, place))


def place_in(data: Any) -> tuple[Any, Any]:
    """Origin and index, as the attributes have them."""
    (line,) = data["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
    known = {one["key"]: one["value"] for one in line["attributes"]}
    return known["audit.log.origin"]["stringValue"], known["audit.log.index"]["intValue"]


def attributes(known: dict[str, Any]) -> list[dict[str, Any]]:
    """``KeyValue`` for each attribute that has a value."""
    return [{"key": name, "value": _any(value)} for name, value in known.items() if value not in (None, [])]


def _any(value: Any) -> dict[str, Any]:
    if isinstance(value, list):
        return {"arrayValue": {"values": [_any(one) for one in value]}}
    return {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}


def _known(record: Record, place: Place | None) -> dict[str, Any]:
    request, response = record["request"], record["response"]
    standard = {
        "log.record.uid": record["action_id"],
        "user.id": record["user_id"],
        "user.roles": record["subject"]["roles"],
        "session.id": record["subject"]["session"],
        "client.address": record["initiator_ip"],
        "user_agent.original": record["user_agent"],
        "http.request.method": request["method"],
        "http.route": request["route"],
        "http.request.body.size": request["size"],
        "http.response.status_code": response["status"],
        "http.response.body.size": response["size"],
        "url.path": request["path"],
        "url.query": request["query"],
        "error.type": response["error"],
    }
    where = {} if place is None else {"log.origin": place.origin, "log.index": place.index}
    return standard | {f"audit.{name}": value for name, value in (_ours(record) | where).items()}


def _ours(record: Record) -> dict[str, Any]:
    """What OpenTelemetry has no name for."""
    request, decision, trace = record["request"], record["decision"], record["trace"]
    subject, source = record["subject"], record["source"]
    return {
        "schema_version": record["schema_version"],
        "kind": record["kind"],
        "action": record["action"],
        "outcome": record["outcome"],
        "intent_id": record["intent_id"],
        "sequence": record["sequence"],
        "duration_us": record["duration_us"],
        "reason": record["reason"],
        "subject.type": subject["type"],
        "subject.tenant": subject["tenant"],
        "subject.properties": compact(subject["properties"]),
        "source.method": source["method"],
        "source.issuer": source["issuer"],
        "source.detail": source["detail"],
        "forwarded": record["forwarded"]["untrusted"],
        "resource.type": record["resource"]["type"],
        "resource.id": record["resource"]["id"],
        "resource.properties": compact(record["resource"]["properties"]),
        "decision.effect": decision["effect"],
        "decision.cause": decision["cause"],
        "decision.rule": decision["rule"],
        "decision.detail": decision["detail"],
        "decision.mode": decision["mode"],
        "decision.near_misses": decision["near_misses"],
        "decision.policy_digest": decision["policy_digest"],
        "request.digest": request["digest"],
        "request.body": compact(content(request)),
        "response.body": compact(content(record["response"])),
        "correlation_id": trace["correlation_id"],
        "request_id": trace["request_id"],
        "parent_span_id": trace["parent"],
        "impact": compact(record["impact"]),
        "flags": record["flags"],
        "extra": compact(record["extra"]),
    }

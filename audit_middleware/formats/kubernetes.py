"""An event of audit.k8s.io/v1, as a Kubernetes API server writes them to its audit log.

Source: https://kubernetes.io/docs/reference/config-api/apiserver-audit.v1/
"""

from __future__ import annotations

from typing import Any, Final

from .facts import VENDOR, Record, address, content, message, operation, verb
from .place import Place
from .text import compact, to_json, without_nothing

_PREFIX: Final = f"{VENDOR.replace('_', '-')}/"
_VERBS = {"create": "create", "read": "get", "update": "update", "delete": "delete"}


def event(record: Record, place: Place | None = None) -> dict[str, Any]:
    """One event. A body of free shape is kept as it is; annotations are text."""
    request, response = content(record["request"]), content(record["response"])
    level = "RequestResponse" if response is not None else "Request" if request is not None else "Metadata"
    ip = record["initiator_ip"]
    found = without_nothing(
        {
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "level": level,
            "auditID": record["action_id"],
            "stage": _stage(record),
            "verb": _verb(record),
            "sourceIPs": [ip] if address(ip) is not None else [],
            "userAgent": record["user_agent"],
            "objectRef": _object(record),
            "responseStatus": _status(record),
            "requestReceivedTimestamp": record["timestamp"],
            "stageTimestamp": record["recorded_at"],
            "annotations": _annotations(record, place),
        }
    )
    found |= {"requestURI": _uri(record), "user": _user(record)}
    if request is not None:
        found["requestObject"] = request
    if response is not None:
        found["responseObject"] = response
    return found


def encode(record: Record, place: Place | None = None) -> bytes:
    """One line of JSON."""
    return to_json(event(record, place))


def place_in(event: Any) -> tuple[Any, Any]:
    """Origin and index, as the annotations have them."""
    return event["annotations"][f"{_PREFIX}log-origin"], event["annotations"][f"{_PREFIX}log-index"]


def _stage(record: Record) -> str:
    if record["kind"] == "intent":
        return "RequestReceived"
    return "Panic" if record["outcome"] == "error" and record["response"]["error"] else "ResponseComplete"


def _verb(record: Record) -> str:
    kind = verb(record)
    return _VERBS[kind] if kind is not None else operation(record).rpartition(".")[2].lower()


def _uri(record: Record) -> str:
    path, query = record["request"]["path"], record["request"]["query"]
    return f"{path or ''}{'?' + query if query else ''}"


def _user(record: Record) -> dict[str, Any]:
    subject, source = record["subject"], record["source"]
    extra = {
        "type": subject["type"],
        "tenant": subject["tenant"],
        "session": subject["session"],
        "method": source["method"],
        "issuer": source["issuer"],
        "properties": compact(subject["properties"]),
    }
    found = {
        "username": record["user_id"],
        "uid": record["user_id"],
        "groups": subject["roles"],
        "extra": {name: [value] for name, value in extra.items() if value is not None},
    }
    return without_nothing(found)


def _object(record: Record) -> dict[str, Any]:
    resource = record["resource"]
    namespace = record["subject"]["tenant"] if resource["type"] or resource["id"] else None
    return {"resource": resource["type"], "name": resource["id"], "namespace": namespace}


def _status(record: Record) -> dict[str, Any] | None:
    if record["outcome"] is None:
        return None
    ok = record["outcome"] == "success"
    return {
        "status": "Success" if ok else "Failure",
        "code": record["response"]["status"],
        "reason": None if ok else record["outcome"],
        "message": None if ok else message(record),
        "metadata": None,
    }


def _annotations(record: Record, place: Place | None) -> dict[str, str | None]:
    decision, service, trace = record["decision"], record["service"], record["trace"]
    known: dict[str, str | None] = {
        "action": record["action"],
        "event": record["event"],
        "kind": record["kind"],
        "outcome": record["outcome"],
        "severity": record["severity"],
        "reason": record["reason"],
        "effect": decision["effect"],
        "cause": decision["cause"],
        "mode": decision["mode"],
        "detail": decision["detail"],
        "rule": decision["rule"],
        "policy-digest": decision["policy_digest"],
        "service": service["name"],
        "service-version": service["version"],
        "environment": service["environment"],
        "instance": service["instance"],
        "sequence": str(record["sequence"]),
        "schema-version": str(record["schema_version"]),
        "duration-us": None if record["duration_us"] is None else str(record["duration_us"]),
        "error": record["response"]["error"],
        "intent-id": record["intent_id"],
        "trace-id": trace["trace_id"],
        "correlation-id": trace["correlation_id"],
        "request-id": trace["request_id"],
        "method": record["request"]["method"],
        "route": record["request"]["route"],
        "request-digest": record["request"]["digest"],
        "flags": compact(record["flags"]),
        "forwarded": compact(record["forwarded"]["untrusted"]),
        "near-misses": compact(decision["near_misses"]),
        "resource-properties": compact(record["resource"]["properties"]),
        "impact": compact(record["impact"]),
        "extra": compact(record["extra"]),
        "log-origin": None if place is None else place.origin,
        "log-index": None if place is None else str(place.index),
    }
    found = {f"{_PREFIX}{name}": value for name, value in known.items()}
    if decision["effect"] != "not_applicable":
        found["authorization.k8s.io/decision"] = "forbid" if decision["effect"] == "deny" else "allow"
        found["authorization.k8s.io/reason"] = decision["rule"] or decision["cause"]
    return found

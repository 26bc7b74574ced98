"""OCSF 1.8: API Activity (6003), Account Change (3001), User Access Management (3005) and, of what a detector found,
Detection Finding (2004); profiles security_control and, for API Activity, trace.

`identities` decides which class any other record is. With ``integrity`` the event says version 1.9.0-dev and has the
profile record_integrity: the SHA-256 of this event's own canonical form (RFC 8785), without the fingerprint itself.
That form of OCSF is unreleased; the proof of a record is the log, not the fingerprint.

Source: https://schema.ocsf.io/1.8.0
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from .detection import LEFT_OUT, detection
from .facts import (
    VENDOR,
    Record,
    address,
    content,
    message,
    millis,
    operation,
    refused,
    resource_name,
    severity,
    succeeded,
    verb,
)
from .findings import finding
from .identities import ACCESS_ACTIVITIES, ACCOUNT_ACTIVITIES, Change, change
from .place import Place, shown
from .text import canonical, is_cut, shortened, to_json, without_nothing

VERSION, INTEGRITY_VERSION = "1.8.0", "1.9.0-dev"
_SEVERITIES = {"info": 1, "low": 2, "medium": 3, "high": 4, "critical": 5}
_VERBS = {"create": 1, "read": 2, "update": 3, "delete": 4}
_USER_TYPES = {"user": 1, "admin": 2, "system": 3, "service": 4}
_METHODS = frozenset(("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"))
_RULES = {"allow": (1, 1), "deny": (2, 2), "observed": (3, 17), "not_applicable": (99, 16)}
"""Of a decision: action_id and disposition_id (Allowed, Blocked, Logged, No Action)."""
_SHA256: Final = 3


def event(record: Record, place: Place | None = None, *, integrity: bool = False) -> dict[str, Any]:
    """One OCSF event."""
    made, seen = change(record), finding(record)
    found = _base(record, place)
    if seen is not None:
        found = {name: value for name, value in found.items() if name not in LEFT_OUT} | detection(record, seen)
    else:
        found |= _api(record) if made is None else _iam(record, made)
    profiles = ["security_control"]
    if made is None and seen is None and record["trace"]["trace_id"]:
        profiles.append("trace")
        found["trace"] = {"uid": record["trace"]["trace_id"]}
    found["metadata"]["profiles"] = profiles
    found = _complete(found)
    return _attested(found, record) if integrity else found


def encode(record: Record, place: Place | None = None) -> bytes:
    """One line of JSON."""
    return to_json(event(record, place))


def encode_with_integrity(record: Record, place: Place | None = None) -> bytes:
    """One line of JSON, with the unreleased profile record_integrity."""
    return to_json(event(record, place, integrity=True))


def _base(record: Record, place: Place | None) -> dict[str, Any]:
    decision, service = record["decision"], record["service"]
    ok = succeeded(record)
    effect = "observed" if decision["effect"] == "deny" and decision["mode"] == "monitor" else decision["effect"]
    action, disposition = _RULES[effect]
    return {
        "time": millis(record["timestamp"]),
        "duration": None if record["duration_us"] is None else record["duration_us"] // 1000,
        "severity_id": _SEVERITIES[severity(record)],
        "status_id": 0 if ok is None else 1 if ok else 2,
        "status_code": None if record["response"]["status"] is None else str(record["response"]["status"]),
        "status_detail": record["outcome"] or "intent",
        "action_id": action,
        "disposition_id": disposition,
        "message": message(record),
        "metadata": {
            "version": VERSION,
            "uid": record["action_id"],
            "event_code": record["event"],
            "product": {
                "name": service["name"],
                "version": service["version"],
                "vendor_name": VENDOR,
                "feature": None if service["environment"] is None else {"name": service["environment"]},
            },
            "log_name": VENDOR,
            "log_version": str(record["schema_version"]),
            "log_source": service["instance"],
            "sequence": record["sequence"],
            "logged_time": millis(record["recorded_at"]),
            "correlation_uid": record["trace"]["correlation_id"],
            "original_event_uid": record["intent_id"],
            "tenant_uid": record["subject"]["tenant"],
            "labels": record["flags"],
            "is_truncated": True if is_cut(record["request"]["path"]) or is_cut(record["reason"]) else None,
        },
        "actor": _actor(record),
        "src_endpoint": _source(record),
        "policy": _policy(record, applied=effect != "observed"),
        "http_request": _http_request(record),
        "http_response": None if record["response"]["status"] is None else {"code": record["response"]["status"]},
        "unmapped": {
            "log": shown(place),
            "kind": record["kind"],
            "reason": record["reason"],
            "impact": record["impact"],
            "extra": record["extra"],
            "subject": record["subject"]["properties"],
            "source": record["source"],
            "forwarded": record["forwarded"]["untrusted"],
            "near_misses": decision["near_misses"],
            "request_digest": record["request"]["digest"],
        },
    }


def _api(record: Record) -> dict[str, Any]:
    request, kind = record["request"], verb(record)
    activity = 99 if kind is None else _VERBS[kind]
    resource = record["resource"]
    return {
        "class_uid": 6003,
        "category_uid": 6,
        "activity_id": activity,
        "activity_name": operation(record) if activity == 99 else None,
        "type_uid": 600300 + activity,
        "api": {
            "operation": operation(record),
            "service": {"name": record["service"]["name"], "version": record["service"]["version"]},
            "request": {
                "uid": record["trace"]["request_id"] or record["action_id"],
                "data": content(request),
            },
            "response": {
                "code": record["response"]["status"],
                "error": record["response"]["error"],
                "error_message": _why(record) if refused(record) else None,
                "data": content(record["response"]),
            },
        },
        "resources": [
            {
                "name": resource_name(record) if resource["id"] is None else None,
                "uid": resource["id"],
                "type": resource["type"],
                "data": resource["properties"] or None,
            }
        ]
        if resource_name(record)
        else None,
    }


def _iam(record: Record, made: Change) -> dict[str, Any]:
    user = {"name": made.target or "unknown"}
    if made.target is not None:
        user["uid"] = made.target
    common = {"category_uid": 3, "user": user}
    if made.kind == "account_change":
        activity = ACCOUNT_ACTIVITIES[made.activity]
        named = {"class_uid": 3001, "type_uid": 300100 + activity}
        return common | named | {"activity_id": activity, "activity_name": _other(record, activity)}
    activity = ACCESS_ACTIVITIES[made.activity]
    resource = record["resource"]
    return common | {
        "class_uid": 3005,
        "activity_id": activity,
        "activity_name": _other(record, activity),
        "type_uid": 300500 + activity,
        "privileges": list(made.privileges),
        "resource": {"uid": resource["id"], "type": resource["type"]} if resource["id"] is not None else None,
    }


def _other(record: Record, activity: int) -> str | None:
    return operation(record) if activity == 99 else None


def _actor(record: Record) -> dict[str, Any]:
    subject, source, decision = record["subject"], record["source"], record["decision"]
    kind = _USER_TYPES.get(subject["type"], 99)
    return {
        "user": {
            "uid": record["user_id"] or "unknown",
            "name": record["user_id"],
            "type_id": kind,
            "type": subject["type"] if kind == 99 else None,
            "groups": [{"name": role} for role in subject["roles"] if role],
        },
        "session": {"uid": subject["session"], "issuer": source["issuer"]} if subject["session"] else None,
        "idp": {"name": source["method"], "issuer": source["issuer"]} if source["issuer"] else None,
        "authorizations": [{"decision": decision["effect"], "policy": _rule(record)}],
    }


def _rule(record: Record) -> dict[str, Any]:
    return {"name": record["decision"]["rule"] or record["decision"]["cause"], "desc": record["decision"]["detail"]}


def _policy(record: Record, *, applied: bool) -> dict[str, Any] | None:
    digest = record["decision"]["policy_digest"]
    return None if digest is None else {**_rule(record), "uid": digest, "is_applied": applied}


def _why(record: Record) -> str | None:
    decision = record["decision"]
    said = decision["rule"] or decision["cause"]
    return f"{said}: {decision['detail']}" if decision["detail"] else str(said)


def _source(record: Record) -> dict[str, Any]:
    """Where it came from; what no request asked for came from the service itself."""
    ip = record["initiator_ip"]
    if address(ip) is not None:
        return {"ip": ip}
    if ip:
        return {"name": shortened(ip, 256)}
    if record["request"]["protocol"] is not None:
        return {"name": "unknown"}
    return {"svc_name": record["service"]["name"] or "unknown", "instance_uid": record["service"]["instance"]}


def _http_request(record: Record) -> dict[str, Any] | None:
    request = record["request"]
    if request["protocol"] is None:
        return None
    return {
        "uid": record["trace"]["request_id"],
        "http_method": request["method"] if request["method"] in _METHODS else None,
        "url": {"path": request["path"], "query_string": request["query"]} if request["path"] else None,
        "user_agent": record["user_agent"],
        "body_length": request["size"],
        "http_headers": [{"name": name, "value": value} for name, value in request["headers"].items() if name],
    }


def _complete(found: dict[str, Any]) -> dict[str, Any]:
    """Without what is unknown; what is required stays, however empty. Content of free shape is kept as it is."""
    free = {name: value for name, value in found.pop("unmapped").items() if value not in (None, {}, [])}
    bodies = {}
    for part in ("request", "response") if "api" in found else ():
        bodies[part] = found["api"][part].pop("data")
    data = found["resources"][0].pop("data") if found.get("resources") else None
    made = without_nothing(found) | {"unmapped": free}
    if made["class_uid"] == 3005:
        made.setdefault("privileges", [])
    for part, value in bodies.items():
        if value is not None:
            made["api"].setdefault(part, {})["data"] = value
    if data is not None:
        made["resources"][0]["data"] = data
    _prune_lists(made)
    return made


def _prune_lists(made: dict[str, Any]) -> None:
    for holder, name in ((made, "resources"), (made.get("actor", {}), "authorizations")):
        if name in holder:
            holder[name] = [without_nothing(one) for one in holder[name]]


def _attested(found: dict[str, Any], record: Record) -> dict[str, Any]:
    found["metadata"]["version"] = INTEGRITY_VERSION
    found["metadata"]["profiles"].append("record_integrity")
    service = record["service"]
    attestation: dict[str, Any] = {"authority_uid": service["name"], "chain_uid": service["instance"]}
    found["attestation_list"] = [attestation]
    digest = hashlib.sha256(canonical(found)).hexdigest()
    attestation["fingerprint"] = {"algorithm_id": _SHA256, "algorithm": "SHA-256", "value": digest}
    return found

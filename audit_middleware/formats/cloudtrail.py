"""An audit event of a CloudTrail Lake channel: an element of ``auditEvents`` of PutAuditEvents.

The account that receives it is no part of a record: it is given. An event of more than 256 KB is refused; what is too
large here loses free content, which is counted in ``additionalEventData.dropped_bytes``, and long text.

Source: https://docs.aws.amazon.com/awscloudtrail/latest/userguide/query-integration-event-schema.html
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any, Final

from ..errors import ConfigError
from .facts import Record, address, content, operation, resource_name
from .text import bounded, to_json, without_nothing

LIMIT: Final = 256 * 1024
ACCOUNT: Final = "000000000000"
_TYPES = {"user": "User", "service": "Service", "system": "System", "anonymous": "Anonymous"}
_ERRORS = {"denied": "AccessDenied", "failure": "ClientError", "error": "ServerError", "aborted": "Aborted"}
_TEXT, _SHORT = 2048, 256  # bytes of any one text; the second where the event is too large


def check_account(account: str) -> None:
    """Raises `ConfigError` if an account is not twelve digits."""
    if not re.fullmatch(r"[0-9]{12}", account):
        raise ConfigError(f"an AWS account has twelve digits, not {account[:32]!r}")


def event_data(record: Record, account: str = ACCOUNT) -> dict[str, Any]:
    """The event itself."""
    ip, user = record["initiator_ip"], record["user_id"] or "unknown"
    found = {
        "version": "1.0",
        "userIdentity": {
            "type": _TYPES.get(record["subject"]["type"], record["subject"]["type"] or "Unknown"),
            "principalId": user,
            "details": _subject(record),
        },
        "userAgent": record["user_agent"],
        "eventSource": record["service"]["name"] or "unknown",
        "eventName": operation(record),
        "eventTime": f"{record['timestamp'][:19]}Z",
        "UID": record["action_id"],
        "requestParameters": _request(record),
        "responseElements": {"status": record["response"]["status"], "size": record["response"]["size"]},
        "errorCode": _ERRORS.get(record["outcome"] or "success"),
        "errorMessage": _why(record),
        "sourceIPAddress": ip if address(ip) is not None else None,
        "recipientAccountId": account,
        "additionalEventData": _additional(record),
    }
    made: dict[str, Any] = bounded(without_nothing(found), _TEXT)
    for part, name, value in _free(record):  # as they are: what is null in them says something
        if value not in (None, {}, []):
            inner = made.setdefault(part, {})
            (inner.setdefault("details", {}) if part == "userIdentity" else inner)[name] = value
    return made


def audit_event(record: Record, account: str = ACCOUNT) -> dict[str, str]:
    """``id``, ``eventData`` (JSON text) and ``eventDataChecksum`` (base64 of its SHA-256)."""
    found = event_data(record, account)
    data = to_json(found)
    if len(data) > LIMIT:
        data = to_json(_smaller(found, record))
    checksum = base64.b64encode(hashlib.sha256(data).digest()).decode()
    return {"id": record["action_id"], "eventData": data.decode(), "eventDataChecksum": checksum}


def encode(record: Record, account: str = ACCOUNT) -> bytes:
    """One element as JSON."""
    return to_json(audit_event(record, account))


def _subject(record: Record) -> dict[str, Any]:
    subject, source = record["subject"], record["source"]
    return {
        "roles": subject["roles"][:64],
        "tenant": subject["tenant"],
        "session": subject["session"],
        "method": source["method"],
        "issuer": source["issuer"],
    }


def _request(record: Record) -> dict[str, Any]:
    request = record["request"]
    return {
        "resource": resource_name(record),
        "method": request["method"],
        "route": request["route"],
        "path": request["path"],
        "query": request["query"],
    }


def _why(record: Record) -> str | None:
    decision = record["decision"]
    if record["outcome"] == "denied" or decision["effect"] == "deny":
        said = [decision["rule"] or decision["cause"], decision["detail"]]
        return ": ".join(str(one) for one in said if one)
    error = record["response"]["error"]
    return None if error is None else str(error)


def _additional(record: Record) -> dict[str, Any]:
    decision, service, trace = record["decision"], record["service"], record["trace"]
    return {
        "kind": record["kind"],
        "event": record["event"],
        "severity": record["severity"],
        "outcome": record["outcome"],
        "reason": record["reason"],
        "timestamp": record["timestamp"],
        "recorded_at": record["recorded_at"],
        "duration_us": record["duration_us"],
        "sequence": record["sequence"],
        "schema_version": record["schema_version"],
        "intent_id": record["intent_id"],
        "service": {"version": service["version"], "instance": service["instance"], "env": service["environment"]},
        "decision": {name: decision[name] for name in ("effect", "cause", "rule", "mode", "policy_digest")},
        "trace_id": trace["trace_id"],
        "correlation_id": trace["correlation_id"],
        "request_id": trace["request_id"],
        "request_digest": record["request"]["digest"],
        "forwarded": record["forwarded"]["untrusted"][:32],
        "flags": record["flags"][:32],
    }


def _free(record: Record) -> tuple[tuple[str, str, Any], ...]:
    """Content of free shape: the part of the event it goes into, its name there, and what it is."""
    return (
        ("userIdentity", "properties", record["subject"]["properties"]),
        ("requestParameters", "body", content(record["request"])),
        ("additionalEventData", "impact", record["impact"]),
        ("additionalEventData", "extra", record["extra"]),
    )


def _smaller(found: dict[str, Any], record: Record) -> dict[str, Any]:
    """The same event without content of free shape and with shorter text; how many bytes were dropped is said."""
    dropped = {}
    for part, name, value in _free(record):
        inner = found.get(part, {})
        inner = inner.get("details", {}) if part == "userIdentity" else inner
        if inner.pop(name, None) is not None:
            dropped[name] = len(to_json(value))
    made: dict[str, Any] = bounded(found, _SHORT)
    made["additionalEventData"]["dropped_bytes"] = dropped
    return made

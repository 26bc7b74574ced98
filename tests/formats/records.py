"""Records of different kinds: what the golden files are made of. Values are fixed; nothing is read or random."""

from __future__ import annotations

import copy
from typing import Any

from audit_middleware.schema import Record as RecordModel

Record = dict[str, Any]
INSTANCE = "web-1:4242:9f3c21aa"
DIGEST = "sha256:7d1a54127b222502f5b79b5fb0803061152a44f92b37e23c6527baf665d4da9a"


def action_id(number: int) -> str:
    """A UUIDv7 of 2026-11-22."""
    return f"019aab{number:02x}-0c00-7000-8000-{number:012x}"


_TRACE: dict[str, Any] = {
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "span_id": "00f067aa0ba902b7",
    "parent": "b7ad6b7169203331",
    "correlation_id": "case-4711",
    "request_id": "req-77",
    "client_correlation_id": None,
    "client_request_id": None,
}


_REQUEST: dict[str, Any] = {
    "protocol": "http",
    "method": "DELETE",
    "route": "/v1/invoices/{invoice_id}",
    "path": "/v1/invoices/1001",
    "path_params": {"invoice_id": "1001"},
    "query": "notify=yes",
    "headers": {"accept": "application/json"},
    "size": 0,
    "digest": None,
    "body": None,
}


_DECISION: dict[str, Any] = {
    "effect": "allow",
    "cause": "rule",
    "rule": "owner-clerk",
    "near_misses": [],
    "policy_digest": DIGEST,
    "mode": "enforce",
    "detail": None,
    "inputs": None,
}


def _base(number: int) -> Record:
    return {
        "schema_version": 1,
        "action_id": action_id(number),
        "timestamp": f"2026-11-22T10:15:{number:02d}.123456Z",
        "recorded_at": f"2026-11-22T10:15:{number:02d}.130001Z",
        "duration_us": 6021,
        "kind": "outcome",
        "intent_id": None,
        "sequence": number,
        "service": {"name": "billing", "version": "3.2.0", "instance": INSTANCE, "environment": "production"},
        "action": "invoice.delete",
        "event": "INVOICE_DELETED",
        "severity": "high",
        "user_id": "ann",
        "subject": {
            "type": "user",
            "roles": ["clerk", "approver"],
            "tenant": "north",
            "session": "s-81",
            "properties": {"department": "finance"},
        },
        "source": {"method": "jwt", "issuer": "https://login.example.com", "detail": None},
        "initiator_ip": "192.0.2.17",
        "forwarded": {"untrusted": ["198.51.100.9"], "header": "x-forwarded-for"},
        "user_agent": "Mozilla/5.0 (X11; Linux x86_64)",
        "resource": {"type": "invoice", "id": "1001", "properties": {"state": "open"}},
        "reason": "OPS-12: created twice",
        "impact": {"before": {"state": "open"}, "after": None, "count": 1},
        "decision": _DECISION,
        "outcome": "success",
        "request": _REQUEST,
        "response": {"status": 204, "size": 0, "error": None, "body": None},
        "trace": _TRACE,
        "flags": [],
        "extra": {},
    }


def _made(number: int, **changes: Any) -> Record:
    """The base with some members replaced; a mapping is merged into the one that is there."""
    record = copy.deepcopy(_base(number))
    for name, value in changes.items():
        merged = isinstance(value, dict) and isinstance(record[name], dict) and name not in ("impact", "extra")
        record[name] = record[name] | value if merged else value
    RecordModel.model_validate(record)
    return record


_NOBODY: dict[str, Any] = {"type": "anonymous", "roles": [], "tenant": None, "session": None, "properties": {}}
_NO_REQUEST = dict.fromkeys(("protocol", "method", "route", "path", "query", "size", "digest", "body")) | {
    "path_params": {},
    "headers": {},
}
_NO_RESPONSE = dict.fromkeys(("status", "size", "error", "body"))
_NO_TRACE = dict.fromkeys(("trace_id", "span_id", "parent", "correlation_id", "request_id"))
_CONTROL: dict[str, Any] = {
    "kind": "control",
    "duration_us": None,
    "user_id": "system",
    "subject": _NOBODY | {"type": "system"},
    "source": {"method": "system", "issuer": None, "detail": None},
    "initiator_ip": None,
    "forwarded": {"untrusted": [], "header": None},
    "user_agent": None,
    "resource": {"type": None, "id": None, "properties": {}},
    "reason": None,
    "impact": None,
    "decision": {"effect": "not_applicable", "cause": "no_route", "rule": None, "policy_digest": None},
    "request": _NO_REQUEST,
    "response": _NO_RESPONSE,
    "trace": _NO_TRACE,
}
_HOSTILE = 'eve\n<!channel> CEF:0|x|y|\u2028suser=root\\ "] [x@1 a="b"]\t\x00\x1b[31m\u202e\''

RECORDS: dict[str, Record] = {
    "allowed": _made(1),
    "denied": _made(
        2,
        decision={"effect": "deny", "cause": "default", "rule": None, "near_misses": ["owner-clerk: roles"]},
        outcome="denied",
        response={"status": 403, "size": 47},
        reason=None,
        impact=None,
    ),
    "anonymous": _made(
        3,
        user_id="anonymous",
        subject=_NOBODY,
        source={"method": "none", "issuer": None},
        decision={"effect": "deny", "cause": "default", "rule": None},
        outcome="denied",
        initiator_ip="2001:db8::7",
        response={"status": 401, "size": 30},
        reason=None,
        impact=None,
        flags=["credential_refused"],
    ),
    "error": _made(
        4,
        action="report.read",
        event="REPORT_READ",
        severity="info",
        outcome="error",
        request={"method": "GET", "route": "/reports/{id}", "path": "/reports/7", "path_params": {"id": "7"}},
        resource={"type": "report", "id": "7", "properties": {}},
        response={"status": 500, "size": None, "error": "ZeroDivisionError"},
        reason=None,
        impact=None,
    ),
    "aborted": _made(5, action="export.download", event=None, severity="medium", outcome="aborted",
                     request={"method": "GET", "route": "/exports/{name}", "path": "/exports/2026.csv"},
                     response={"status": 200, "size": 65536}, impact=None, reason=None),
    "no_route": _made(
        6,
        action=None,
        event=None,
        severity="info",
        outcome="failure",
        decision={"effect": "not_applicable", "cause": "no_route", "rule": None},
        request={"method": "GET", "route": None, "path": "/wp-login.php", "path_params": {}, "query": None},
        resource={"type": None, "id": None, "properties": {}},
        response={"status": 404, "size": 22},
        reason=None,
        impact=None,
        initiator_ip=None,
        trace=_NO_TRACE,
    ),
    "intent": _made(7, kind="intent", outcome=None, duration_us=None, response=_NO_RESPONSE, impact=None),
    "monitor": _made(
        8,
        intent_id=action_id(7),
        decision={"effect": "deny", "cause": "limit", "mode": "monitor", "detail": "rate per subject"},
    ),
    "role_change": _made(
        9,
        action="user.set_roles",
        event="USER_ROLES_CHANGED",
        severity="critical",
        user_id="admin-1",
        subject={"type": "user", "roles": ["admin"], "properties": {}},
        resource={"type": "user", "id": "ben", "properties": {}},
        impact={"before": {"roles": ["viewer"]}, "after": {"roles": ["viewer", "admin"]}, "count": None},
        request={
            "method": "PUT",
            "route": "/users/{user}/roles",
            "path": "/users/ben/roles",
            "path_params": {"user": "ben"},
            "query": None,
            "size": 29,
            "digest": "9b1c",
            "body": {
                "content": {"roles": ["viewer", "admin"]},
                "content_type": "application/json",
                "size": 29,
                "truncated": False,
            },
        },
        response={
            "status": 200,
            "size": 11,
            "body": {"content": {"ok": True}, "content_type": "application/json", "size": 11, "truncated": False},
        },
    ),
    "account_created": _made(
        10,
        action="service_account.create",
        event="SERVICE_ACCOUNT_CREATED",
        user_id="deployer",
        subject={"type": "service", "roles": ["provisioner"], "session": None, "properties": {}},
        source={"method": "mtls", "issuer": None, "detail": "CN=deployer"},
        resource={"type": None, "id": None, "properties": {}},
        impact={"before": None, "after": {"name": "nightly-export", "role": "exporter"}, "count": 1},
        request={"method": "POST", "route": "/service-accounts", "path": "/service-accounts", "path_params": {}},
        response={"status": 201, "size": 40},
        reason=None,
        extra={"ocsf": "account_change:create", "ticket": "OPS-40"},
    ),
    "control": _made(
        11,
        **_CONTROL,
        action="audit.policy_loaded",
        event="AUDIT_POLICY_LOADED",
        severity="info",
        extra={"policy": "billing", "digest": DIGEST, "previous": None},
    ),
    "hostile": _made(
        12,
        action="customer.update",
        event="CUSTOMER_UPDATED",
        user_id=_HOSTILE,
        user_agent=_HOSTILE,
        reason=_HOSTILE,
        resource={"type": "customer", "id": _HOSTILE, "properties": {"note": _HOSTILE}},
        initiator_ip=_HOSTILE,
        request={"method": "PATCH", "route": "/customers/{id}", "path": f"/customers/{_HOSTILE}", "query": "a=b|c"},
        impact={"before": {"name": _HOSTILE}, "after": {"name": "x" * 500}, "count": None},
        trace={"correlation_id": _HOSTILE},
        extra={"note": _HOSTILE},
    ),
    "finding": _made(
        13,
        **_CONTROL,
        action="audit.finding",
        event="AUDIT_FINDING",
        severity="medium",
        extra={
            "finding_id": "f-019aab0d-1",
            "rule": "denial-burst",
            "title": "Many denials of one user",
            "level": "high",
            "dimension": "denials",
            "group": {"user_id": "ann", "tenant": "north"},
            "observed": 41,
            "baseline": "3 a day",
            "window_s": 300,
            "first": "2026-11-22T10:10:00.250000Z",
            "last": "2026-11-22T10:15:12Z",
            "evidence": [1801, 1803, 1809],
            "evidence_count": 41,
            "user_id": "ann",
            "respond": None,
        },
    ),
    "finding_bare": _made(
        14, **_CONTROL, action="audit.finding", event="AUDIT_FINDING", severity="high", extra={}
    ),
}  # fmt: skip

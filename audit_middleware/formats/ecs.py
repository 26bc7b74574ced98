"""Elastic Common Schema 9.4: one document per record, for a data stream ``logs-*``.

Content of free shape (bodies, annotations, what changed) is JSON text below ``audit``: as objects their members would
be fields of the index, of any number and of clashing types.

Source: https://www.elastic.co/docs/reference/ecs
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from ..errors import ConfigError
from .facts import LEVELS, VENDOR, Record, address, content, host, message, severity, succeeded, verb
from .findings import Finding, finding
from .identities import change
from .place import Place, shown
from .text import compact, shortened, to_json, without_nothing

VERSION: Final = "9.4.0"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
DATASET: Final = "audit_middleware.records"
_TYPES = {"create": "creation", "read": "access", "update": "change", "delete": "deletion"}
_STREAM = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_NOT_IN_NAMESPACE = re.compile(r'[\\/*?"<>| ,#:\-\x00-\x1f\x7f]+')


def document(record: Record, place: Place | None = None, stream: str | None = None) -> dict[str, Any]:
    """One document, for the data stream of this name."""
    ip, trace, request = record["initiator_ip"], record["trace"], record["request"]
    made = change(record)
    valid_ip = ip if address(ip) is not None else None
    seen = finding(record)
    user = record["user_id"] if seen is None or seen.user is None else seen.user
    parts = {"type": "logs", "dataset": DATASET, "namespace": namespace(record)} if stream is None else _parts(stream)
    found = {
        "@timestamp": record["timestamp"],
        "ecs": {"version": VERSION},
        "message": message(record),
        "data_stream": parts,
        "event": _event(record, parts["dataset"], iam=made is not None) | _alert(seen),
        "user": {
            "id": user,
            "name": user,
            "roles": record["subject"]["roles"],
            "target": {"id": made.target} if made is not None else None,
            "changes": {"roles": list(made.privileges)} if made is not None else None,
        },
        "organization": {"id": record["subject"]["tenant"]},
        "source": {"address": None if ip is None else shortened(ip, 256), "ip": valid_ip},
        "client": {"address": None if ip is None else shortened(ip, 256), "ip": valid_ip},
        "related": {
            "user": _distinct(user, made.target if made is not None else None, record["user_id"]),
            "ip": _distinct(valid_ip),
        },
        "service": {
            "name": record["service"]["name"],
            "version": record["service"]["version"],
            "environment": record["service"]["environment"],
            "node": {"name": record["service"]["instance"]},
        },
        "host": {"name": host(record)},
        "rule": _rule(record, seen),
        "http": {
            "request": {
                "id": trace["request_id"],
                "method": request["method"],
                "body": {"bytes": request["size"], "content": compact(content(request))},
            },
            "response": {
                "status_code": record["response"]["status"],
                "body": {"bytes": record["response"]["size"], "content": compact(content(record["response"]))},
            },
        },
        "url": {"path": request["path"], "query": request["query"]},
        "user_agent": {"original": record["user_agent"]},
        "error": {"type": record["response"]["error"]},
        "trace": {"id": trace["trace_id"]},
        "span": {"id": trace["span_id"]},
        "tags": record["flags"],
        "audit": custom(record, place),
    }
    return without_nothing(found)


def encode(record: Record, place: Place | None = None, stream: str | None = None) -> bytes:
    """One line of JSON."""
    return to_json(document(record, place, stream))


def check_stream(stream: str) -> None:
    """Raises `ConfigError` if a data stream cannot have this name."""
    if not _STREAM.fullmatch(stream):
        raise ConfigError(f"{stream[:64]!r} is no data stream's name, such as logs-audit-default")


def _parts(stream: str) -> dict[str, str | None]:
    """A stream's mapping takes only its own parts; a name that has no three of them has none to say."""
    parts = stream.split("-")
    return dict(zip(("type", "dataset", "namespace"), parts if len(parts) == 3 else (None,) * 3, strict=True))


def _alert(seen: Finding | None) -> dict[str, Any]:
    if seen is None:
        return {}
    return {
        "kind": "alert",
        "category": ["intrusion_detection"],
        "type": ["info"],
        "outcome": "unknown",
        "start": _moment(seen.first),
        "end": _moment(seen.last),
    }


def _rule(record: Record, seen: Finding | None) -> dict[str, Any]:
    if seen is not None:
        return {"id": seen.rule, "name": seen.name, "category": seen.dimension}
    return {"name": record["decision"]["rule"], "ruleset": record["decision"]["policy_digest"]}


def _moment(millis: int | None) -> str | None:
    if millis is None:
        return None
    return (_EPOCH + timedelta(milliseconds=millis)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _found(seen: Finding | None) -> dict[str, Any] | None:
    """Of a finding what is searched; all of it is in ``extra``."""
    if seen is None:
        return None
    return {
        "id": seen.id,
        "rule": seen.rule,
        "dimension": seen.dimension,
        "group": compact(dict(seen.group)),
        "observed": seen.observed,
        "baseline": seen.baseline,
        "window_s": seen.window_s,
        "evidence_count": seen.count,
    }


def namespace(record: Record) -> str:
    """The data stream's namespace: the environment in the letters that Elasticsearch takes, else ``default``."""
    wanted = _NOT_IN_NAMESPACE.sub("_", (record["service"]["environment"] or "").lower())
    return shortened(wanted, 96) if wanted.strip("_.") else "default"


def _event(record: Record, dataset: str | None, *, iam: bool) -> dict[str, Any]:
    ok = succeeded(record)
    return {
        "kind": "event",
        "category": ["api", "iam"] if iam else ["api"],
        "type": _types(record, iam=iam),
        "outcome": "unknown" if ok is None else "success" if ok else "failure",
        "action": record["action"],
        "code": record["event"],
        "id": record["action_id"],
        "sequence": record["sequence"],
        "created": record["recorded_at"],
        "duration": None if record["duration_us"] is None else record["duration_us"] * 1000,
        "severity": LEVELS[severity(record)],
        "reason": record["reason"],
        "provider": record["service"]["name"],
        "module": VENDOR,
        "dataset": dataset,
    }


def _types(record: Record, *, iam: bool) -> list[str]:
    kind = verb(record)
    found = [_TYPES[kind] if kind else "info"]
    if record["kind"] == "intent":
        found.append("start")
    if record["decision"]["effect"] != "not_applicable":
        found.append("denied" if record["decision"]["effect"] == "deny" else "allowed")
    if iam:
        found.append("user")
    return found


def _distinct(*names: str | None) -> list[str]:
    return list(dict.fromkeys(name for name in names if name))


def custom(record: Record, place: Place | None = None) -> dict[str, Any]:
    """What there is no standard field for."""
    decision, request = record["decision"], record["request"]
    return {
        "log": shown(place),
        "kind": record["kind"],
        "outcome": record["outcome"],
        "severity": severity(record),
        "finding": _found(finding(record)),
        "intent_id": record["intent_id"],
        "schema_version": record["schema_version"],
        "subject": {
            "type": record["subject"]["type"],
            "session": record["subject"]["session"],
            "properties": compact(record["subject"]["properties"]),
        },
        "source": record["source"],
        "forwarded": record["forwarded"]["untrusted"],
        "resource": {
            "type": record["resource"]["type"],
            "id": record["resource"]["id"],
            "properties": compact(record["resource"]["properties"]),
        },
        "decision": {
            "effect": decision["effect"],
            "cause": decision["cause"],
            "detail": decision["detail"],
            "mode": decision["mode"],
            "near_misses": decision["near_misses"],
        },
        "request": {
            "protocol": request["protocol"],
            "route": request["route"],
            "path_params": compact(request["path_params"]),
            "headers": compact(request["headers"]),
            "digest": request["digest"],
        },
        "correlation_id": record["trace"]["correlation_id"],
        "parent": record["trace"]["parent"],
        "impact": compact(record["impact"]),
        "extra": compact(record["extra"]),
    }

"""Step 5: from facts to one canonical record. Redaction and truncation happen here, before anything is hashed.

Runs in the writer's thread, once per record. The shape is `audit_middleware.model.Record`; a test validates what is
built here against it. Whatever a client sent is bounded text by the time it is in a record, and a record that is too
large for an entry loses captured content, never its core.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from ..context import Correlation, clean, plain
from ..errors import RecordError
from ..ledger.canonical import encode
from ..model import SCHEMA_VERSION, Decision, Json, Subject
from ..privacy.redact import Redactor
from .facts import Capture, Facts, Intent
from .inputs import WITHHELD, inputs_part
from .offered import reason_of
from .statement import Statement, source_part

_PATH, _SHORT, _AGENT = 2048, 256, 512
_PROPERTIES = 4096
_BOUND = 8192  # of what is looked at for secrets, before it is cut to what is kept


@dataclass(frozen=True, slots=True)
class Service:
    """Which service writes. ``instance`` is one process: its ``sequence`` numbers are dense from 0."""

    name: str
    version: str | None
    instance: str
    environment: str | None


class Recorder:
    """Makes canonical bytes of facts. Pure but for what it is given; safe to use from any one thread at a time."""

    def __init__(self, service: Service, redactor: Redactor, properties: frozenset[str] = frozenset()) -> None:
        self._service = {
            "name": service.name,
            "version": service.version,
            "instance": service.instance,
            "environment": service.environment,
        }
        self.redactor = redactor
        self._properties = properties
        self._second = (-1, "")

    def encode(self, item: Facts | Intent | Statement, sequence: int, recorded_at_ns: int) -> bytes:
        """The entry for one item.

        Raises:
            RecordError: when even the bare record does not fit an entry.
        """
        if isinstance(item, Facts):
            record = self._request(item, sequence, recorded_at_ns)
        elif isinstance(item, Intent):
            record = self._intent(item, sequence, recorded_at_ns)
        else:
            record = self._statement(item, sequence, recorded_at_ns)
        for smaller in (_reduced, _bare):
            try:
                return encode(record)
            except RecordError:
                record = smaller(record)
        return encode(record)

    def unencodable(
        self, item: Facts | Intent | Statement, error: Exception, sequence: int, recorded_at_ns: int
    ) -> bytes:
        """The entry that stands for an item whose own record could not be built: nothing is lost in silence.

        Raises:
            RecordError: for an intent: a stand-in does not announce what is about to run, so it must not run.
        """
        if isinstance(item, Intent):
            raise RecordError(f"no intent record can be made: {type(error).__name__}")
        lost = Statement(
            item.action_id if isinstance(item, Statement) else item.notes.action_id,
            item.at_ns if isinstance(item, Statement) else item.arrived_ns,
            "audit.unencodable",
            "AUDIT_UNENCODABLE",
            "critical",
            {"error": type(error).__name__},
        )
        return encode(self._statement(lost, sequence, recorded_at_ns))

    # --- a request -----------------------------------------------------------------------------------------------

    def _request(self, facts: Facts, sequence: int, recorded_at_ns: int) -> dict[str, Json]:
        notes, subject, headers = facts.notes, facts.subject, facts.scope["headers"]
        record: dict[str, Json] = {
            "schema_version": SCHEMA_VERSION,
            "action_id": notes.action_id,
            "timestamp": self.timestamp(facts.arrived_ns),
            "recorded_at": self.timestamp(recorded_at_ns),
            "duration_us": max(0, facts.ended_ns - facts.started_ns) // 1000,
            "kind": "outcome",
            "intent_id": facts.intent_id,
            "sequence": sequence,
            "service": self._service,
            "action": facts.action.name if facts.action else None,
            "event": facts.event,
            "severity": facts.severity,
            "user_id": clean(subject.id, _SHORT),
            "subject": self._subject(subject),
            "source": source_part(subject),
            "initiator_ip": facts.initiator_ip,
            "forwarded": self.redactor.value(facts.forwarded or {"untrusted": [], "header": None}),
            "user_agent": self._user_agent(headers),
            "resource": self._resource(facts),
            "reason": self._text(notes.reason if notes.reason is not None else reason_of(headers)),
            "impact": self._impact(notes.impact),
            "decision": _decision(facts.decision),
            "outcome": facts.outcome,
            "request": self._request_part(facts, headers),
            "response": self._response_part(facts),
            "trace": self._trace(notes.correlation),
            "flags": [*facts.flags, *notes.flags],
            "extra": self.redactor.value(notes.extra),
        }
        if facts.action is not None:
            record["decision"]["inputs"] = inputs_part(facts, record, self.redactor)
        return record

    def _intent(self, intent: Intent, sequence: int, recorded_at_ns: int) -> dict[str, Json]:
        """What is known before the handler runs: no outcome, no response, no duration."""
        return self._request(intent.facts, sequence, recorded_at_ns) | {
            "action_id": intent.action_id,
            "kind": "intent",
            "intent_id": None,
            "duration_us": None,
            "outcome": None,
            "response": {"status": None, "size": None, "error": None, "body": None},
        }

    def _subject(self, subject: Subject) -> dict[str, Json]:
        kept = {key: value for key, value in subject.properties.items() if key in self._properties}
        return {
            "type": clean(subject.type, _SHORT),
            "roles": [clean(role, _SHORT) for role in subject.roles[:64]],
            "tenant": None if subject.tenant is None else clean(subject.tenant, _SHORT),
            "session": None if subject.session is None else clean(subject.session, _SHORT),
            "properties": self._bounded(kept, _PROPERTIES) if kept else {},
        }

    def _resource(self, facts: Facts) -> dict[str, Json]:
        noted = facts.notes.resource
        kind, name = noted.get("type", facts.resource.type), noted.get("id", facts.resource.id)
        if name is not None:
            # Made of path parameters, so that a secret one is in it as well.
            name = clean(self.redactor.path(name, facts.found.path_params if facts.found else None), _SHORT)
        return {
            "type": None if kind is None else clean(kind, _SHORT),
            "id": name,
            "properties": self.redactor.value(noted.get("properties", {})),
        }

    def _impact(self, impact: Mapping[str, Json] | None) -> Json:
        if impact is None:
            return None
        return {
            "before": self.redactor.value(impact.get("before")),
            "after": self.redactor.value(impact.get("after")),
            "count": impact.get("count"),
        }

    def _text(self, text: str | None) -> Json:
        return None if text is None else self.redactor.value(text)

    def _request_part(self, facts: Facts, headers: list[tuple[bytes, bytes]]) -> dict[str, Json]:
        scope, found, body = facts.scope, facts.found, facts.request_body
        params = plain(found.path_params, limit=_BOUND) if found and found.path_params else {}
        query = scope.get("query_string", b"")
        return {
            "protocol": facts.protocol,
            "method": clean(facts.method, 32),
            "route": found.template if found else None,
            "path": clean(self.redactor.path(scope["path"], params), _PATH),
            "path_params": self._bounded(params, _PATH) if params else {},
            "query": clean(self.redactor.query(query), _PATH) if query else None,
            "headers": self.redactor.headers(headers),
            "size": facts.request_size,
            **self._request_body(body),
        }

    def _response_part(self, facts: Facts) -> dict[str, Json]:
        status = facts.status
        if status is None and facts.error is not None and facts.protocol == "http":
            status = 500  # no response.start came through: the server answered for the application
        error = None if facts.error is None else clean(facts.error, _SHORT)
        return {"status": status, "size": facts.response_size, "error": error, "body": self._body(facts.response_body)}

    def _request_body(self, body: Capture | None) -> dict[str, Json]:
        """The body and its SHA-256; none where something in it was or may have been redacted: short secrets could be
        found again by trying."""
        part = self._body(body)
        digest = None
        if body is not None and body.complete:
            known = _unredacted(part["content"], body) if part["content"] is not None else None
            if known or (known is None and _is_opaque(body.content_type)):
                digest = body.digest.hexdigest()
        return {"digest": digest, "body": part}

    def _body(self, body: Capture | None) -> Json:
        if body is None:
            return None
        whole = body.complete and body.size == len(body.kept)
        kind = (body.content_type or "").partition(";")[0].strip().lower()
        content: Json = None
        if whole and body.size and (kind == "application/json" or kind.endswith("+json")):
            content = self._json(bytes(body.kept), body.limit)
        elif whole and body.size and kind == "application/x-www-form-urlencoded":
            content = clean(self.redactor.query(bytes(body.kept), limit=body.limit), max(body.limit, 3))
        kind_text = clean(body.content_type, _SHORT) if body.content_type else None
        return {"content": content, "content_type": kind_text, "size": body.size, "truncated": not whole}

    def _json(self, raw: bytes, limit: int) -> Json:
        try:
            return plain(self.redactor.value(msgspec.json.decode(raw)), limit=max(limit, 64))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None  # malformed: its size and digest stand for it

    def _bounded(self, value: object, limit: int) -> Any:
        """Any value as redacted JSON. Cut last: half of a secret no longer looks like one."""
        return plain(self.redactor.value(plain(value, limit=_BOUND)), limit=limit)

    def _user_agent(self, headers: list[tuple[bytes, bytes]]) -> str | None:
        agent = next((value for name, value in headers if name == b"user-agent"), None)
        return None if agent is None else clean(self.redactor.text(clean(agent, _BOUND)), _AGENT)

    def _trace(self, correlation: Correlation) -> dict[str, Json]:
        return {
            "trace_id": correlation.trace_id,
            "span_id": correlation.span_id,
            "parent": correlation.parent,
            "correlation_id": correlation.correlation_id,
            "request_id": correlation.request_id,
            "client_correlation_id": self._text(correlation.client_correlation_id),
            "client_request_id": self._text(correlation.client_request_id),
        }

    # --- the log's own records -----------------------------------------------------------------------------------

    def _statement(self, item: Statement, sequence: int, recorded_at_ns: int) -> dict[str, Json]:
        record: dict[str, Json] = {
            "schema_version": SCHEMA_VERSION,
            "action_id": item.action_id,
            "timestamp": self.timestamp(item.at_ns),
            "recorded_at": self.timestamp(recorded_at_ns),
            "duration_us": None,
            "kind": "control",
            "intent_id": None,
            "sequence": sequence,
            "service": self._service,
            "action": item.action,
            "event": item.event,
            "severity": item.severity,
            "user_id": "system",
            "subject": {"type": "system", "roles": [], "tenant": None, "session": None, "properties": {}},
            "source": {"method": "system", "issuer": None, "detail": None},
            "initiator_ip": None,
            "forwarded": {"untrusted": [], "header": None},
            "user_agent": None,
            "resource": {"type": None, "id": None, "properties": {}},
            "reason": None,
            "impact": None,
            "decision": _decision(Decision("not_applicable", "no_route")),
            "outcome": "success",
            "request": {
                "protocol": None,
                "method": None,
                "route": None,
                "path": None,
                "path_params": {},
                "query": None,
                "headers": {},
                "size": None,
                "digest": None,
                "body": None,
            },
            "response": {"status": None, "size": None, "error": None, "body": None},
            "trace": {
                "trace_id": None,
                "span_id": None,
                "parent": None,
                "correlation_id": None,
                "request_id": None,
                "client_correlation_id": None,
                "client_request_id": None,
            },
            "flags": [],
            "extra": dict(item.extra or {}),
        }
        record |= item.fields or {}
        for name in ("resource", "reason", "impact", "extra"):
            record[name] = self.redactor.value(record[name])
        record["extra"] |= item.verbatim or {}
        return record

    def timestamp(self, ns: int) -> str:
        """RFC 3339 UTC with microseconds. The text of the running second is kept: most records share it."""
        seconds, rest = divmod(ns, 1_000_000_000)
        if self._second[0] != seconds:
            self._second = (seconds, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)))
        return f"{self._second[1]}.{rest // 1000:06d}Z"


def _unredacted(content: Json, body: Capture) -> bool:
    """Is the recorded content all of the body, with nothing redacted?"""
    raw = bytes(body.kept)
    if isinstance(content, str) and not raw.lstrip().startswith(b'"'):
        return content.encode() == raw  # a form
    return bool(content == plain(msgspec.json.decode(raw), limit=body.limit))


def _is_opaque(content_type: str | None) -> bool:
    """A body of which no part is ever recorded or redacted: images, archives, other binary data."""
    kind = (content_type or "").partition(";")[0].strip().lower()
    return kind.startswith(("image/", "audio/", "video/", "font/")) or kind in (
        "application/octet-stream", "application/pdf", "application/zip", "application/gzip",
    )  # fmt: skip


def wanted(facts: Facts) -> bool:
    """Is this request recorded? Everything is, but successful requests whose action says ``record: none`` and
    successful requests to exempt routes."""
    decision = facts.decision
    if facts.intent_id is not None:
        return True  # an intent without an outcome would say that we died
    quiet = decision.cause == "exempt" or (decision.effect == "allow" and facts.level == "none")
    return not quiet or facts.outcome != "success" or bool(facts.flags)


def _decision(decision: Decision) -> dict[str, Json]:
    return {
        "effect": decision.effect,
        "cause": decision.cause,
        "rule": decision.rule,
        "near_misses": [clean(miss, _SHORT) for miss in decision.near_misses[:16]],
        "policy_digest": decision.policy_digest,
        "mode": decision.mode,
        "detail": None if decision.detail is None else clean(decision.detail, _AGENT),
        "inputs": None,
    }


def _reduced(record: dict[str, Json]) -> dict[str, Json]:
    """The same record without captured content, so that its core fits; what was left out is counted and flagged."""
    small = dict(record)
    small["flags"] = [*record["flags"], "content_dropped"]
    small["request"] = {**record["request"], "body": None, "headers": {}}
    small["response"] = {**record["response"], "body": None}
    dropped = {}
    for name in ("extra", "impact"):
        dropped[name] = len(msgspec.json.encode(record[name]))
    small["extra"] = {"dropped_bytes": dropped}
    small["impact"] = None
    small["forwarded"] = {**record["forwarded"], "untrusted": []}
    return small


def _bare(record: dict[str, Json]) -> dict[str, Json]:
    """What is left where even that is too large, because a client or an identity filled everything with escapes."""
    bare = dict(record)
    bare["subject"] = {**record["subject"], "roles": record["subject"]["roles"][:8], "properties": {}}
    bare["resource"] = {**record["resource"], "properties": {}}
    if record["kind"] != "control":  # what the inputs rely on is cut as well
        bare["decision"] = {**record["decision"], "inputs": WITHHELD}
    bare["reason"] = None if record["reason"] is None else clean(record["reason"], _SHORT)
    path = record["request"]["path"]
    bare["request"] = {**record["request"], "path_params": {}, "query": None, "path": path and clean(path, _SHORT)}
    return bare

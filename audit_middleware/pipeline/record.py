"""Step 5: from facts to one canonical record. Redaction and truncation happen here, before anything is hashed.

Runs in the writer's thread, once per record. The shape is `audit_middleware.schema.Record`; a test validates what is
built here against it. Whatever a client sent is bounded text by the time it is in a record, and a record that is too
large for an entry loses captured content, never its core.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from ..context import Correlation, clean, few_texts, plain
from ..errors import RecordError
from ..ledger.canonical import encode, encode_built
from ..model import SCHEMA_VERSION, Decision, Json, Subject
from ..privacy.redact import Redactor
from .content import body_part, digest_of
from .custody import Custody
from .facts import Facts, Intent
from .fitting import Make, fitting
from .inputs import inputs_part
from .kept import Kept
from .offered import Headers, reason_of
from .statement import Statement, source_part

_PATH, _SHORT, _AGENT = 2048, 256, 512
_PROPERTIES = 4096
_BOUND = 8192  # of what is looked at for secrets, before it is cut to what is kept
_REMEMBERED = 256  # bytes of a user agent that is worth remembering
_NOT_FORWARDED: Mapping[str, Json] = {"untrusted": [], "header": None}


class Service(msgspec.Struct, frozen=True):
    """Which service writes. ``instance`` is one process: its ``sequence`` numbers are dense from 0."""

    name: str
    version: str | None
    instance: str
    environment: str | None


class _Caller(NamedTuple):
    """What records say of one caller."""

    user_id: str
    subject: dict[str, Json]
    source: dict[str, Json]


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
        self.custody: Custody | None = None  # of what a policy calls personal
        self._properties = properties
        # What most requests share is made once. Whoever changes a record replaces its parts, never what is in them.
        self._callers: Kept[Subject, _Caller] = Kept(self._caller, 64)
        self._decisions: Kept[Decision, dict[str, Json]] = Kept(_decision)
        self._known_agent: Callable[[bytes], str] = lru_cache(512)(self._agent)
        self._not_forwarded = redactor.value(_NOT_FORWARDED)
        self._second = (-1, "")
        self._moment = (-1, "")

    def encode(self, item: Facts | Intent | Statement, sequence: int, recorded_at_ns: int) -> bytes:
        """The entry for one item.

        Raises:
            RecordError: when even the bare record does not fit an entry.
            SubjectKeysError, MasterKeyError: something in it is personal, and no key is to be had.
        """
        made: Make = _encode_request
        if isinstance(item, Statement):
            record, made = self._statement(item, sequence, recorded_at_ns), encode
        elif isinstance(item, Intent):
            record = self._intent(item, sequence, recorded_at_ns)
        else:
            record = self._request(item, sequence, recorded_at_ns)
        if self.custody is None or (cover := self.custody.cover(item)) is None:
            return fitting(record, made)
        # Cut down before it is covered, never after: half of a sealed text opens for nobody.

        def covered(record: dict[str, Json]) -> bytes:
            return encode(cover(record))

        return fitting(record, covered, covered)

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
        notes, headers = facts.notes, facts.headers
        caller = self._caller_of(facts.subject)
        forwarded = facts.forwarded
        record: dict[str, Json] = {
            "schema_version": SCHEMA_VERSION,
            "action_id": notes.action_id,
            "timestamp": self.timestamp(facts.arrived_ns),
            "recorded_at": self._recorded_at(recorded_at_ns),
            "duration_us": max(0, facts.ended_ns - facts.started_ns) // 1000,
            "kind": "outcome",
            "intent_id": facts.intent_id,
            "sequence": sequence,
            "service": self._service,
            "action": facts.action.name if facts.action else None,
            "event": facts.event,
            "severity": facts.severity,
            "user_id": caller.user_id,
            "subject": caller.subject,
            "source": caller.source,
            "initiator_ip": facts.initiator_ip,
            "forwarded": (
                self._not_forwarded if not forwarded or forwarded == _NOT_FORWARDED else self.redactor.value(forwarded)
            ),
            "user_agent": self._user_agent(headers),
            "resource": self._resource(facts),
            "reason": self._text(notes.reason if notes.reason is not None else reason_of(headers)),
            "impact": self._impact(notes.impact),
            "decision": self._decisions.of(facts.decision),
            "outcome": facts.outcome,
            "request": self._request_part(facts, headers),
            "response": self._response_part(facts),
            "trace": self._trace(notes.correlation),
            "flags": [*facts.flags],
            "extra": self.redactor.value(notes.extra),
        }
        if facts.action is not None:
            inputs = inputs_part(facts, record, self.redactor)
            if inputs is not None:
                record["decision"] = {**record["decision"], "inputs": inputs}
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

    def _caller_of(self, subject: Subject) -> _Caller:
        changeable = type(subject.roles) is not tuple or (self._properties and subject.properties)
        return self._caller(subject) if changeable else self._callers.of(subject)

    def _caller(self, subject: Subject) -> _Caller:
        kept = {key: value for key, value in subject.properties.items() if key in self._properties}
        part = {
            "type": clean(subject.type, _SHORT),
            "roles": [clean(role, _SHORT) for role in subject.roles[:64]],
            "tenant": None if subject.tenant is None else clean(subject.tenant, _SHORT),
            "session": None if subject.session is None else clean(subject.session, _SHORT),
            "properties": self._bounded(kept, _PROPERTIES) if kept else {},
        }
        return _Caller(clean(subject.id, _SHORT), part, source_part(subject))

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

    def _request_part(self, facts: Facts, headers: Headers) -> dict[str, Json]:
        found, query = facts.found, facts.query
        params, shown = self._params(found.path_params) if found and found.path_params else ({}, {})
        body = body_part(facts.request_body, self.redactor)
        return {
            "protocol": facts.protocol,
            "method": clean(facts.method, 32),
            "route": found.template if found else None,
            "path": clean(self.redactor.path(facts.path, params), _PATH),
            "path_params": shown,
            "query": clean(self.redactor.query(query), _PATH) if query else None,
            "headers": self.redactor.headers(headers),
            "size": facts.request_size,
            "digest": digest_of(facts.request_body, body),
            "body": body,
        }

    def _params(self, params: Mapping[str, Any]) -> tuple[dict[str, Json], dict[str, Json]]:
        """Path parameters as JSON, and as they are shown."""
        texts = few_texts(params, _PATH)
        if texts is not None:
            shown = self.redactor.params(texts)
            return texts, shown if shown == texts else plain(shown, limit=_PATH)
        known = plain(params, limit=_BOUND)
        return known, self._bounded(known, _PATH)

    def _response_part(self, facts: Facts) -> dict[str, Json]:
        status = facts.status
        if status is None and facts.error is not None and facts.protocol == "http":
            status = 500  # no response.start came through: the server answered for the application
        return {
            "status": status,
            "size": facts.response_size,
            "error": None if facts.error is None else clean(facts.error, _SHORT),
            "body": body_part(facts.response_body, self.redactor),
        }

    def _bounded(self, value: object, limit: int) -> Any:
        """Any value as redacted JSON. Cut last: half of a secret no longer looks like one."""
        return plain(self.redactor.value(plain(value, limit=_BOUND)), limit=limit)

    def _user_agent(self, headers: Headers) -> str | None:
        for name, value in headers:
            if name == b"user-agent":
                return self._known_agent(value) if len(value) <= _REMEMBERED else self._agent(value)
        return None

    def _agent(self, value: bytes) -> str:
        return clean(self.redactor.text(clean(value, _BOUND)), _AGENT)

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

    def _recorded_at(self, ns: int) -> str:
        """`timestamp` of a moment that a whole batch shares."""
        if self._moment[0] != ns:
            self._moment = (ns, self.timestamp(ns))
        return self._moment[1]


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


def _encode_request(record: dict[str, Json]) -> bytes:
    """Foreign is what the application itself has put into the record of a request: its notes, and a status that is
    none. All else is text that was cleaned or read from routes and policy, was counted here, or is `plain`."""
    status = record["response"]["status"]
    odd = status is not None and not (type(status) is int and 0 <= status < 1000)
    foreign = record["resource"]["properties"], record["impact"], record["extra"], [status] if odd else None
    return encode_built(record, foreign)

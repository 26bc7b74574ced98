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
from msgspec import Raw

from ..context import Correlation, clean, few_texts, plain
from ..errors import RecordError
from ..ledger.canonical import encode, encode_built
from ..model import SCHEMA_VERSION, Decision, Json, Subject
from ..privacy.redact import Redactor
from .content import body_part, digest_of
from .custody import Custody
from .facts import Facts, Intent
from .fitting import fitting, reduced
from .inputs import inputs_part
from .kept import Kept
from .offered import REASON, Headers, reason_of
from .shape import Request, RequestRecord, Resource, Response, Trace, decided, raw, unfolded
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
    subject: Raw
    source: Raw
    told: dict[str, Json]  # what `subject` says
    altered: bool  # its roles or its type are not quite the caller's


class Recorder:
    """Makes canonical bytes of facts. Pure but for what it is given; safe to use from any one thread at a time."""

    def __init__(self, service: Service, redactor: Redactor, properties: frozenset[str] = frozenset()) -> None:
        self._service = {
            "name": service.name,
            "version": service.version,
            "instance": service.instance,
            "environment": service.environment,
        }
        self._raw_service = raw(self._service)
        self.custody: Custody | None = None  # of what a policy calls personal
        self._properties = properties
        # What most requests share is made once, and encoded.
        self._callers: Kept[Subject, _Caller] = Kept(self._caller, 64)
        self._decisions: Kept[Decision, Raw] = Kept(lambda one: raw(decided(one)))
        self._second = (-1, "")
        self._moment = (-1, "")
        self.redact_by(redactor)

    def redact_by(self, redactor: Redactor) -> None:
        """Takes this one from now on, from any thread: nothing is kept of what another one has let through."""
        self.redactor = redactor
        self._known_agent: Callable[[bytes], str] = lru_cache(512)(self._agent)
        self._not_forwarded = raw(redactor.value(_NOT_FORWARDED))

    def encode(self, item: Facts | Intent | Statement, sequence: int, recorded_at_ns: int) -> bytes:
        """The entry for one item.

        Raises:
            RecordError: when even the bare record does not fit an entry.
            SubjectKeysError, MasterKeyError: something in it is personal, and no key is to be had.
        """
        cover = None if self.custody is None else self.custody.cover(item)
        if isinstance(item, Statement):
            record = self._statement(item, sequence, recorded_at_ns)
        else:
            if isinstance(item, Intent):
                built = self._intent(item, sequence, recorded_at_ns)
            else:
                built = self._request(item, sequence, recorded_at_ns)
            if cover is None:
                try:
                    return _encode_request(built)
                except RecordError:
                    return reduced(unfolded(built), encode)
            record = unfolded(built)
        if cover is None:
            return fitting(record, encode)
        # Cut down before it is covered, never after: half of a sealed text opens for nobody.
        return fitting(record, lambda record: encode(cover(record)))

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

    def _request(self, facts: Facts, sequence: int, recorded_at_ns: int) -> RequestRecord:
        redactor, notes, headers = self.redactor, facts.notes, facts.headers
        action, status, forwarded = facts.action, facts.status, facts.forwarded
        caller = self._caller_of(facts.subject)
        given = facts.found.path_params if facts.found is not None else None
        params, shown = self._params(given) if given else ({}, {})
        secret = None if shown is params else given  # parameters whose values must not be seen elsewhere either
        duration_us = (facts.ended_ns - facts.started_ns) // 1000
        agent, reason = self._offered(headers)
        if notes.reason is not None:
            reason = notes.reason
        if status is None and facts.error is not None and facts.protocol == "http":
            status = 500  # no response.start came through: the server answered for the application
        record = RequestRecord(
            action.name if action is not None else None,
            notes.action_id,
            self._decisions.of(facts.decision),
            duration_us if duration_us > 0 else 0,
            facts.event,
            notes.extra and redactor.value(notes.extra),
            [*facts.flags],
            self._not_forwarded if not forwarded or forwarded == _NOT_FORWARDED else redactor.value(forwarded),
            None if notes.impact is None else self._impact(notes.impact),
            facts.initiator_ip,
            facts.intent_id,
            "outcome",
            facts.outcome,
            None if reason is None else redactor.value(reason),
            self._recorded_at(recorded_at_ns),
            self._request_part(facts, params, shown),
            self._resource(facts, secret),
            Response(
                None if facts.response_body is None else body_part(facts.response_body, redactor),
                None if facts.error is None else clean(facts.error, _SHORT),
                facts.response_size,
                status,
            ),
            SCHEMA_VERSION,
            sequence,
            self._raw_service,
            facts.severity,
            caller.source,
            caller.subject,
            self.timestamp(facts.arrived_ns),
            self._trace(notes.correlation),
            agent,
            caller.user_id,
        )
        if action is not None and (facts.inputs is not None or caller.altered):
            self._add_inputs(record, facts, caller)
        return record

    def _add_inputs(self, record: RequestRecord, facts: Facts, caller: _Caller) -> None:
        request = record.request
        told = {
            "user_id": caller.user_id,
            "subject": caller.told,
            "initiator_ip": record.initiator_ip,
            "timestamp": record.timestamp,
            "request": {"method": request.method, "route": request.route, "protocol": request.protocol},
            "reason": record.reason,
        }
        inputs = inputs_part(facts, told, self.redactor)
        if inputs is not None:
            record.decision = decided(facts.decision, inputs)

    def _intent(self, intent: Intent, sequence: int, recorded_at_ns: int) -> RequestRecord:
        """What is known before the handler runs: no outcome, no response, no duration."""
        record = self._request(intent.facts, sequence, recorded_at_ns)
        record.action_id, record.kind, record.intent_id = intent.action_id, "intent", None
        record.duration_us, record.outcome, record.response = None, None, Response()
        return record

    def _caller_of(self, subject: Subject) -> _Caller:
        changeable = type(subject.roles) is not tuple or (self._properties and subject.properties)
        return self._caller(subject) if changeable else self._callers.of(subject)

    def _caller(self, subject: Subject) -> _Caller:
        kept = {key: value for key, value in subject.properties.items() if key in self._properties}
        told: dict[str, Json] = {
            "type": clean(subject.type, _SHORT),
            "roles": [clean(role, _SHORT) for role in subject.roles[:64]],
            "tenant": None if subject.tenant is None else clean(subject.tenant, _SHORT),
            "session": None if subject.session is None else clean(subject.session, _SHORT),
            "properties": self._bounded(kept, _PROPERTIES) if kept else {},
        }
        altered = list(subject.roles) != told["roles"] or subject.type != told["type"]
        return _Caller(clean(subject.id, _SHORT), raw(told), raw(source_part(subject)), told, altered)

    def _resource(self, facts: Facts, secret: Mapping[str, Any] | None) -> Resource:
        noted = facts.notes.resource
        kind, name = facts.acts_on
        if noted:
            kind, name = noted.get("type", kind), noted.get("id", name)
        if name is not None:
            # Made of path parameters, so that a secret one is in it as well.
            name = clean(self.redactor.path(name, secret), _SHORT)
        properties = noted.get("properties", {})
        return Resource(
            name, properties and self.redactor.value(properties), None if kind is None else clean(kind, _SHORT)
        )

    def _impact(self, impact: Mapping[str, Json]) -> Json:
        return {
            "before": self.redactor.value(impact.get("before")),
            "after": self.redactor.value(impact.get("after")),
            "count": impact.get("count"),
        }

    def _request_part(self, facts: Facts, params: dict[str, Json], shown: dict[str, Json]) -> Request:
        redactor, found, captured = self.redactor, facts.found, facts.request_body
        body = None if captured is None else body_part(captured, redactor)
        return Request(
            body,
            None if captured is None else digest_of(captured, body),
            redactor.headers(facts.headers),
            clean(facts.method, 32),
            clean(redactor.path(facts.path, None if shown is params else params), _PATH),
            shown,
            facts.protocol,
            clean(redactor.query(facts.query), _PATH) if facts.query else None,
            found.template if found else None,
            facts.request_size,
        )

    def _params(self, params: Mapping[str, Any]) -> tuple[dict[str, Json], dict[str, Json]]:
        """Path parameters as JSON, and as they are shown: the same object if there is no secret among them."""
        texts = few_texts(params, _PATH)
        if texts is not None:
            shown = self.redactor.params(texts)
            return texts, shown if shown is texts else plain(shown, limit=_PATH)
        known = plain(params, limit=_BOUND)
        return known, self._bounded(known, _PATH)

    def _bounded(self, value: object, limit: int) -> Any:
        """Any value as redacted JSON. Cut last: half of a secret no longer looks like one."""
        return plain(self.redactor.value(plain(value, limit=_BOUND)), limit=limit)

    def _offered(self, headers: Headers) -> tuple[str | None, str | None]:
        """The user agent, and the reason that the request gives."""
        found = dict(headers)
        if len(found) != len(headers):  # one of them comes twice: of user agents the first counts, of reasons none
            found = dict(reversed(headers))
        agent, reason = found.get(b"user-agent"), None if found.get(REASON) is None else reason_of(headers)
        if agent is None:
            return None, reason
        return (self._known_agent if len(agent) <= _REMEMBERED else self._agent)(agent), reason

    def _agent(self, value: bytes) -> str:
        return clean(self.redactor.text(clean(value, _BOUND)), _AGENT)

    def _trace(self, correlation: Correlation) -> Trace:
        client_correlation_id, client_request_id = correlation.client_correlation_id, correlation.client_request_id
        return Trace(
            None if client_correlation_id is None else self.redactor.value(client_correlation_id),
            None if client_request_id is None else self.redactor.value(client_request_id),
            correlation.correlation_id,
            correlation.parent,
            correlation.request_id,
            correlation.span_id,
            correlation.trace_id,
        )

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
            "decision": unfolded(decided(Decision("not_applicable", "no_route"))),
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
        seconds = ns // 1_000_000_000
        if self._second[0] != seconds:
            self._second = (seconds, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)))
        return f"{self._second[1]}.{ns // 1000 % 1_000_000:06d}Z"

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


def _encode_request(record: RequestRecord) -> bytes:
    """Foreign is what the application itself has put into the record of a request: its notes, and a status that is
    none. All else is text that was cleaned or read from routes and policy, was counted here, or is `plain`."""
    status = record.response.status
    odd = status is not None and not (type(status) is int and 0 <= status < 1000)
    foreign = record.resource.properties, record.impact, record.extra, [status] if odd else None
    return encode_built(record, foreign, unfolded)

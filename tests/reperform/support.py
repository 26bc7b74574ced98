"""One decision through the real steps and into the bytes of a record, without an application."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from audit_middleware.evidence.policies import Archive
from audit_middleware.evidence.recorded import Recorded, decisions
from audit_middleware.evidence.reperform import Policies, Reperformance, Verdict, perform, reperform
from audit_middleware.identity.proxies import ClientAddress
from audit_middleware.model import Action, Decision, Found, Frame, Head, Resource, Subject
from audit_middleware.pipeline.arrive import arrive
from audit_middleware.pipeline.decide import context_of, decide
from audit_middleware.pipeline.facts import Facts, Resolved
from audit_middleware.pipeline.inputs import take
from audit_middleware.pipeline.record import Recorder, Service
from audit_middleware.policy.evaluate import Policy
from audit_middleware.privacy.redact import Redactor
from audit_middleware.stores.journal import JournalStore
from tests.kit import Log

AT = 1_772_443_799_999_999_999
"""2026-03-02T09:29:59.999999Z and a bit more: whoever rounds comes to another minute."""

_SERVICE = Service("test", None, "host:1:0", None)


def decided(
    policy: Policy,
    action: str,
    subject: Subject,
    resource: Resource,
    context: Mapping[str, Any],
    headers: Iterable[tuple[bytes, bytes]] = (),
    at: int = AT,
) -> Facts:
    """A request that was decided on, with what its decision read."""
    scope = {"type": "http", "method": "POST", "path": "/", "headers": list(headers), "client": ("127.0.0.1", 1)}
    facts = arrive(scope, lambda: at, ClientAddress([]), lambda notes, given: None)
    facts.found, facts.action = Found("route", "/", action=Action(action)), Action(action)
    facts.subject, facts.resource = subject, resource
    rule = policy.actions.get(action)
    asked = {**context_of(facts), **context}
    resolved = Resolved(facts.action, rule) if rule is not None else Resolved(facts.action, cause="unknown_action")
    facts.decision = decide(policy, resolved, subject, None, resource, asked, headers=facts.headers)
    if rule is not None and (rule.reading or rule.required):
        facts.inputs = take(rule, subject, resource, asked, facts.headers)
    facts.status = 200
    return facts


def written(facts: Facts, redactor: Redactor | None = None) -> bytes:
    """The entry, as the writer makes it."""
    return Recorder(_SERVICE, redactor or Redactor()).encode(facts, 0, AT + 1000)


def read_back(*entries: bytes) -> list[tuple[int, Recorded | None]]:
    """The decisions of a log of these entries."""
    return list(decisions([Frame(0, entries, Head(len(entries)))], 0, len(entries)))


def again(entry: bytes, *policies: Policy) -> Verdict | None:
    """The decision of one entry, made again."""
    documents = {policy.digest: policy.canonical for policy in policies}
    ((_, record),) = read_back(entry)
    assert record is not None
    return perform(record, Policies(documents.get))


def reperformed(log: Log) -> Reperformance:
    """Every decision of a log, made again with the policies in it."""
    store = JournalStore.open(log.path, writable=False)
    try:
        base, size = store.base.size, store.head().size
        archive = Archive(store, range(base, size))
        return reperform(decisions(store.frames(), base, size), Policies(archive.document))
    finally:
        store.close()


def summary(decision: Decision) -> tuple[Any, ...]:
    """What is compared of a decision."""
    return decision.effect, decision.cause, decision.rule, decision.mode

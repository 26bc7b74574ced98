"""Decisions whose inputs are covered are never taken for different ones; where a rule reads none of them, they hold."""

from __future__ import annotations

import pytest

from audit_middleware.evidence.control import statement
from audit_middleware.model import Resource, Subject
from audit_middleware.persons import Treatment
from audit_middleware.pipeline.custody import Custody
from audit_middleware.pipeline.record import Recorder, Service
from audit_middleware.policy.load import loads
from audit_middleware.privacy.redact import Redactor
from tests.kit import ORIGIN, MemoryKeys
from tests.reperform.support import AT, again, decided

POLICY = loads(
    """
version: 1
name: clinic
roles: {clerk: {}}
actions:
  note.list: {allow: [clerk]}
  note.read: {allow: [{name: own, roles: [clerk], when: {resource.owner: {same_as: subject.id}}}]}
  note.near: {allow: [{name: near, roles: [clerk], when: {context.ip: {in_cidr: [127.0.0.0/8]}}}]}
""",
    "clinic.yaml",
)
CLERK = Subject("alice", roles=("clerk",))


def entry(action: str, how: str, *paths: str) -> bytes:
    """The entry of a request of this action."""
    recorder = Recorder(Service("test", None, "host:1:0", None), Redactor())
    custody = recorder.custody = Custody(MemoryKeys, ORIGIN, lambda extra: statement("audit.subject_keys", extra=extra))
    personal = {path: Treatment(how) for path in paths}  # type: ignore[arg-type]  # of this test
    custody.declared = lambda name: personal
    facts = decided(POLICY, action, CLERK, Resource("note", "7", {"owner": "alice"}), {})
    facts.initiator_ip = "127.0.0.1"
    facts.decision = POLICY.evaluate(action, CLERK, facts.resource, {"ip": "127.0.0.1"})
    return recorder.encode(facts, 0, AT + 1000)


@pytest.mark.parametrize("how", ["token", "seal", "commit", "drop"])
def test_what_is_covered_is_not_known(how: str) -> None:
    def state(action: str, *paths: str) -> str:
        verdict = again(entry(action, how, *paths), POLICY)
        assert verdict is not None
        return verdict.state

    assert state("note.list", "user_id", "initiator_ip", "reason", "resource.id") == "same"
    assert state("note.read", "user_id") == state("note.read", "resource.properties") == "not re-performable"
    assert state("note.near", "user_id") == "same"
    assert state("note.near", "initiator_ip") == "not re-performable"
    assert state("note.list", "subject.roles") == "not re-performable"

"""The policy of DESIGN 5 as far as this version enforces it, and what the tests ask of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from textwrap import dedent
from typing import Any

import pytest

from audit_middleware.errors import PolicyError
from audit_middleware.model import Decision, Resource, Subject
from audit_middleware.policy import Policy, loads

BILLING = """\
version: 1
name: billing
default: deny
roles:
  viewer: {}
  clerk: {inherits: [viewer]}
  admin: {inherits: [clerk]}
  contractor: {}
actions:
  invoice.read:   {allow: [viewer], record: none}
  invoice.create: {allow: [clerk], deny: [contractor]}
  invoice.delete:
    event: INVOICE_DELETED
    severity: high
    record: request
    allow:
      - {name: owner-clerk, roles: [clerk], when: {resource.owner: {same_as: subject.id}}}
      - {name: admin, roles: [admin]}
    deny:
      - {name: guest-network, when: {context.ip: {in_cidr: [10.9.0.0/16]}}}
  static.read: {allow: [anyone], severity: info}
routes:
  - {match: 'GET /static/{path:path}', action: static.read}
  - {match: 'GET /healthz', exempt: 'liveness probe, touches no data', until: 2027-06-30}
redact: {keys: [password, token, authorization, 'card.*'], patterns: [card-number, email]}
"""

NOWHERE = Resource()


def subject(*roles: str, **properties: Any) -> Subject:
    """A caller with these roles."""
    return Subject(id="u-1", roles=roles, tenant="acme", properties=properties)


def problems(text: str, **options: Any) -> list[str]:
    """The findings about a policy that must not load, without the file's name."""
    with pytest.raises(PolicyError) as caught:
        loads(dedent(text), "p.yaml", **options)
    lines = str(caught.value).splitlines()
    assert all(line.startswith("p.yaml:") for line in lines)
    return [line.removeprefix("p.yaml:") for line in lines]


def one_rule(
    when: str, effect: str = "allow", predicates: Mapping[str, Callable[[Mapping[str, Any]], bool]] | None = None
) -> Policy:
    """A policy whose action ``a.b`` has one rule ``r`` for every caller under a condition."""
    other = "" if effect == "allow" else ", allow: [anyone]"
    rule = f"{{name: r, when: {when}}}"
    text = f"version: 1\nname: p\nactions:\n  a.b: {{{effect}: [{rule}]{other}}}\n"
    return loads(text, "p.yaml", predicates=predicates or {})


def decide(
    when: str,
    *,
    who: Mapping[str, Any] | None = None,
    what: Mapping[str, Any] | None = None,
    context: Mapping[str, Any] | None = None,
) -> Decision:
    """The decision of a single allow rule for a caller, a resource and a context with these properties."""
    caller = Subject(id="u-1", roles=("clerk", "auditor"), tenant="acme", properties=who or {})
    return one_rule(when).evaluate("a.b", caller, Resource("invoice", "7", what or {}), context or {})


def verdict(when: str, **request: Any) -> str:
    """``true``, ``false``, or the error's text without the rule's name."""
    decision = decide(when, **request)
    if decision.effect == "allow":
        return "true"
    if decision.cause == "default":
        return "false"
    assert (decision.cause, decision.rule) == ("error", "r")
    assert decision.detail is not None
    return decision.detail.removeprefix("r: ")

"""Step 3: allow or deny, before the handler runs. Pure: the same inputs give the same decision.

Order: what has no action needs no rule; who cannot be known is denied; then the policy; and what the log cannot take is
refused last, so that an outage of the log never hides what the policy says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from ..model import Decision, Refusal, Resource, Subject
from ..policy.evaluate import Policy
from .facts import Facts, Problem, Resolved

_UNAVAILABLE = Refusal(503, "Service Unavailable", {"retry-after": "5"})
_FORBIDDEN = Refusal(403, "Forbidden")


def decide(
    policy: Policy,
    resolved: Resolved,
    subject: Subject,
    problem: Problem | None,
    resource: Resource,
    context: Mapping[str, Any],
    *,
    log_available: bool = True,
) -> Decision:
    """The decision over one request under one policy."""
    decision = _by_policy(policy, resolved, subject, problem, resource, context)
    if decision.effect == "allow" and decision.cause != "exempt" and not log_available:
        return replace(decision, effect="deny", cause="log_unavailable", rule=None)
    return decision


def _by_policy(
    policy: Policy,
    resolved: Resolved,
    subject: Subject,
    problem: Problem | None,
    resource: Resource,
    context: Mapping[str, Any],
) -> Decision:
    cause = resolved.cause
    if cause == "no_route":
        return Decision("not_applicable", "no_route", policy_digest=policy.digest, mode=policy.mode)
    if cause == "exempt" or (cause == "unannotated" and policy.default == "allow"):
        return Decision("allow", cause, policy_digest=policy.digest, mode=policy.mode, detail=resolved.detail)
    if cause is not None:
        return Decision("deny", cause, policy_digest=policy.digest, mode=policy.mode, detail=resolved.detail)
    assert resolved.action is not None
    if problem in ("identity_unavailable", "identity_error"):
        mode = resolved.rule.mode if resolved.rule else policy.mode
        return Decision("deny", "error", policy_digest=policy.digest, mode=mode, detail=problem)
    return policy.evaluate(resolved.action.name, subject, resource, context)


def context_of(facts: Facts) -> dict[str, Any]:
    """AuthZEN ``context``: what conditions may ask of the request itself. Nothing in it is URL text."""
    return {
        "ip": facts.initiator_ip,
        "time": datetime.fromtimestamp(facts.arrived_ns / 1e9, UTC),
        "method": facts.method,
        "route": facts.found.template if facts.found else None,
        "protocol": facts.protocol,
    }


def mismatch(decision: Decision) -> Decision:
    """The decision once the router selected something else than what was decided on."""
    detail = "the router selected another endpoint than the one the decision was about"
    return replace(decision, effect="deny", cause="route_mismatch", rule=None, detail=detail)


def refusal(decision: Decision, subject: Subject, challenge: str) -> Refusal | None:
    """What the client is told: 401 when nobody is authenticated and that might help, 503 when the log or the identity
    provider is down, else 403. Nothing about the policy.

    ``challenge`` is the ``WWW-Authenticate`` value that RFC 9110 (11.6.1) wants with every 401.
    """
    if not decision.refused:
        return None
    if decision.cause == "log_unavailable" or decision.detail == "identity_unavailable":
        return _UNAVAILABLE
    if subject.anonymous and decision.cause in ("rule", "default", "requirement"):
        return Refusal(401, "Not authenticated", {"www-authenticate": challenge})
    return _FORBIDDEN

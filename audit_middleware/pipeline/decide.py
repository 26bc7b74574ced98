"""Step 3: allow or deny, before the handler runs. Pure: the same inputs give the same decision.

Order: a caller who is blocked is refused before anything else is asked (`held_against`); what has no action needs no
rule; who cannot be known is denied, and so is what a rule reads and cannot be had; then the policy's rules; then its
requirements, so that only those who may act learn what is missing; and what the log
cannot take is refused last, so that an outage of the log never hides what the policy says. Limits are counted after
that (`limit`): what is refused here uses none of them up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

from ..model import Decision, Resource, Subject
from ..policy.evaluate import Policy
from ..policy.requirements import about, demanded
from .blocks import Standing
from .facts import Facts, Problem, Resolved
from .offered import Headers, confirms, reason_of

_NO_HEADERS: Headers = ()
_NO_RESOURCE, _NO_CONTEXT = Resource(), MappingProxyType[str, Any]({})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def decide(
    policy: Policy,
    resolved: Resolved,
    subject: Subject,
    problem: Problem | None,
    resource: Resource,
    context: Mapping[str, Any],
    *,
    headers: Headers = _NO_HEADERS,
    failed: str | None = None,
    log_available: bool = True,
) -> Decision:
    """The decision over one request under one policy.

    ``headers`` are what the caller may meet requirements with; ``failed`` says why something that a rule reads could
    not be had.
    """
    decision = _by_policy(policy, resolved, subject, problem, failed, resource, context)
    rule = resolved.rule
    if rule is not None and rule.require is not None and decision.effect == "allow":
        decision = demanded(
            decision,
            rule.require,
            subject,
            reason=reason_of(headers),
            confirmed=confirms(headers, about(rule.name, resource)),
            now=context["time"].timestamp(),
        )
    if decision.effect == "allow" and decision.cause != "exempt" and not log_available:
        return without_log(decision)
    return decision


def decide_by_role(policy: Policy, resolved: Resolved, subject: Subject, problem: Problem | None) -> Decision | None:
    """What `decide` would say, where that follows from the caller's roles alone and the log takes records; else
    ``None``. Most requests are decided here: nothing of the request has to be gathered for it."""
    rule = resolved.rule
    if rule is None:
        return policy.no_route if resolved.cause == "no_route" else None
    if not rule.by_role or problem is not None:
        return None
    return rule.decide(subject, _NO_RESOURCE, _NO_CONTEXT)


def held_against(standing: Standing, policy: Policy, resolved: Resolved) -> Decision | None:
    """The decision about a caller who stands on the list of blocks; ``None`` where records are only flagged."""
    block = standing.block
    if block is None:
        return None
    until = (_EPOCH + timedelta(microseconds=block.until_ns // 1000)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Decision(
        "deny",
        "blocked",
        block.rule,
        policy_digest=policy.digest,
        mode=policy.mode if resolved.rule is None else resolved.rule.mode,
        detail=f"{block.why}, until {until}",
        retry_after=max(1, math.ceil(standing.left_s)),
    )


def without_log(decision: Decision) -> Decision:
    """The decision where the log cannot take the record that must be there."""
    return replace(decision, effect="deny", cause="log_unavailable", rule=None)


def _by_policy(
    policy: Policy,
    resolved: Resolved,
    subject: Subject,
    problem: Problem | None,
    failed: str | None,
    resource: Resource,
    context: Mapping[str, Any],
) -> Decision:
    cause = resolved.cause
    if cause == "no_route":
        return policy.no_route
    if cause == "exempt" or (cause == "unannotated" and policy.default == "allow"):
        return Decision("allow", cause, policy_digest=policy.digest, mode=policy.mode, detail=resolved.detail)
    if cause is not None:
        return Decision("deny", cause, policy_digest=policy.digest, mode=policy.mode, detail=resolved.detail)
    assert resolved.action is not None
    unknown = problem if problem in ("identity_unavailable", "identity_error") else failed
    if unknown is not None:
        mode = resolved.rule.mode if resolved.rule else policy.mode
        return Decision("deny", "error", policy_digest=policy.digest, mode=mode, detail=unknown)
    return policy.evaluate(resolved.action.name, subject, resource, context)


def announced(facts: Facts) -> bool:
    """Must an intent record be durable before this request, of an action with ``guarantee: before``, runs? Once,
    however many routers it passes; but once more where the first is not durable, or a middleware has led the request
    somewhere else."""
    return facts.announced != facts.aim and not facts.decision.refused


def context_of(facts: Facts) -> dict[str, Any]:
    """AuthZEN ``context``: what conditions may ask of the request itself. Nothing in it is URL text."""
    return {
        "ip": facts.initiator_ip,
        "time": _EPOCH + timedelta(microseconds=facts.arrived_ns // 1000),  # exactly what the record will say
        "method": facts.method,
        "route": facts.found.template if facts.found else None,
        "protocol": facts.protocol,
    }


def mismatch(decision: Decision) -> Decision:
    """The decision once the router selected something else than what was decided on."""
    detail = "the router selected another endpoint than the one the decision was about"
    return replace(decision, effect="deny", cause="route_mismatch", rule=None, detail=detail)
